/** Convolutions, pools and the like in double precision: everything that slides a window. */
import type { Node } from "../../../src/ir/graph.ts";
import { windowOf } from "../../../src/ops/gradients/conv.ts";
import { type Nd, type Reference, each, product } from "./arrays.ts";
import { convolution } from "../convolution-reference.ts";

const outputShape = (node: Node): readonly number[] => node.outputs[0]?.shape as readonly number[];

const activations: Readonly<Record<string, (x: number, alpha: number, beta: number) => number>> = {
  Relu: (x) => Math.max(0, x),
  LeakyRelu: (x, alpha) => (x > 0 ? x : alpha * x),
  Tanh: Math.tanh,
  Sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  Clip: (x, low, high) => Math.min(high, Math.max(low, x)),
  HardSigmoid: (x, alpha, beta) => Math.min(1, Math.max(0, alpha * x + beta)),
};

/** y[n,o,p] = b[o] + Σ w·x; a fused one adds z and applies its activation. */
const conv: Reference = (node, [x, w, bias, z]) => {
  const [image, kernel] = [x as Nd, w as Nd];
  const shape = outputShape(node);
  const { strides, dilations, begins, ends, group } = windowOf(
    node,
    kernel.shape.slice(2),
    image.shape.slice(2),
    shape.slice(2),
  );
  const inputs = bias ? [image.data, kernel.data, bias.data] : [image.data, kernel.data];
  const options = { strides, dilations, pads: [...begins, ...ends], group };
  const y = convolution(inputs, image.shape, kernel.shape, options);
  const activate = activations[node.string("activation") ?? ""];
  const [alpha = 0, beta = 0] = node.floats("activation_params") ?? [];
  return [{ shape, data: y.map((value, i) => (activate ?? ((v) => v))(value + (z?.data[i] ?? 0), alpha, beta)) }];
};

/** y[n,g·O+o,p·s + k·d − begin] += x[n,i,p]·w[i,o,k] */
const convTranspose: Reference = (node, [x, w, bias]) => {
  const [image, kernel] = [x as Nd, w as Nd];
  const shape = outputShape(node);
  const spatial = shape.slice(2);
  const ones = spatial.map(() => 1);
  const [strides, dilations] = [node.ints("strides") ?? ones, node.ints("dilations") ?? ones];
  const group = node.int("group", 1);
  const [channels = 1, outputs = 1] = [image.shape[1], kernel.shape[1]];
  const autoPad = node.string("auto_pad") ?? "NOTSET";
  const begins = spatial.map((size, i) => {
    const target = autoPad.startsWith("SAME") ? (image.shape[i + 2] ?? 0) * (strides[i] ?? 1) : size;
    if (!autoPad.startsWith("SAME") && !node.ints("output_shape")) return node.ints("pads")?.[i] ?? 0;
    const reach =
      ((image.shape[i + 2] ?? 0) - 1) * (strides[i] ?? 1) + ((kernel.shape[i + 2] ?? 0) - 1) * (dilations[i] ?? 1) + 1;
    const total = Math.max(
      0,
      reach + (node.ints("output_padding")?.[i] ?? 0) - (node.ints("output_shape") ? size : target),
    );
    return autoPad === "SAME_UPPER" ? Math.floor(total / 2) : total - Math.floor(total / 2);
  });
  const data = new Float64Array(product(shape));
  each(shape, (at, flat) => {
    data[flat] = bias?.data[at[1] ?? 0] ?? 0;
  });
  each(image.shape, ([n = 0, i = 0, ...p], from) => {
    const first = Math.floor(i / (channels / group)) * outputs;
    each([outputs, ...kernel.shape.slice(2)], ([o = 0, ...k], tap) => {
      let flat = n * (shape[1] ?? 1) + first + o;
      for (const [axis, size] of spatial.entries()) {
        const q = (p[axis] ?? 0) * (strides[axis] ?? 1) + (k[axis] ?? 0) * (dilations[axis] ?? 1) - (begins[axis] ?? 0);
        if (q < 0 || q >= size) return;
        flat = flat * size + q;
      }
      const weight = kernel.data[i * outputs * product(kernel.shape.slice(2)) + tap] ?? 0;
      data[flat] = (data[flat] ?? 0) + (image.data[from] ?? 0) * weight;
    });
  });
  return [{ shape, data }];
};

/** For each output, `combine` of the elements inside its window and the number of taps inside the padded image. */
function pooling(combine: (values: readonly number[], taps: number, node: Node) => number): Reference {
  return (node, [x]) => {
    const { shape: from, data } = x as Nd;
    const shape = outputShape(node);
    const kernel = node.ints("kernel_shape") ?? [];
    const inside = from.slice(2);
    const { strides, dilations, begins, ends } = windowOf(node, kernel, inside, shape.slice(2));
    const y = new Float64Array(product(shape));
    each(shape, ([n = 0, channel = 0, ...p], at) => {
      const values: number[] = [];
      let taps = 0;
      each(kernel, (k) => {
        let flat = n * (from[1] ?? 1) + channel;
        let [real, padded] = [true, true];
        for (const [axis, size] of inside.entries()) {
          const begin = begins[axis] ?? 0;
          const q = (p[axis] ?? 0) * (strides[axis] ?? 1) + (k[axis] ?? 0) * (dilations[axis] ?? 1) - begin;
          real &&= q >= 0 && q < size;
          padded &&= q >= -begin && q < size + (ends[axis] ?? 0);
          flat = flat * size + q;
        }
        if (padded) taps++;
        if (real) values.push(data[flat] ?? 0);
      });
      y[at] = combine(values, taps, node);
    });
    return [{ shape, data: y }];
  };
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const norm = (values: readonly number[], p: number): number => sum(values.map((x) => Math.abs(x) ** p)) ** (1 / p);

/** A number for each channel of each sample. */
function whole(combine: (values: readonly number[], node: Node) => number): Reference {
  return (node, [x]) => {
    const { shape, data } = x as Nd;
    const area = product(shape.slice(2));
    const count = product(shape.slice(0, 2));
    const y = Float64Array.from({ length: count }, (_, i) =>
      combine(Array.from(data.subarray(i * area, (i + 1) * area)), node),
    );
    return [{ shape: [...shape.slice(0, 2), ...shape.slice(2).map(() => 1)], data: y }];
  };
}

export const WINDOW_REFERENCES: Readonly<Record<string, Reference>> = {
  Conv: conv,
  "com.microsoft::FusedConv": conv,
  ConvTranspose: convTranspose,
  AveragePool: pooling((values, taps, node) => sum(values) / (node.int("count_include_pad", 0) ? taps : values.length)),
  MaxPool: pooling((values) => Math.max(...values)),
  LpPool: pooling((values, _, node) => norm(values, node.int("p", 2))),
  GlobalAveragePool: whole((values) => sum(values) / values.length),
  GlobalMaxPool: whole((values) => Math.max(...values)),
  GlobalLpPool: whole((values, node) => norm(values, node.int("p", 2))),
  MaxUnpool: (node, [x, indices]) => {
    const shape = outputShape(node);
    const data = new Float64Array(product(shape));
    for (const [i, at] of (indices as Nd).data.entries()) data[at] = (x as Nd).data[i] ?? 0;
    return [{ shape, data }];
  },
};
