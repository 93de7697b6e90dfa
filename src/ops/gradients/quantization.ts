/**
 * Gradients of quantizers: rounding is passed straight through within the range (Bengio et al. 2013), and the scale learns by
 * what rounding and clipping leave (LSQ, Esser et al. 2020). Between a quantizer and its dequantizer the gradient is that of the
 * integers taken as real numbers, so that a pair of them comes to LSQ's form.
 */
import { type DType, dtypeBits } from "../../base/dtype.ts";
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Grad, GradContext } from "../spec.ts";
import {
  add,
  axisOf,
  concreteShape,
  div,
  indicator,
  mul,
  neg,
  pad,
  rankOf,
  reduceSum,
  reshape,
  reshapeLike,
  scalar,
  slice,
  sumTo,
  transpose,
  unsqueeze,
} from "./words.ts";

const flow = (c: GradContext): Value => c.outputGrad(0) as Value;

/** Smallest and largest number of an integer type. */
function rangeOf(c: GradContext, dtype: DType | undefined): readonly [number, number] {
  const bits = dtype ? dtypeBits(dtype) : 0;
  if (dtype?.startsWith("uint")) return [0, 2 ** bits - 1];
  if (dtype?.startsWith("int")) return [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
  throw new PareError("not-differentiable", `Quantization to ${dtype ?? "an unknown type"} has no gradient`, {
    where: `node '${c.node.name}' (${c.node.opType})`,
    help: "Quantize to integers",
  });
}

/** How a scale lies over the data: one for all, one per index of an axis, or one per block along an axis. */
interface Layout {
  /** A value of the scale's shape as one that broadcasts against the data. */
  spread(value: Value): Value;
  /** A gradient of the data's shape summed to the scale's shape. */
  gather(gradient: Value): Value;
}

function layoutOf(c: GradContext, data: Value, scale: Value): Layout {
  const rank = rankOf(c.node, data);
  const own = rankOf(c.node, scale);
  const axis = axisOf(c.node.int("axis", 1), rank);
  const all = Array.from({ length: rank }, (_, i) => i);
  const isSingle = own === 0 || (own === 1 && scale.shape?.[0] === 1);
  if (isSingle) return { spread: (value) => value, gather: (g) => reshapeLike(c, reduceSum(c, g, all, false), scale) };
  const block = c.node.int("block_size", 0);
  if (own === 1 && block === 0) {
    const column = all.map((i) => (i === axis ? -1 : 1));
    const others = all.filter((i) => i !== axis);
    return { spread: (value) => reshape(c, value, column), gather: (g) => reduceSum(c, g, others, false) };
  }
  const shape = concreteShape(c.node, data);
  const [whole, blocks] = [shape[axis] ?? 1, concreteShape(c.node, scale)[axis] ?? 1];
  const apart = [...shape.slice(0, axis), blocks, block, ...shape.slice(axis + 1)];
  const together = shape.map((size, i) => (i === axis ? blocks * block : size));
  const excess = shape.map((_, i) => (i === axis ? blocks * block - whole : 0));
  return {
    spread(value) {
      const target = c.b.constant("blocks", Tensor.int64(apart));
      const wide = reshape(c, c.b.op("Expand", [unsqueeze(c, value, [axis + 1]), target]), together);
      return blocks * block === whole ? wide : slice(c, wide, [axis], [0], [whole]);
    },
    gather: (g) => reduceSum(c, reshape(c, pad(c, g, [...shape.map(() => 0), ...excess]), apart), [axis + 1], false),
  };
}

// q = clip(round(x/s) + z): ∂x = g/s and ∂s = −Σ g·x/s², both where low ≤ x/s + z ≤ high; nothing for z
export const quantizeGrad: Grad = (c) => {
  const [x, scale, zero] = c.node.inputs as readonly [Value, Value, Value | undefined];
  const [low, high] = rangeOf(c, c.node.outputs[0]?.dtype);
  const layout = layoutOf(c, x, scale);
  const s = layout.spread(scale);
  const { dtype } = x;
  const ratio = div(c, x, s);
  const offset = zero && layout.spread(c.b.op("CastLike", [zero, x]));
  const place = offset ? add(c, ratio, offset) : ratio;
  const outside = c.b.op("Or", [
    c.b.op("Less", [place, scalar(c, dtype, low)]),
    c.b.op("Greater", [place, scalar(c, dtype, high)]),
  ]);
  const inside = indicator(c, c.b.op("Not", [outside]), dtype);
  const share = mul(c, div(c, flow(c), s), inside);
  return [c.wants(0) ? share : undefined, c.wants(1) ? layout.gather(neg(c, mul(c, share, ratio))) : undefined];
};

// y = (q − z)·s: ∂q = g·s, ∂s = Σ g·(q − z) = Σ g·y/s
export const dequantizeGrad: Grad = (c) => {
  const [q, scale] = c.node.inputs as readonly [Value, Value];
  const y = c.node.outputs[0] as Value;
  const layout = layoutOf(c, q, scale);
  const s = layout.spread(scale);
  return [
    c.wants(0) ? mul(c, flow(c), s) : undefined,
    c.wants(1) ? layout.gather(div(c, mul(c, flow(c), y), s)) : undefined,
  ];
};

// (q, s, z) from the data's own range, where nothing is clipped: ∂x = ∂q/s; the range itself counts as constant
export const dynamicQuantizeGrad: Grad = (c) => {
  const g = c.outputGrad(0);
  return [g && div(c, g, c.node.outputs[1] as Value)];
};

// y = x·Wᵀ + b with packed W (n, k): ∂x = g·W, ∂b = Σ g; the engine unpacks W as the product with the identity
export const nbitsGrad: Grad = (c) => {
  const [x, ...packed] = c.node.inputs as readonly Value[];
  const k = c.node.int("K", 0);
  const rows = c.b.constant("size", Tensor.int64([k, k]));
  const square = c.b.op("ConstantOfShape", [rows]);
  const eye = c.b.op("EyeLike", [square]);
  const attributes = Object.fromEntries(c.node.attributes);
  const weights = c.b.op("MatMulNBits", [eye, ...packed.slice(0, 4)], { attributes, domain: c.node.domain }); // (k, n)
  const n = c.node.int("N", 0);
  const bias = packed[4];
  return [
    c.wants(0) && x ? c.b.op("MatMul", [flow(c), transpose(c, weights, [1, 0])]) : undefined,
    undefined,
    undefined,
    undefined,
    undefined,
    bias && c.wants(5) ? sumTo(c, reshape(c, flow(c), [-1, n]), [null, n], bias) : undefined,
  ];
};
