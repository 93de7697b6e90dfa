/** Quantized arithmetic: quantize and dequantize, integer products, and the packed-weight operators of com.microsoft. */
import { type DType, dtypeFromCode } from "../base/dtype.ts";
import type { Node } from "../ir/graph.ts";
import { SAME_AXES } from "./axes.ts";
import { convAxesTerms, convCost, convShape } from "./conv.ts";
import { dequantizeGrad, dynamicQuantizeGrad, nbitsGrad, quantizeGrad } from "./gradients/quantization.ts";
import { type OpTable, type Shape, broadcastShapes, count, dtypeOf, isStored, perOutput, shapeOf } from "./helpers.ts";
import { matmulAxesOf, matmulShape } from "./matmul.ts";
import { narrowAttribute, narrowConv } from "./narrow.ts";
import { gatherAxes } from "./picked-axes.ts";
import type { Axes, Cost, Grad, Infer, OpSpec, Weight } from "./spec.ts";
import { multiply } from "./symbolic.ts";

/** The type of the zero point, else `output_dtype`, else uint8. */
const quantizeInfer: Infer = (context) => {
  const code = context.node.int("output_dtype", 0);
  const dtype: DType | undefined = dtypeOf(context, 2) ?? (code ? dtypeFromCode(code) : "uint8");
  return [{ dtype: context.node.inputs[2] ? dtypeOf(context, 2) : dtype, shape: shapeOf(context, 0) }];
};

const dequantizeInfer: Infer = (context) => {
  const code = context.node.int("output_dtype", 0);
  return [{ dtype: code ? dtypeFromCode(code) : dtypeOf(context, 1), shape: shapeOf(context, 0) }];
};

/** Per-axis scales lie along `axis`; blocked scales have the data's rank. */
const scaleAxes: Axes = (node, ranks) => {
  const rank = ranks[0] ?? 0;
  const letters = Array.from({ length: rank }, (_, i) => `a${i}`);
  const axis = node.int("axis", 1);
  const at = axis < 0 ? axis + rank : axis;
  // Blocks of a blocked scale would shift if their axis lost elements.
  const blocked = node.inputs[1]?.shape;
  if (blocked && blocked.length === rank && rank > 1)
    for (const [i, dim] of blocked.entries()) if (dim !== 1 && dim !== node.inputs[0]?.shape?.[i]) letters[i] += "#";
  const scale = (input: number): string => {
    const shape = node.inputs[input]?.shape;
    if (!shape || shape.length === 0) return "";
    if (shape.length === 1 && rank !== 1) return shape[0] === 1 ? "1" : (letters[at] ?? "_");
    return shape.map((dim, i) => (dim !== null && dim === node.inputs[0]?.shape?.[i] ? letters[i] : "_")).join(" ");
  };
  return `${letters.join(" ")}, ${scale(1)}, ${scale(2)} -> ${letters.join(" ")}`;
};

function quantizing(infer: Infer, grad: Grad, rounding: boolean): OpSpec[] {
  // Per-axis from opset 13 on, blocked and 4-bit from 21 on.
  return [10, 13, 19, 21, 23].map((since) => ({
    since,
    infer,
    cost: perOutput(2),
    axes: since < 13 ? "*a, , -> *a" : scaleAxes,
    grad,
    traits: rounding ? { elementwise: true, rounding } : { elementwise: true },
  }));
}

const dynamicQuantizeInfer: Infer = (context) => [
  { dtype: "uint8", shape: shapeOf(context, 0) },
  { dtype: "float32", shape: [] },
  { dtype: "uint8", shape: [] },
];

/** x, x scale, x zero, w, w scale, w zero, y scale, y zero, bias. */
const qlinearConv: OpSpec = {
  since: 10,
  infer: (context) => [
    { dtype: dtypeOf(context, 7), shape: convShape(context, shapeOf(context, 0), shapeOf(context, 3)) },
  ],
  cost: convCost(3),
  axes: (node) => {
    const { x, w, bias, y } = convAxesTerms(node, 3);
    const perChannel = node.inputs[4]?.shape?.[0];
    const scale = perChannel === undefined ? "" : perChannel === 1 ? "1" : bias;
    return `${x}, , , ${w}, ${scale}, ${scale}, , , ${bias} -> ${y}`;
  },
  weights: [
    { input: 3, role: "kernel", channelAxis: 0, reductionAxis: 1 },
    { input: 8, role: "bias", channelAxis: 0 },
  ],
  grad: "none",
  narrow: narrowConv(0, 3),
  traits: { linear: "conv" },
};

const convInteger: OpSpec = {
  since: 10,
  infer: (context) => [{ dtype: "int32", shape: convShape(context, shapeOf(context, 0), shapeOf(context, 1)) }],
  cost: ({ node, inputs, outputs }) => ({ macs: convCost(1)({ node, inputs: inputs.slice(0, 2), outputs }).macs }),
  axes: (node) => {
    const { x, w, y } = convAxesTerms(node, 1);
    return `${x}, ${w} -> ${y}`;
  },
  weights: [{ input: 1, role: "kernel", channelAxis: 0, reductionAxis: 1 }],
  grad: "none",
  narrow: narrowConv(0, 1),
  traits: { linear: "conv" },
};

/** A product whose operands are inputs `a` and `b`, among scales and zero points. */
function quantizedMatmul(
  since: number,
  a: number,
  b: number,
  inputs: number,
  dtype: number | DType,
  rest: Partial<OpSpec> = {},
): OpSpec {
  const kernelAxes = (node: Node): readonly Weight[] => {
    const rank = node.inputs[b]?.shape?.length ?? 2;
    return [{ input: b, role: "kernel", channelAxis: rank - 1, reductionAxis: Math.max(0, rank - 2) }];
  };
  return {
    since,
    infer: (context) => [
      {
        dtype: typeof dtype === "number" ? dtypeOf(context, dtype) : dtype,
        shape: matmulShape(context, shapeOf(context, a), shapeOf(context, b)),
      },
    ],
    cost: ({ inputs: shapes, outputs }) => ({ macs: count(outputs[0]) * (shapes[a]?.at(-1) ?? 0) }),
    axes: (node) => {
      const terms = matmulAxesOf(node.inputs[a]?.shape, node.inputs[b]?.shape, node.outputs[0]?.shape);
      const all = Array.from({ length: inputs }, (_, i) => (i === a ? terms?.a : i === b ? terms?.b : ""));
      return terms && `${all.join(", ")} -> ${terms.y}`;
    },
    weights: kernelAxes,
    grad: "none",
    traits: { linear: "matmul" },
    ...rest,
  };
}

/** x (…, k) times a packed kernel of n rows of k; K and N are attributes. */
const nbitsInfer: Infer = (context) => {
  const x = shapeOf(context, 0);
  return [{ dtype: dtypeOf(context, 0), shape: x && [...x.slice(0, -1), context.node.int("N") ?? null] }];
};

/** n·k for each row of x: the count of the product that it replaces. */
const nbitsCost: Cost = ({ node, inputs, outputs }) => {
  const k = node.int("K", 0);
  return { macs: (count(inputs[0]) / Math.max(1, k)) * node.int("N", 0) * k, flops: inputs[5] ? count(outputs[0]) : 0 };
};

/** B is (n, blocks, bytes), scales (n, blocks) or flat, zero points packed. */
const nbits: OpSpec = {
  since: 1,
  infer: nbitsInfer,
  cost: nbitsCost,
  axes: (node, ranks) => {
    const batch = Array.from({ length: Math.max(0, (ranks[0] ?? 2) - 1) }, (_, i) => `b${i}`).join(" ");
    const rows = (input: number): string => {
      const shape = node.inputs[input]?.shape ?? [];
      return shape.map((_, i) => (i === 0 && shape.length > 1 ? "n" : "_")).join(" ");
    };
    return `${batch} k, n _ _, ${rows(2)}, ${rows(3)}, , n -> ${batch} n`;
  },
  weights: [
    { input: 1, role: "kernel", channelAxis: 0, reductionAxis: 1 },
    { input: 5, role: "bias", channelAxis: 0 },
  ],
  grad: nbitsGrad,
  narrow: narrowAttribute("N", 1, 0),
  traits: { linear: "matmul" },
};

/** Rows of a packed table: uint8 tables hold 8 / bits elements in each byte of the last axis. */
const gatherBlockInfer: Infer = (context) => {
  const data = shapeOf(context, 0);
  const indices = shapeOf(context, 1);
  const dtype = dtypeOf(context, 2);
  if (!data || !indices) return [{ dtype, shape: undefined }];
  const { node } = context;
  const perByte = dtypeOf(context, 0) === "uint8" ? Math.max(1, Math.floor(8 / node.int("bits", 4))) : 1;
  const whole: Shape = data.map((dim, i) => (i === data.length - 1 ? multiply(dim, perByte) : dim));
  const axis = (node.int("gather_axis", 0) + data.length) % data.length;
  return [{ dtype, shape: [...whole.slice(0, axis), ...indices, ...whole.slice(axis + 1)] }];
};

const gatherBlock: OpSpec = {
  since: 1,
  infer: gatherBlockInfer,
  cost: perOutput(2),
  axes: (node, ranks) => {
    const isPacked = node.inputs[0]?.dtype === "uint8";
    return isPacked || node.int("gather_axis", 0) !== 0 ? undefined : gatherAxes(node, ranks);
  },
  weights: [{ input: 0, role: "table", channelAxis: 0, reductionAxis: 1 }],
  grad: "none",
  traits: { lookup: true },
};

/** a, a scale, a zero, b, b scale, b zero, c scale, c zero. */
function qlinearBinary(): OpSpec {
  return {
    since: 1,
    infer: (context) => [
      { dtype: dtypeOf(context, 0), shape: broadcastShapes(context, [shapeOf(context, 0), shapeOf(context, 3)]) },
    ],
    cost: perOutput(2),
    axes: (node, ranks) => {
      const [a, b] = [node.inputs[0]?.shape, node.inputs[3]?.shape];
      const same = a && b && a.length === b.length && a.every((dim, i) => dim !== null && dim === b[i]);
      if (same) return "*a, , , *a, , , , -> *a";
      return isStored(node, 0) || ranks.length === 0 ? undefined : "*a -> *a";
    },
    grad: "none",
  };
}

/** x, x scale, x zero, y scale, y zero: elementwise on quantized data. */
const qlinearUnary: OpSpec = {
  since: 1,
  infer: (context) => [{ dtype: dtypeOf(context, 0), shape: shapeOf(context, 0) }],
  cost: perOutput(2),
  axes: SAME_AXES,
  grad: "none",
  traits: { elementwise: true },
};

const qlinearGlobalPool: OpSpec = {
  since: 1,
  infer: (context) => {
    const x = shapeOf(context, 0);
    const last = context.node.int("channels_last", 0) !== 0;
    return [
      {
        dtype: dtypeOf(context, 0),
        shape: x?.map((dim, i) => (i === 0 || i === (last ? x.length - 1 : 1) ? dim : 1)),
      },
    ];
  },
  cost: ({ inputs }) => ({ macs: 0, flops: count(inputs[0]) }),
  axes: (node) => (node.int("channels_last", 0) ? undefined : "n c *s -> n c *z"),
  grad: "none",
};

/** y scale, y zero, then (data, scale, zero) for each part. */
const qlinearConcat: OpSpec = {
  since: 1,
  infer: (context) => {
    const parts = context.node.inputs.flatMap((_, i) => (i >= 2 && (i - 2) % 3 === 0 ? [shapeOf(context, i)] : []));
    const axis = context.node.int("axis", 0);
    const first = parts[0];
    const dtype = dtypeOf(context, 2);
    if (!first || parts.some((part) => !part)) return [{ dtype, shape: undefined }];
    const at = (axis + first.length) % first.length;
    const total = parts.reduce<number | null>((sum, part) => {
      const size = part?.[at];
      return sum !== null && typeof size === "number" ? sum + size : null;
    }, 0);
    return [{ dtype, shape: first.map((dim, i) => (i === at ? total : dim)) }];
  },
  cost: perOutput(2),
  axes: "opaque",
  grad: "none",
};

const qgemm: OpSpec = {
  ...quantizedMatmul(1, 0, 3, 9, 0),
  infer: (context) => {
    const [a, b] = [shapeOf(context, 0), shapeOf(context, 3)];
    const m = a?.[context.node.int("transA", 0) ? 1 : 0] ?? null;
    const n = b?.[context.node.int("transB", 0) ? 0 : 1] ?? null;
    return [{ dtype: context.node.inputs[7] ? dtypeOf(context, 0) : "float32", shape: [m, n] }];
  },
  cost: ({ node, inputs, outputs }) => ({
    macs: count(outputs[0]) * (inputs[0]?.[node.int("transA", 0) ? 0 : 1] ?? 0),
  }),
  axes: "opaque",
  weights: (node) => {
    const [channelAxis, reductionAxis] = node.int("transB", 0) ? [0, 1] : [1, 0];
    return [
      { input: 3, role: "kernel", channelAxis, reductionAxis },
      { input: 6, role: "bias", channelAxis: 0 },
    ];
  },
  traits: { linear: "gemm" },
};

export const quantization: OpTable = {
  QuantizeLinear: quantizing(quantizeInfer, quantizeGrad, true),
  DequantizeLinear: quantizing(dequantizeInfer, dequantizeGrad, false),
  "com.microsoft::QuantizeLinear": quantizing(quantizeInfer, quantizeGrad, true),
  "com.microsoft::DequantizeLinear": quantizing(dequantizeInfer, dequantizeGrad, false),
  DynamicQuantizeLinear: {
    since: 11,
    infer: dynamicQuantizeInfer,
    cost: perOutput(4),
    // One range for all elements.
    axes: "*a! -> *a!, , ",
    grad: dynamicQuantizeGrad,
    traits: { rounding: true },
  },
  QLinearConv: qlinearConv,
  ConvInteger: convInteger,
  QLinearMatMul: quantizedMatmul(10, 0, 3, 8, 7),
  MatMulInteger: quantizedMatmul(10, 0, 1, 4, "int32"),
  "com.microsoft::MatMulIntegerToFloat": quantizedMatmul(1, 0, 1, 7, 2),
  "com.microsoft::DynamicQuantizeMatMul": quantizedMatmul(1, 0, 1, 5, "float32"),
  "com.microsoft::MatMulNBits": nbits,
  "com.microsoft::GatherBlockQuantized": gatherBlock,
  "com.microsoft::QGemm": qgemm,
  "com.microsoft::QLinearAdd": qlinearBinary(),
  "com.microsoft::QLinearMul": qlinearBinary(),
  "com.microsoft::QLinearSigmoid": qlinearUnary,
  "com.microsoft::QLinearLeakyRelu": qlinearUnary,
  "com.microsoft::QLinearSoftmax": { ...qlinearUnary, cost: perOutput(5), traits: {} },
  "com.microsoft::QLinearGlobalAveragePool": qlinearGlobalPool,
  "com.microsoft::QLinearConcat": qlinearConcat,
};
