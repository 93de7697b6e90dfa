/** Matrix products: MatMul, Gemm, Einsum and their fused forms. */
import type { Dim } from "../base/shape.ts";
import type { Node } from "../ir/graph.ts";
import { equationOf } from "./equation.ts";
import { einsumGrad } from "./gradients/einsum.ts";
import { fusedGemmGrad, fusedMatMulGrad } from "./gradients/fused.ts";
import { gemmGrad, matMulGrad } from "./gradients/matmul.ts";
import { type OpTable, type Shape, broadcastShapes, count, dtypeOf, isStored, mismatch, shapeOf } from "./helpers.ts";
import type { Axes, Cost, Infer, InferContext, OpSpec, Weight } from "./spec.ts";
import { broadcast } from "./symbolic.ts";

/** Shape of a (…, m, k) @ (…, k, n) as numpy does it: vectors get an axis that is dropped again. */
export function matmulShape(context: InferContext, a: Shape | undefined, b: Shape | undefined): Shape | undefined {
  if (!a || !b) return undefined;
  if (a.length === 0 || b.length === 0) throw mismatch(context, "a scalar", "matrices");
  const left = a.length === 1 ? [1, ...a] : a;
  const right = b.length === 1 ? [...b, 1] : b;
  const inner = left.at(-1);
  const inner2 = right.at(-2);
  if (typeof inner === "number" && typeof inner2 === "number" && inner !== inner2)
    throw mismatch(context, `inner sizes ${inner} and ${inner2}`, "equal inner sizes");
  const batch = broadcastShapes(context, [left.slice(0, -2), right.slice(0, -2)]) ?? [];
  return [
    ...batch,
    ...(a.length === 1 ? [] : [left.at(-2) ?? null]),
    ...(b.length === 1 ? [] : [right.at(-1) ?? null]),
  ];
}

/** MACs: every output element is a dot product along the last axis of a. */
export const matmulCost: Cost = ({ inputs, outputs }) => ({
  macs: count(outputs[0]) * (inputs[0]?.at(-1) ?? 0),
});

/** Terms of a batched product: batch axes are tied where their sizes are known to be equal. */
export function matmulAxesOf(
  a: Shape | undefined,
  b: Shape | undefined,
  y: Shape | undefined,
): { a: string; b: string; y: string } | undefined {
  if (!a || !b || !y) return undefined;
  const rank = Math.max(a.length, b.length);
  const batch = Math.max(0, rank - 2);
  const isSure = (axis: number): boolean =>
    [a, b].every((shape) => {
      const own = axis - (batch - Math.max(0, shape.length - 2));
      const dim = own < 0 ? 1 : shape[own];
      return dim === 1 || (dim !== null && dim === y[axis]);
    });
  const letters = Array.from({ length: batch }, (_, i) => (isSure(i) ? `b${i}` : "_"));
  const term = (shape: Shape, last: readonly string[]): string => {
    const skip = batch - (shape.length - 2);
    const own = shape.slice(0, -2).map((dim, i) => (dim !== null && dim === y[skip + i] ? letters[skip + i] : "_"));
    return [...own, ...last].join(" ");
  };
  return {
    a: a.length === 1 ? "k" : term(a, ["m", "k"]),
    b: b.length === 1 ? "k" : term(b, ["k", "n"]),
    y: [...letters, ...(a.length === 1 ? [] : ["m"]), ...(b.length === 1 ? [] : ["n"])].join(" "),
  };
}

const matmulAxes: Axes = (node) => {
  const terms = matmulAxesOf(node.inputs[0]?.shape, node.inputs[1]?.shape, node.outputs[0]?.shape);
  return terms && `${terms.a}, ${terms.b} -> ${terms.y}`;
};

/** The right operand is the kernel (k, n); the left one (m, k) when only that is stored. */
function matmulWeights(node: Node): readonly Weight[] {
  const left = !isStored(node, 1) && isStored(node, 0);
  const input = left ? 0 : 1;
  const rank = node.inputs[input]?.shape?.length ?? 2;
  if (rank < 2) return [{ input, role: "kernel", reductionAxis: 0 }];
  const [channelAxis, reductionAxis] = left ? [rank - 2, rank - 1] : [rank - 1, rank - 2];
  return [{ input, role: "kernel", channelAxis, reductionAxis }];
}

export const matmulRecord: OpSpec = {
  since: 1,
  infer: (context) => [
    { dtype: dtypeOf(context, 0), shape: matmulShape(context, shapeOf(context, 0), shapeOf(context, 1)) },
  ],
  cost: matmulCost,
  axes: matmulAxes,
  weights: matmulWeights,
  grad: "none",
  traits: { linear: "matmul", quantizable: true },
};

/** y = α·op(a)·op(b) + β·c, all matrices. */
const gemmInfer: Infer = (context) => {
  const a = shapeOf(context, 0);
  const b = shapeOf(context, 1);
  const dtype = dtypeOf(context, 0);
  const [transA, transB] = [context.node.int("transA", 0), context.node.int("transB", 0)];
  if ((a && a.length !== 2) || (b && b.length !== 2))
    throw mismatch(context, `ranks ${a?.length ?? "?"} and ${b?.length ?? "?"}`, "two matrices");
  const inner = a?.[transA ? 0 : 1];
  const inner2 = b?.[transB ? 1 : 0];
  if (typeof inner === "number" && typeof inner2 === "number" && inner !== inner2)
    throw mismatch(context, `inner sizes ${inner} and ${inner2}`, "equal inner sizes");
  return [{ dtype, shape: [a?.[transA ? 1 : 0] ?? null, b?.[transB ? 0 : 1] ?? null] }];
};

const gemmAxes: Axes = (node) => {
  const bias = node.inputs[2]?.shape;
  const output = node.outputs[0]?.shape;
  const letters = ["m", "n"];
  const term = (bias ?? [])
    .map((dim, i) => {
      const axis = 2 - (bias?.length ?? 0) + i;
      return dim !== null && dim === output?.[axis] ? letters[axis] : "_";
    })
    .join(" ");
  return `${node.int("transA", 0) ? "k m" : "m k"}, ${node.int("transB", 0) ? "n k" : "k n"}, ${term} -> m n`;
};

const gemm: OpSpec = {
  since: 7,
  infer: gemmInfer,
  cost: ({ node, inputs, outputs }) => ({
    macs: count(outputs[0]) * (inputs[0]?.[node.int("transA", 0) ? 0 : 1] ?? 0),
    flops: inputs[2] ? count(outputs[0]) : 0,
  }),
  axes: gemmAxes,
  weights: (node) => {
    const [channelAxis, reductionAxis] = node.int("transB", 0) ? [0, 1] : [1, 0];
    const rank = node.inputs[2]?.shape?.length ?? 1;
    return [
      { input: 1, role: "kernel", channelAxis, reductionAxis },
      { input: 2, role: "bias", channelAxis: rank > 0 ? rank - 1 : undefined },
    ];
  },
  grad: "none",
  traits: { linear: "gemm", quantizable: true },
};

const einsumInfer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const shapes = context.node.inputs.map((_, i) => shapeOf(context, i));
  const equation = equationOf(
    context.node,
    shapes.map((shape) => shape?.length),
  );
  if (!equation) return [{ dtype, shape: undefined }];
  const sizes = new Map<string, Dim>();
  for (const [i, operand] of equation.operands.entries()) {
    const shape = shapes[i];
    if (shape && shape.length !== operand.length)
      throw mismatch(context, `rank ${shape.length} for '${operand.join("")}'`, `rank ${operand.length}`);
    for (const [axis, letter] of operand.entries()) {
      const size = shape?.[axis] ?? null;
      const before = sizes.get(letter);
      sizes.set(letter, before === undefined ? size : broadcast(before, size));
    }
  }
  return [{ dtype, shape: equation.output.map((letter) => sizes.get(letter) ?? null) }];
};

const einsum: OpSpec = {
  since: 12,
  infer: einsumInfer,
  // Every combination of letters is one multiply-accumulate.
  cost: ({ node, inputs }) => {
    const equation = equationOf(
      node,
      inputs.map((input) => input?.length),
    );
    const sizes = new Map<string, number>();
    for (const [i, operand] of (equation?.operands ?? []).entries())
      for (const [axis, letter] of operand.entries())
        sizes.set(letter, Math.max(sizes.get(letter) ?? 1, inputs[i]?.[axis] ?? 1));
    return { macs: equation ? [...sizes.values()].reduce((a, b) => a * b, 1) : 0 };
  },
  axes: (node) => {
    const equation = equationOf(
      node,
      node.inputs.map((input) => input?.shape?.length),
    );
    // Axes of an ellipsis broadcast, so that they are tied only by their own operand.
    const spaced = (term: readonly string[]): string =>
      term.map((letter) => (/\d/.test(letter) ? "_" : letter)).join(" ");
    return equation && `${equation.operands.map(spaced).join(", ")} -> ${spaced(equation.output)}`;
  },
  weights: (node) =>
    node.inputs.flatMap((_, input): Weight[] => (isStored(node, input) ? [{ input, role: "kernel" }] : [])),
  grad: einsumGrad,
};

const fusedMatmulAxes: Axes = (node) => {
  const [a, b] = [node.inputs[0]?.shape, node.inputs[1]?.shape];
  if (node.int("transBatchA", 0) || node.int("transBatchB", 0)) return undefined;
  const turn = (shape: Shape | undefined, on: number): Shape | undefined =>
    shape && on && shape.length > 1 ? [...shape.slice(0, -2), shape.at(-1) ?? null, shape.at(-2) ?? null] : shape;
  const [transA, transB] = [node.int("transA", 0), node.int("transB", 0)];
  const terms = matmulAxesOf(turn(a, transA), turn(b, transB), node.outputs[0]?.shape);
  const swap = (term: string, on: number): string => (on ? term.replace(/(\w) (\w)$/, "$2 $1") : term);
  return terms && `${swap(terms.a, transA)}, ${swap(terms.b, transB)} -> ${terms.y}`;
};

/** MatMul with optional transposes of the last two axes (com.microsoft). */
const fusedMatmul: OpSpec = {
  ...matmulRecord,
  infer: (context) => {
    const turn = (shape: Shape | undefined, on: number): Shape | undefined =>
      shape && on && shape.length > 1 ? [...shape.slice(0, -2), shape.at(-1) ?? null, shape.at(-2) ?? null] : shape;
    const a = turn(shapeOf(context, 0), context.node.int("transA", 0));
    const b = turn(shapeOf(context, 1), context.node.int("transB", 0));
    const batched = context.node.int("transBatchA", 0) || context.node.int("transBatchB", 0);
    return [{ dtype: dtypeOf(context, 0), shape: batched ? undefined : matmulShape(context, a, b) }];
  },
  cost: ({ node, inputs, outputs }) => ({
    macs: count(outputs[0]) * (inputs[0]?.at(node.int("transA", 0) ? -2 : -1) ?? 0),
  }),
  axes: fusedMatmulAxes,
  weights: (node) => {
    const rank = node.inputs[1]?.shape?.length ?? 2;
    const [channelAxis, reductionAxis] = node.int("transB", 0) ? [rank - 2, rank - 1] : [rank - 1, rank - 2];
    return [{ input: 1, role: "kernel", channelAxis, reductionAxis }];
  },
  grad: fusedMatMulGrad,
};

export const matmul: OpTable = {
  MatMul: { ...matmulRecord, grad: matMulGrad },
  Gemm: { ...gemm, grad: gemmGrad },
  Einsum: einsum,
  "com.microsoft::FusedMatMul": fusedMatmul,
  "com.microsoft::FusedGemm": { ...gemm, grad: fusedGemmGrad },
};
