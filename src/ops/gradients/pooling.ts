/** Gradients of pooling over windows and over whole images: maximum, mean and norm. */
import { PareError } from "../../base/error.ts";
import { Node, Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { windowOf } from "./conv.ts";
import {
  concreteShape,
  constantArray,
  div,
  expandLike,
  floats,
  indicator,
  ints,
  mul,
  needsOpset,
  outputOf,
  pad,
  rankOf,
  reduceSum,
  reshape,
  scalar,
  scale,
  shapeVector,
  sizeOf,
  slice,
  toFloat,
} from "./words.ts";

const input = (c: GradContext): Value => c.node.inputs[0] as Value;
const flow = (c: GradContext): Value => c.outputGrad(0) as Value;

// y = x[i], i = the position of each window's (first) maximum: ∂x[i] += g
export const maxPoolGrad: Grad = (c) => {
  const x = input(c);
  const indices = maximumPositions(c, x);
  const kernel = c.node.ints("kernel_shape") ?? [];
  const strides = c.node.ints("strides") ?? kernel.map(() => 1);
  const dilations = c.node.ints("dilations") ?? kernel.map(() => 1);
  const disjoint = kernel.every((k, i) => (strides[i] ?? 1) >= (k - 1) * (dilations[i] ?? 1) + 1);
  if (disjoint && x.dtype !== "float64") {
    // The engine only checks the window, against a size that padding may have made smaller: the smallest window passes.
    const attributes = { kernel_shape: kernel.map(() => 1) };
    return [c.b.op("MaxUnpool", [flow(c), indices, shapeVector(c, x)], { attributes })];
  }
  if (c.opset < 16) throw needsOpset(c, 16);
  const half = x.dtype === "float16"; // the engine adds scattered elements in float32 and float64 only
  const type = half ? "float32" : x.dtype;
  const empty = c.b.op("ConstantOfShape", [reshape(c, c.b.op("Size", [x]), [1])], {
    attributes: { value: { type: "tensor", value: floats(type, [1], [0]) } },
  });
  const attributes = { axis: 0, reduction: "add" };
  const updates = reshape(c, half ? toFloat(c, flow(c), type) : flow(c), [-1]);
  const sum = c.b.op("ScatterElements", [empty, reshape(c, indices, [-1]), updates], { attributes });
  const whole = c.b.op("Reshape", [sum, shapeVector(c, x)]);
  return [half ? toFloat(c, whole, x.dtype) : whole];
};

/** Flat row-major positions of the maxima: the node's own second output, unless it counts columns first. */
function maximumPositions(c: GradContext, x: Value): Value {
  const { node } = c;
  if (node.int("storage_order", 0) === 0) return outputOf(node, 1, "int64", node.outputs[0]?.shape);
  const names = ["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"];
  const again = new Node({
    opType: "MaxPool",
    inputs: [x],
    outputs: ["maximum", "position"].map((name) => new Value(c.b.graph.uniqueName(`${node.name}_${name}`))),
    name: c.b.graph.uniqueName(`${node.name}_again`),
    attributes: names.flatMap((name) => {
      const attribute = node.attributes.get(name);
      return attribute ? [[name, attribute] as const] : [];
    }),
  });
  c.b.graph.add(again);
  return again.outputs[1] as Value;
}

// y = zeros, y[i] = x: ∂x = g[i]
export const maxUnpoolGrad: Grad = (c) => [c.b.op("Gather", [reshape(c, flow(c), [-1]), c.node.inputs[1]])];

/** Sizes of a sliding window over an image of known size. */
interface Slide {
  readonly window: ReturnType<typeof windowOf>;
  readonly channels: number;
  readonly inside: readonly number[];
  readonly outside: readonly number[];
}

function slideOf(c: GradContext): Slide {
  const { node } = c;
  const x = input(c);
  const [inside, outside] = [concreteShape(node, x, 2), concreteShape(node, node.outputs[0], 2)];
  const window = windowOf(node, node.ints("kernel_shape") ?? [], inside, outside);
  const channels = x.shape?.[1];
  if (typeof channels === "number") return { window, channels, inside, outside };
  throw new PareError("not-differentiable", `The number of channels of '${x.name}' must be known here`, {
    where: `node '${node.name}' (${node.opType})`,
    help: "Give the inputs fixed sizes",
  });
}

// y[p] = Σ_k x[p·stride + k − pad]/n(p), n = kernel size, or (borders not counted) the taps inside x: ∂x = g/n spread over each window
export const averagePoolGrad: Grad = (c) => {
  const x = input(c);
  const slide = slideOf(c);
  const { window, inside, outside } = slide;
  const counts = tapCounts(window, inside, outside, c.node.int("count_include_pad", 0) !== 0);
  const [first = 1] = counts;
  const even = counts.every((count) => count === first);
  const shares = counts.map((count) => 1 / count);
  const share = even
    ? scale(c, flow(c), 1 / first, x.dtype)
    : mul(c, flow(c), constantArray(c, x.dtype, [1, 1, ...outside], shares));
  return [spreadWindows(c, share, slide)];
};

/** ∂x where y[p] = Σ_k x[p·stride + k·dilation − begin]: every element of g is added to its whole window. */
function spreadWindows(c: GradContext, g: Value, { window, channels, inside, outside }: Slide): Value {
  const { kernel, strides, dilations, begins, ends } = window;
  const borderless = [...begins, ...ends].every((amount) => amount === 0);
  const tiles = kernel.every(
    (k, i) => k === strides[i] && dilations[i] === 1 && (outside[i] ?? 0) * k <= (inside[i] ?? 0),
  );
  if (tiles && borderless) {
    // Each window is its own tile: repeat g within the tile, (n, c, z₁, 1, z₂, 1) to (n, c, z₁, k₁, z₂, k₂).
    const split = reshape(c, g, [-1, channels, ...outside.flatMap((size) => [size, 1])]);
    const repeated = c.b.op("Expand", [split, ints(c, [1, 1, ...kernel.flatMap((k) => [1, k])])]);
    const covered = outside.map((size, i) => size * (kernel[i] ?? 1));
    const whole = reshape(c, repeated, [-1, channels, ...covered]);
    return pad(c, whole, [0, 0, ...kernel.map(() => 0), 0, 0, ...inside.map((size, i) => size - (covered[i] ?? 0))]);
  }
  const taps = kernel.reduce((n, k) => n * k, 1);
  const ones = constantArray(
    c,
    input(c).dtype,
    [channels, 1, ...kernel],
    Array.from({ length: channels * taps }, () => 1),
  );
  const spread = c.b.op("ConvTranspose", [g, ones], {
    attributes: { strides, dilations, group: channels, kernel_shape: kernel },
  });
  const reach = kernel.map((k, i) => ((outside[i] ?? 0) - 1) * (strides[i] ?? 1) + (k - 1) * (dilations[i] ?? 1) + 1);
  const cut = reach.map((size, i) => Math.min(size, (begins[i] ?? 0) + (inside[i] ?? 0)));
  const axes = kernel.map((_, i) => i + 2);
  const middle = slice(c, spread, axes, begins, cut);
  const missing = inside.map((size, i) => size + (begins[i] ?? 0) - (cut[i] ?? 0));
  return pad(c, middle, [0, 0, ...kernel.map(() => 0), 0, 0, ...missing]);
}

// y = (Σ|x|ᵖ)^(1/p) over each window: ∂x = |x|^(p−1)·sign x·(g·y^(1−p), 0 where y is 0, added up over the windows of x)
export const lpPoolGrad: Grad = (c) => {
  const slide = slideOf(c);
  return [lpGrad(c, (share) => spreadWindows(c, share, slide))];
};

// the same over the whole image
export const globalLpPoolGrad: Grad = (c) => [lpGrad(c, (share) => share)];

function lpGrad(c: GradContext, spread: (share: Value) => Value): Value {
  const x = input(c);
  const y = c.node.outputs[0] as Value;
  const p = c.node.int("p", 2);
  const number = (value: number): Value => scalar(c, x.dtype, value);
  const power = p === 2 ? y : c.b.op("Pow", [y, number(p - 1)]);
  const quotient = p === 1 ? flow(c) : div(c, flow(c), power);
  const share = c.b.op("Where", [c.b.op("Greater", [y, number(0)]), quotient, number(0)]);
  if (p === 2) return mul(c, x, spread(share));
  const sign = c.b.op("Sign", [x]);
  const slope = p === 1 ? sign : mul(c, sign, c.b.op("Pow", [c.b.op("Abs", [x]), number(p - 1)]));
  return mul(c, slope, spread(share));
}

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

// y = mean of x over its image: ∂x = g/size, repeated
export const globalAveragePoolGrad: Grad = (c) => {
  const x = input(c);
  const spatial = x.shape?.slice(2);
  if (spatial?.every((size) => typeof size === "number")) {
    const size = (spatial as number[]).reduce((n, each) => n * each, 1);
    return [expandLike(c, scale(c, flow(c), 1 / size, x.dtype), x)];
  }
  const size = div(c, sizeOf(c, x, x.dtype), sizeOf(c, c.node.outputs[0] as Value, x.dtype));
  return [expandLike(c, div(c, flow(c), size), x)];
};

// y = max of x over its image: ∂x = g·[x = y]/#{x = y}
export const globalMaxPoolGrad: Grad = (c) => {
  const x = input(c);
  const hit = indicator(c, c.b.op("Equal", [x, c.node.outputs[0] as Value]), x.dtype);
  const axes = Array.from({ length: rankOf(c.node, x) - 2 }, (_, i) => i + 2);
  return [mul(c, hit, div(c, flow(c), reduceSum(c, hit, axes, true)))];
};
