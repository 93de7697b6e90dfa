/** Gradients of MaxPool, AveragePool, GlobalAveragePool and GlobalMaxPool. */
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Grad, GradContext } from "../spec.ts";
import { windowOf } from "./conv.ts";
import {
  concreteShape,
  div,
  expandLike,
  indicator,
  ints,
  mul,
  outputOf,
  pad,
  rankOf,
  reduceSum,
  reshape,
  scale,
  shapeVector,
  slice,
} from "./words.ts";

const input = (c: GradContext): Value => c.node.inputs[0] as Value;
const flow = (c: GradContext): Value => c.outputGrad(0) as Value;

// y = x[i], i = the position of each window's (first) maximum: ∂x[i] += g
export const maxPoolGrad: Grad = (c) => {
  const x = input(c);
  if (c.opset < 11 || c.node.int("storage_order", 0) !== 0)
    throw new PareError("unsupported", "The gradient of MaxPool needs opset 11 and row-major indices", {
      where: `node '${c.node.name}' (MaxPool)`,
      help: "Convert the model to a newer opset",
    });
  const indices = outputOf(c.node, 1, "int64", c.node.outputs[0]?.shape);
  const kernel = c.node.ints("kernel_shape") ?? [];
  const strides = c.node.ints("strides") ?? kernel.map(() => 1);
  const dilations = c.node.ints("dilations") ?? kernel.map(() => 1);
  const disjoint = kernel.every((k, i) => (strides[i] ?? 1) >= (k - 1) * (dilations[i] ?? 1) + 1);
  if (disjoint && x.dtype !== "float64")
    return [
      c.b.op("MaxUnpool", [flow(c), indices, shapeVector(c, x)], { attributes: { kernel_shape: kernel, strides } }),
    ];
  if (c.opset < 16)
    throw new PareError("unsupported", "The gradient of overlapping MaxPool windows needs opset 16", {
      where: `node '${c.node.name}' (MaxPool)`,
      help: "Convert the model to a newer opset",
    });
  const zero = x.dtype === "float64" ? Tensor.of("float64", [1], Float64Array.of(0)) : Tensor.float32([1], [0]);
  const empty = c.b.op("ConstantOfShape", [reshape(c, c.b.op("Size", [x]), [1])], {
    attributes: { value: { type: "tensor", value: zero } },
  });
  const attributes = { axis: 0, reduction: "add" };
  const sum = c.b.op("ScatterElements", [empty, reshape(c, indices, [-1]), reshape(c, flow(c), [-1])], { attributes });
  return [c.b.op("Reshape", [sum, shapeVector(c, x)])];
};

// y[p] = Σ_k x[p·stride + k − pad]/n(p), n = kernel size, or (borders not counted) the taps inside x: ∂x = g/n spread over each window
export const averagePoolGrad: Grad = (c) => {
  const { node } = c;
  const x = input(c);
  const kernel = node.ints("kernel_shape") ?? [];
  const sizes = (value: Value | undefined): readonly number[] => {
    const shape = value?.shape?.slice(2);
    if (shape?.every((size) => typeof size === "number")) return shape as readonly number[];
    return concreteShape(node, value).slice(2);
  };
  const [inside, outside] = [sizes(x), sizes(node.outputs[0])];
  const window = windowOf(node, kernel, inside, outside);
  const channels = x.shape?.[1];
  if (typeof channels !== "number")
    throw new PareError("not-differentiable", `The number of channels of '${x.name}' must be known here`, {
      where: `node '${node.name}' (AveragePool)`,
    });
  const { strides, dilations, begins, ends } = window;
  const counts = tapCounts(window, inside, outside, node.int("count_include_pad", 0) !== 0);
  const taps = kernel.reduce((n, k) => n * k, 1);
  const even = counts.every((count) => count === taps);
  const borderless = [...begins, ...ends].every((amount) => amount === 0);
  const tiles = kernel.every(
    (k, i) => k === strides[i] && dilations[i] === 1 && (outside[i] ?? 0) * k <= (inside[i] ?? 0),
  );
  const share = even
    ? scale(c, flow(c), 1 / taps, x.dtype)
    : mul(
        c,
        flow(c),
        constantLike(
          c,
          x,
          [1, 1, ...outside],
          counts.map((count) => 1 / count),
        ),
      );
  if (tiles && borderless) {
    // Each window is its own tile: repeat g within the tile, (n, c, z₁, 1, z₂, 1) to (n, c, z₁, k₁, z₂, k₂).
    const split = reshape(c, share, [-1, channels, ...outside.flatMap((size) => [size, 1])]);
    const repeated = c.b.op("Expand", [split, ints(c, [1, 1, ...kernel.flatMap((k) => [1, k])])]);
    const covered = outside.map((size, i) => size * (kernel[i] ?? 1));
    const whole = reshape(c, repeated, [-1, channels, ...covered]);
    return [pad(c, whole, [0, 0, ...kernel.map(() => 0), 0, 0, ...inside.map((size, i) => size - (covered[i] ?? 0))])];
  }
  const ones = constantLike(
    c,
    x,
    [channels, 1, ...kernel],
    Array.from({ length: channels * taps }, () => 1),
  );
  const spread = c.b.op("ConvTranspose", [share, ones], {
    attributes: { strides, dilations, group: channels, kernel_shape: kernel },
  });
  const reach = kernel.map((k, i) => ((outside[i] ?? 0) - 1) * (strides[i] ?? 1) + (k - 1) * (dilations[i] ?? 1) + 1);
  const cut = reach.map((size, i) => Math.min(size, (begins[i] ?? 0) + (inside[i] ?? 0)));
  const axes = kernel.map((_, i) => i + 2);
  const middle = slice(c, spread, axes, begins, cut);
  const missing = inside.map((size, i) => size + (begins[i] ?? 0) - (cut[i] ?? 0));
  return [pad(c, middle, [0, 0, ...kernel.map(() => 0), 0, 0, ...missing])];
};

/** Number of taps that each output position averages over, row-major. */
function tapCounts(
  window: ReturnType<typeof windowOf>,
  inside: readonly number[],
  outside: readonly number[],
  withBorder: boolean,
): number[] {
  let counts = [1];
  for (const [axis, positions] of outside.entries()) {
    const begin = window.begins[axis] ?? 0;
    const size = inside[axis] ?? 0;
    const [low, high] = withBorder ? [-begin, size + (window.ends[axis] ?? 0)] : [0, size];
    const along = Array.from({ length: positions }, (_, p) => {
      const start = p * (window.strides[axis] ?? 1) - begin;
      let taps = 0;
      for (let k = 0; k < (window.kernel[axis] ?? 1); k++) {
        const at = start + k * (window.dilations[axis] ?? 1);
        if (at >= low && at < high) taps++;
      }
      return taps;
    });
    counts = counts.flatMap((count) => along.map((taps) => count * taps));
  }
  return counts;
}

function constantLike(c: GradContext, like: Value, shape: readonly number[], data: readonly number[]): Value {
  const tensor =
    like.dtype === "float64" ? Tensor.of("float64", shape, Float64Array.from(data)) : Tensor.float32(shape, data);
  return c.b.constant("window", tensor);
}

// y = mean of x over its image: ∂x = g/size, repeated
export const globalAveragePoolGrad: Grad = (c) => {
  const x = input(c);
  const spatial = x.shape?.slice(2);
  if (spatial?.every((size) => typeof size === "number")) {
    const size = (spatial as number[]).reduce((n, each) => n * each, 1);
    return [expandLike(c, scale(c, flow(c), 1 / size, x.dtype), x)];
  }
  const to = x.dtype === "float64" ? 11 : 1;
  const count = (value: Value): Value => c.b.op("Cast", [c.b.op("Size", [value])], { attributes: { to } });
  return [expandLike(c, div(c, flow(c), div(c, count(x), count(c.node.outputs[0] as Value))), x)];
};

// y = max of x over its image: ∂x = g·[x = y]/#{x = y}
export const globalMaxPoolGrad: Grad = (c) => {
  const x = input(c);
  const hit = indicator(c, c.b.op("Equal", [x, c.node.outputs[0] as Value]), x.dtype);
  const axes = Array.from({ length: rankOf(c.node, x) - 2 }, (_, i) => i + 2);
  return [mul(c, hit, div(c, flow(c), reduceSum(c, hit, axes, true)))];
};
