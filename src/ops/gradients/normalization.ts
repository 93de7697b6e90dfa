/** Gradients of normalizations over groups of axes: batch, instance, group, layer, RMS, mean-variance; and of the fused skip forms. */
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import {
  add,
  axisOf,
  div,
  expandLike,
  ints,
  mul,
  neg,
  outputOf,
  rankOf,
  reduceMean,
  reduceSum,
  reshape,
  reshapeLike,
  scalar,
  scale,
  sizeOf,
  sub,
  sumTo,
} from "./words.ts";

/** All axes of a rank from `first` on. */
const axesFrom = (first: number, rank: number): number[] => Array.from({ length: rank - first }, (_, i) => first + i);

/** Per-channel values as a shape that broadcasts against (n, c, *s). */
function perChannel(c: GradContext, value: Value, rank: number): Value {
  return reshape(c, value, [-1, ...Array.from({ length: rank - 2 }, () => 1)]);
}

/** r = 1/√(var + ε). */
function inverseDeviation(c: GradContext, variance: Value, dtype: Value["dtype"], epsilon = 1e-5): Value {
  const shifted = add(c, variance, scalar(c, dtype, c.node.float("epsilon", epsilon)));
  return c.b.op("Reciprocal", [c.b.op("Sqrt", [shifted])]);
}

// y = s·(x − μ)·r + b, r = 1/√(v + ε), sums over all axes but the channels:
// ∂b = Σ g; ∂s = r·(Σ g·x − μ·Σ g); with given statistics ∂x = s·r·g, ∂μ = −s·r·Σ g, ∂v = −½·s·r²·∂s
// with the batch's own statistics over m elements ∂x = s·r·(g − ∂b/m − (x − μ)·r·∂s/m) (Ioffe and Szegedy 2015)
// running statistics μ' = k·μ₀ + (1 − k)·μ, v' = k·v₀ + (1 − k)·v: ∂μ₀ = k·∂μ', ∂v₀ = k·∂v',
// ∂x += (1 − k)/m·∂μ' + 2·(1 − k)/m·(x − μ)·∂v'
export const batchNormGrad: Grad = (c) => {
  const { node } = c;
  const [x, s, , mean, variance] = node.inputs as readonly Value[] as readonly [Value, Value, Value, Value, Value];
  const g = c.outputGrad(0);
  const rank = rankOf(node, x);
  const axes = axesFrom(0, rank).filter((axis) => axis !== 1);
  const training = node.int("training_mode", 0) !== 0;
  const running = training ? runningGrad(c, rank, axes) : [];
  if (!g) return running;
  const used = training ? batchStatistics(c, rank, axes) : { mean, variance };
  const mu = used.mean;
  const r = inverseDeviation(c, used.variance, x.dtype);
  const needsScale = (training && c.wants(0)) || c.wants(1) || c.wants(4);
  const dB = needsScale || c.wants(2) || c.wants(3) ? reduceSum(c, g, axes, false) : undefined; // (c)
  const dS = needsScale && dB ? mul(c, r, sub(c, reduceSum(c, mul(c, g, x), axes, false), mul(c, mu, dB))) : undefined;
  const a = mul(c, s, r); // (c)
  let dX: Value | undefined;
  if (c.wants(0)) {
    dX = mul(c, g, perChannel(c, a, rank));
    if (training && dB && dS) {
      // ∂x = a·g + p·x + q with p = −a·r·∂s/m, q = −a·∂b/m − p·μ
      const p = neg(c, mul(c, mul(c, a, r), perElement(c, dS, x, rank)));
      const q = neg(c, add(c, mul(c, a, perElement(c, dB, x, rank)), mul(c, p, mu)));
      dX = add(c, dX, add(c, mul(c, x, perChannel(c, p, rank)), perChannel(c, q, rank)));
    }
    if (running[0]) dX = add(c, dX, running[0]);
  }
  return [
    dX,
    c.wants(1) ? dS : undefined,
    c.wants(2) ? dB : undefined,
    training ? running[3] : dB && c.wants(3) ? neg(c, mul(c, a, dB)) : undefined,
    training ? running[4] : dS && c.wants(4) ? scale(c, mul(c, mul(c, a, r), dS), -0.5, x.dtype) : undefined,
  ];
};

/** What flows back through the running statistics of training, by input. */
function runningGrad(c: GradContext, rank: number, axes: readonly number[]): (Value | undefined)[] {
  const x = c.node.inputs[0] as Value;
  const [gMean, gVariance] = [c.outputGrad(1), c.outputGrad(2)];
  const momentum = c.node.float("momentum", 0.9);
  const share = (g: Value, factor: number): Value => scale(c, perElement(c, g, x, rank), factor, x.dtype);
  let dX: Value | undefined;
  if (c.wants(0) && gMean) dX = expandLike(c, perChannel(c, share(gMean, 1 - momentum), rank), x);
  if (c.wants(0) && gVariance) {
    const centred = sub(c, x, perChannel(c, batchStatistics(c, rank, axes).mean, rank));
    const part = mul(c, centred, perChannel(c, share(gVariance, 2 * (1 - momentum)), rank));
    dX = dX ? add(c, dX, part) : part;
  }
  return [
    dX,
    undefined,
    undefined,
    gMean && c.wants(3) ? scale(c, gMean, momentum, x.dtype) : undefined,
    gVariance && c.wants(4) ? scale(c, gVariance, momentum, x.dtype) : undefined,
  ];
}

/**
 * Mean and variance of the batch. With momentum 0 they are what the node gives out; otherwise they are computed again,
 * since ONNX Runtime writes the updated running statistics over the old ones, from which they cannot be told any more.
 */
function batchStatistics(c: GradContext, rank: number, axes: readonly number[]): { mean: Value; variance: Value } {
  const [x, , , mean, variance] = c.node.inputs as readonly Value[] as readonly [Value, Value, Value, Value, Value];
  if (c.node.float("momentum", 0.9) === 0)
    return {
      mean: outputOf(c.node, 1, mean.dtype, mean.shape),
      variance: outputOf(c.node, 2, variance.dtype, variance.shape),
    };
  const mu = reduceMean(c, x, axes, false);
  const centred = sub(c, x, perChannel(c, mu, rank));
  return { mean: mu, variance: reduceMean(c, mul(c, centred, centred), axes, false) };
}

/** value/m, m = the number of elements per channel. */
function perElement(c: GradContext, value: Value, x: Value, rank: number): Value {
  const sizes = Array.from({ length: rank }, (_, axis) => (axis === 1 ? 1 : x.shape?.[axis]));
  if (sizes.every((size) => typeof size === "number"))
    return scale(c, value, 1 / (sizes as number[]).reduce((n, size) => n * size, 1), x.dtype);
  return div(c, value, div(c, sizeOf(c, x, x.dtype), sizeOf(c, c.node.inputs[1] as Value, x.dtype)));
}

/** Standardized values and what they were divided by: z = (x − μ)·r; without centring z = x·r. */
interface Standardized {
  readonly z: Value;
  readonly r: Value;
  readonly axes: readonly number[];
  readonly centred: boolean;
}

/** z of x over some axes, r = 1/√(mean (x − μ)² + ε). */
function standardize(
  c: GradContext,
  x: Value,
  axes: readonly number[],
  centred: boolean,
  epsilon = 1e-5,
  dtype: Value["dtype"] = x.dtype,
): Standardized {
  const middle = centred ? sub(c, x, reduceMean(c, x, axes, true)) : x;
  const r = inverseDeviation(c, reduceMean(c, mul(c, middle, middle), axes, true), dtype, epsilon);
  return { z: mul(c, middle, r), r, axes, centred };
}

// z = (x − mean x)·r: ∂x = r·(h − mean h − z·mean(h·z)), h = ∂z; without centring ∂x = r·(h − z·mean(h·z))
function standardizedGrad(c: GradContext, { z, r, axes, centred }: Standardized, h: Value): Value {
  const along = mul(c, z, reduceMean(c, mul(c, h, z), axes, true));
  const rest = centred ? sub(c, h, reduceMean(c, h, axes, true)) : h;
  return mul(c, r, sub(c, rest, along));
}

/** The gradients of y = s·z + b over the last axes: of x, s and b, where wanted. `g` has x's shape. */
function affineGrad(
  c: GradContext,
  g: Value,
  from: Value,
  standardized: Standardized,
  [s, b]: readonly (Value | undefined)[],
  wanted: readonly [x: boolean, s: boolean, b: boolean],
): (Value | undefined)[] {
  return [
    wanted[0] ? standardizedGrad(c, standardized, s ? mul(c, g, s) : g) : undefined,
    s && wanted[1] ? sumTo(c, mul(c, g, standardized.z), from.shape, s) : undefined,
    b && wanted[2] ? sumTo(c, g, from.shape, b) : undefined,
  ];
}

/** z of LayerNormalization: its own mean and inverse deviation are used where they have x's type. */
function layerStandardized(c: GradContext, x: Value, axes: readonly number[]): Standardized {
  if (x.dtype !== "float32") return standardize(c, x, axes, true);
  const reduced = x.shape?.map((size, axis) => (axes.includes(axis) ? 1 : size));
  const mean = outputOf(c.node, 1, "float32", reduced);
  const r = outputOf(c.node, 2, "float32", reduced);
  return { z: mul(c, sub(c, x, mean), r), r, axes, centred: true };
}

// y = s·z + b, z = (x − μ)·r over the axes from `axis` on: ∂s = Σ g·z, ∂b = Σ g, ∂x as for z (Ba, Kiros and Hinton 2016)
export const layerNormGrad: Grad = (c) => {
  const [x, s, b] = c.node.inputs as readonly [Value, Value | undefined, Value | undefined];
  const rank = rankOf(c.node, x);
  const axes = axesFrom(axisOf(c.node.int("axis", -1), rank), rank);
  return affineGrad(c, firstFlow(c), x, layerStandardized(c, x, axes), [s, b], [c.wants(0), c.wants(1), c.wants(2)]);
};

// y = s·z, z = x/√(mean x² + ε) (Zhang and Sennrich 2019)
export const rmsNormGrad: Grad = (c) => {
  const [x, s] = c.node.inputs as readonly [Value, Value | undefined];
  const rank = rankOf(c.node, x);
  const axes = axesFrom(axisOf(c.node.int("axis", -1), rank), rank);
  return affineGrad(c, firstFlow(c), x, standardize(c, x, axes, false), [s], [c.wants(0), c.wants(1), false]);
};

/** The gradient of output 0, where nothing may flow into the statistics that a node also gives out. */
function firstFlow(c: GradContext): Value {
  return requireFirstOnly(c, c.outputGrad(0), 1);
}

function requireFirstOnly(c: GradContext, g: Value | undefined, statistics: number): Value {
  const { node } = c;
  const used = node.outputs.findIndex((_, i) => i >= statistics && i < 3 && c.outputGrad(i) !== undefined);
  if (g && used < 0) return g;
  throw new PareError("not-differentiable", `The statistics that ${node.opType} gives out have no gradient`, {
    where: `value '${node.outputs[Math.max(used, 0)]?.name ?? ""}', node '${node.name}'`,
    help: "Compute them by ReduceMean where a loss depends on them",
  });
}

// t = x + skip + bias, y = s·z(t) + b: ∂x = ∂t, ∂skip and ∂bias are sums of ∂t; t is output 3 and may have a gradient of its own
function skipGrad(c: GradContext, centred: boolean): readonly (Value | undefined)[] {
  const { node } = c;
  const [x, skip] = node.inputs as readonly [Value, Value];
  const [s, b, bias] = centred ? node.inputs.slice(2) : [node.inputs[2], undefined, node.inputs[3]];
  const biasInput = centred ? 4 : 3;
  const last = rankOf(node, x) - 1;
  const t = outputOf(node, 3, x.dtype, x.shape);
  const direct = c.outputGrad(3);
  const wantsSum = c.wants(0) || c.wants(1) || c.wants(biasInput);
  let parts: (Value | undefined)[] = [];
  if (c.outputGrad(0) || !direct) {
    const g = requireFirstOnly(c, c.outputGrad(0), 1);
    // The engine adds 10⁻¹² where no ε is given.
    const standardized = standardize(c, t, [last], centred, 1e-12, x.dtype);
    parts = affineGrad(c, g, x, standardized, [s, b], [wantsSum, c.wants(2), centred && c.wants(3)]);
  }
  const own = parts[0];
  const dT = own && direct ? add(c, own, direct) : (own ?? direct);
  const dBias = dT && bias && c.wants(biasInput) ? sumTo(c, dT, x.shape, bias) : undefined;
  return [
    c.wants(0) ? dT : undefined,
    dT && c.wants(1) ? sumTo(c, dT, x.shape, skip) : undefined,
    parts[1],
    centred ? parts[2] : dBias,
    dBias,
  ];
}

export const skipLayerNormGrad: Grad = (c) => skipGrad(c, true);
export const skipRmsNormGrad: Grad = (c) => skipGrad(c, false).slice(0, 4);

// y = s·z + b per channel, z over the image axes: ∂s = Σ g·z, ∂b = Σ g over batch and image (Ulyanov, Vedaldi and Lempitsky 2016)
export const instanceNormGrad: Grad = (c) => {
  const [x, s] = c.node.inputs as readonly [Value, Value];
  const rank = rankOf(c.node, x);
  const standardized = standardize(c, x, axesFrom(2, rank), true);
  return channelAffine(c, x, s, standardized.z, (h) => standardizedGrad(c, standardized, h));
};

/** The gradients of y = s·z + b with one s and b for each channel; `back` gives ∂x from ∂z. */
function channelAffine(
  c: GradContext,
  x: Value,
  s: Value,
  z: Value,
  back: (h: Value) => Value,
): readonly (Value | undefined)[] {
  const g = c.outputGrad(0) as Value;
  const rank = rankOf(c.node, x);
  const others = axesFrom(0, rank).filter((axis) => axis !== 1);
  return [
    c.wants(0) ? back(mul(c, g, perChannel(c, s, rank))) : undefined,
    c.wants(1) ? reduceSum(c, mul(c, g, z), others, false) : undefined,
    c.wants(2) ? reduceSum(c, g, others, false) : undefined,
  ];
}

// z over the channels of each group and the image; s and b per channel, before opset 21 per group (Wu and He 2018)
export const groupNormGrad: Grad = (c) => {
  const [x, s] = c.node.inputs as readonly [Value, Value];
  const groups = c.node.int("num_groups", 1);
  const rows = (value: Value): Value => c.b.op("Reshape", [value, ints(c, [0, groups, -1])]); // (n, groups, c/groups·s)
  const standardized = standardize(c, rows(x), [2], true, 1e-5, x.dtype);
  if (c.opset >= 21)
    return channelAffine(c, x, s, reshapeLike(c, standardized.z, x), (h) =>
      reshapeLike(c, standardizedGrad(c, standardized, rows(h)), x),
    );
  const g = rows(c.outputGrad(0) as Value);
  return [
    c.wants(0) ? reshapeLike(c, standardizedGrad(c, standardized, mul(c, g, reshape(c, s, [-1, 1]))), x) : undefined,
    c.wants(1) ? reduceSum(c, mul(c, g, standardized.z), [0, 2], false) : undefined,
    c.wants(2) ? reduceSum(c, g, [0, 2], false) : undefined,
  ];
};

/** Added by the engine to the deviation itself. */
const MEAN_VARIANCE_EPSILON = 1e-9;

// y = (x − μ)/(σ + ε), ε = 10⁻⁹
export const meanVarianceGrad: Grad = (c) => {
  const x = c.node.inputs[0] as Value;
  const rank = rankOf(c.node, x);
  const axes = (c.node.ints("axes") ?? [0, 2, 3]).map((axis) => axisOf(axis, rank));
  const middle = sub(c, x, reduceMean(c, x, axes, true));
  const deviation = c.b.op("Sqrt", [reduceMean(c, mul(c, middle, middle), axes, true)]);
  const r = c.b.op("Reciprocal", [add(c, deviation, scalar(c, x.dtype, MEAN_VARIANCE_EPSILON))]);
  return [standardizedGrad(c, { z: mul(c, middle, r), r, axes, centred: true }, c.outputGrad(0) as Value)];
};
