/** Normalizations in double precision. */
import type { Node } from "../../../src/ir/graph.ts";
import { type Nd, type Reference, broadcastAt, each, groups, product } from "./arrays.ts";

const from = (first: number, rank: number): number[] => Array.from({ length: rank - first }, (_, i) => first + i);
const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** (x − μ)/√(var + ε) over some axes; without centring x/√(mean x² + ε). */
function standardized({ shape, data }: Nd, axes: readonly number[], epsilon: number, centred = true): Nd {
  const y = new Float64Array(data.length);
  for (const positions of groups(shape, axes)) {
    const values = positions.map((at) => data[at] ?? 0);
    const middle = centred ? mean(values) : 0;
    const deviation = Math.sqrt(mean(values.map((x) => (x - middle) ** 2)) + epsilon);
    for (const at of positions) y[at] = ((data[at] ?? 0) - middle) / deviation;
  }
  return { shape, data: y };
}

/** s·z + b, both broadcast against z. */
function affine(z: Nd, s: Nd | undefined, b: Nd | undefined): Nd {
  const y = new Float64Array(z.data.length);
  each(z.shape, (at, flat) => {
    y[flat] = (z.data[flat] ?? 0) * (s ? broadcastAt(s, at) : 1) + (b ? broadcastAt(b, at) : 0);
  });
  return { shape: z.shape, data: y };
}

/** One number per channel as an array that broadcasts against (n, c, *s). */
const column = (x: Nd | undefined, rank: number): Nd | undefined =>
  x && { shape: [x.data.length, ...from(2, rank).map(() => 1)], data: x.data };

/** The float32 that an attribute stores. */
const epsilonOf = (node: Node, fallback = 1e-5): number => Math.fround(node.float("epsilon", fallback));

const layer =
  (centred: boolean): Reference =>
  (node, [x, s, b]) => {
    const rank = (x as Nd).shape.length;
    const axis = node.int("axis", -1);
    return [affine(standardized(x as Nd, from(axis < 0 ? axis + rank : axis, rank), epsilonOf(node), centred), s, b)];
  };

const skip =
  (centred: boolean): Reference =>
  (node, [x, other, s, b, c]) => {
    const { shape, data } = x as Nd;
    const [beta, bias] = centred ? [b, c] : [undefined, b];
    const sum = new Float64Array(data.length);
    each(shape, (at, flat) => {
      sum[flat] = (data[flat] ?? 0) + broadcastAt(other as Nd, at) + (bias ? broadcastAt(bias, at) : 0);
    });
    const total = { shape, data: sum };
    const nothing = { shape: [], data: new Float64Array(0) };
    const y = affine(standardized(total, [shape.length - 1], epsilonOf(node, 1e-12), centred), s, beta);
    return [y, nothing, nothing, total];
  };

export const NORMALIZATION_REFERENCES: Readonly<Record<string, Reference>> = {
  LayerNormalization: layer(true),
  RMSNormalization: layer(false),
  SimplifiedLayerNormalization: layer(false),
  "com.microsoft::SkipLayerNormalization": skip(true),
  "com.microsoft::SkipSimplifiedLayerNormalization": skip(false),
  InstanceNormalization: (node, [x, s, b]) => {
    const rank = (x as Nd).shape.length;
    return [affine(standardized(x as Nd, from(2, rank), epsilonOf(node)), column(s, rank), column(b, rank))];
  },
  GroupNormalization: (node, [x, s, b], opset) => {
    const { shape, data } = x as Nd;
    const count = node.int("num_groups", 1);
    const rows = { shape: [shape[0] ?? 1, count, data.length / (shape[0] ?? 1) / count], data };
    const z = standardized(rows, [2], epsilonOf(node));
    if (opset < 21) return [{ shape, data: affine(z, column(s, 3), column(b, 3)).data }];
    return [affine({ shape, data: z.data }, column(s, shape.length), column(b, shape.length))];
  },
  BatchNormalization: (node, inputs) => {
    const [x, s, b, oldMean, oldVariance] = inputs as Nd[];
    const { shape, data } = x as Nd;
    const rank = shape.length;
    const others = from(0, rank).filter((axis) => axis !== 1);
    const members = groups(shape, others);
    const training = node.int("training_mode", 0) !== 0;
    const own = members.map((positions) => mean(positions.map((at) => data[at] ?? 0)));
    const variance = members.map((positions, i) => mean(positions.map((at) => ((data[at] ?? 0) - (own[i] ?? 0)) ** 2)));
    const usedMean = training ? Float64Array.from(own) : (oldMean as Nd).data;
    const usedVariance = training ? Float64Array.from(variance) : (oldVariance as Nd).data;
    const z = new Float64Array(data.length);
    for (const [i, positions] of members.entries())
      for (const at of positions)
        z[at] = ((data[at] ?? 0) - (usedMean[i] ?? 0)) / Math.sqrt((usedVariance[i] ?? 0) + epsilonOf(node));
    const y = affine({ shape, data: z }, column(s, rank), column(b, rank));
    const momentum = Math.fround(node.float("momentum", 0.9));
    const running = (old: Nd, now: Float64Array): Nd => ({
      shape: old.shape,
      data: old.data.map((value, i) => momentum * value + (1 - momentum) * (now[i] ?? 0)),
    });
    return [y, running(oldMean as Nd, usedMean), running(oldVariance as Nd, usedVariance)];
  },
  MeanVarianceNormalization: (node, [x]) => {
    const rank = (x as Nd).shape.length;
    const axes = (node.ints("axes") ?? [0, 2, 3]).map((axis) => (axis < 0 ? axis + rank : axis));
    return [standardized(x as Nd, axes, 0)];
  },
  LpNormalization: (node, [x]) => {
    const { shape, data } = x as Nd;
    const axis = node.int("axis", -1);
    const p = node.int("p", 2);
    const y = new Float64Array(data.length);
    for (const positions of groups(shape, [axis < 0 ? axis + shape.length : axis])) {
      const norm = positions.reduce((sum, at) => sum + Math.abs(data[at] ?? 0) ** p, 0) ** (1 / p);
      for (const at of positions) y[at] = norm === 0 ? 0 : (data[at] ?? 0) / norm;
    }
    return [{ shape, data: y }];
  },
  LRN: (node, [x]) => {
    const { shape, data } = x as Nd;
    const [n = 1, channels = 1] = shape;
    const area = product(shape.slice(2));
    const size = node.int("size", 1);
    const [alpha, beta] = [node.float("alpha", 1e-4), node.float("beta", 0.75)].map(Math.fround) as [number, number];
    const before = Math.floor((size - 1) / 2);
    const y = new Float64Array(data.length);
    each([n, channels, area], ([i = 0, channel = 0, at = 0], flat) => {
      let energy = 0;
      const end = Math.min(channels - 1, channel + size - 1 - before);
      for (let near = Math.max(0, channel - before); near <= end; near++)
        energy += (data[(i * channels + near) * area + at] ?? 0) ** 2;
      y[flat] = (data[flat] ?? 0) / (Math.fround(node.float("bias", 1)) + (alpha / size) * energy) ** beta;
    });
    return [{ shape, data: y }];
  },
};
