/** Gradients of MatMul and Gemm. */
import type { Value } from "../../ir/graph.ts";
import { float } from "../../ir/attribute.ts";
import type { Grad, GradContext } from "../spec.ts";
import { rankOf, reshape, scale, sumTo, transpose, unsqueeze } from "./words.ts";

/** Exchanges the last two axes of a matrix or a stack of matrices. */
function transposed(c: GradContext, x: Value, rank: number): Value {
  const perm = Array.from({ length: rank }, (_, axis) => axis);
  perm.push(...perm.splice(-2).reverse());
  return transpose(c, x, perm);
}

/** op(a)·op(b) of plain matrices; Gemm transposes while it packs. */
function product(c: GradContext, a: Value, transA: boolean, b: Value, transB: boolean, alpha = 1): Value {
  return c.b.op("Gemm", [a, b], {
    attributes: { transA: transA ? 1 : 0, transB: transB ? 1 : 0, alpha: alpha === 1 ? undefined : float(alpha) },
  });
}

// Y = A·B with A (…, m, k), B (…, k, n), G = ∂Y (…, m, n): ∂A = G·Bᵀ, ∂B = Aᵀ·G, summed over broadcast axes
export const matMulGrad: Grad = (c) => {
  const [a, b] = c.node.inputs as readonly [Value, Value];
  const g = c.outputGrad(0) as Value;
  const [rankA, rankB] = [rankOf(c.node, a), rankOf(c.node, b)];
  if (rankA === 1 || rankB === 1) return vectorGrad(c, a, b, g, rankA, rankB);
  if (rankA === 2 && rankB === 2)
    return [
      c.wants(0) ? product(c, g, false, b, true) : undefined, // (m, k)
      c.wants(1) ? product(c, a, true, g, false) : undefined, // (k, n)
    ];
  if (rankB === 2) return stackTimesMatrix(c, a, b, g, rankA);
  const out = c.node.outputs[0]?.shape;
  const batch = out?.slice(0, -2);
  const whole = (value: Value) => (batch && value.shape ? [...batch, ...value.shape.slice(-2)] : undefined);
  return [
    c.wants(0) ? sumTo(c, c.b.op("MatMul", [g, transposed(c, b, rankB)]), whole(a), a) : undefined,
    c.wants(1) ? sumTo(c, c.b.op("MatMul", [transposed(c, a, rankA), g]), whole(b), b) : undefined,
  ];
};

/** A stack times one matrix: the stack's leading axes are rows, so that both products are single matrix products. */
function stackTimesMatrix(c: GradContext, a: Value, b: Value, g: Value, rankA: number): readonly (Value | undefined)[] {
  const [k, n] = b.shape ?? [];
  const dA = c.wants(0) ? c.b.op("MatMul", [g, transposed(c, b, 2)]) : undefined; // (…, m, k)
  if (!c.wants(1)) return [dA, undefined];
  if (typeof k === "number" && typeof n === "number") {
    const rows = reshape(c, a, [-1, k]); // (… m, k)
    return [dA, product(c, rows, true, reshape(c, g, [-1, n]), false)]; // (k, n)
  }
  const stacked = c.b.op("MatMul", [transposed(c, a, rankA), g]);
  return [dA, sumTo(c, stacked, [...(a.shape?.slice(0, -2) ?? []), k ?? null, n ?? null], b)];
}

/** A vector operand is a matrix of one row or one column whose axis is dropped afterwards. */
function vectorGrad(
  c: GradContext,
  a: Value,
  b: Value,
  g: Value,
  rankA: number,
  rankB: number,
): readonly (Value | undefined)[] {
  const left = rankA === 1 ? unsqueeze(c, a, [0]) : a; // (…, m, k)
  const right = rankB === 1 ? unsqueeze(c, b, [1]) : b; // (…, k, n)
  let flow = g;
  if (rankA === 1 && rankB === 1) flow = reshape(c, g, [1, 1]);
  else flow = unsqueeze(c, g, [rankA === 1 ? rankB - 2 : rankA - 1]);
  const dA = c.wants(0) ? c.b.op("MatMul", [flow, transposed(c, right, Math.max(2, rankB))]) : undefined;
  const dB = c.wants(1) ? c.b.op("MatMul", [transposed(c, left, Math.max(2, rankA)), flow]) : undefined;
  const lead = c.node.outputs[0]?.shape ?? [];
  const stackA = [...(rankB > 2 ? lead.slice(0, rankB - 2) : []), 1, ...(a.shape ?? [])];
  const stackB = [...(rankA > 2 ? lead.slice(0, rankA - 2) : []), ...(b.shape ?? []), 1];
  return [
    dA && (rankA === 1 ? flattenSum(c, dA, stackA, a) : dA),
    dB && (rankB === 1 ? flattenSum(c, dB, stackB, b) : dB),
  ];
}

/** A vector's gradient from a stack of one-row or one-column matrices. */
function flattenSum(c: GradContext, gradient: Value, stack: readonly (number | string | null)[], to: Value): Value {
  const size = to.shape?.[0];
  const length = typeof size === "number" ? size : -1;
  if (stack.length === 2) return reshape(c, gradient, [-1]);
  return sumTo(c, reshape(c, gradient, [-1, length]), [null, size ?? null], to);
}

// Y = α·A'·B' + β·C, A' = A or Aᵀ, B' = B or Bᵀ: ∂A' = α·G·B'ᵀ, ∂B' = α·A'ᵀ·G, ∂C = β·ΣG over broadcast axes
export const gemmGrad: Grad = (c) => {
  const [a, b, bias] = c.node.inputs as readonly [Value, Value, Value | undefined];
  const g = c.outputGrad(0) as Value;
  const [transA, transB] = [c.node.int("transA", 0) !== 0, c.node.int("transB", 0) !== 0];
  const [alpha, beta] = [c.node.float("alpha", 1), c.node.float("beta", 1)];
  const dA = transA ? () => product(c, b, transB, g, true, alpha) : () => product(c, g, false, b, !transB, alpha);
  const dB = transB ? () => product(c, g, true, a, transA, alpha) : () => product(c, a, !transA, g, false, alpha);
  return [
    c.wants(0) ? dA() : undefined,
    c.wants(1) ? dB() : undefined,
    bias && c.wants(2) ? scale(c, sumTo(c, g, c.node.outputs[0]?.shape, bias), beta, bias.dtype) : undefined,
  ];
};
