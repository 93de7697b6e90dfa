/** Random calls of operators, every shape and attribute drawn from a seed, as the same data that tests/ops holds. */
import type { Rng } from "../../src/base/rng.ts";
import type { CaseInput, OpCase } from "../support/op-case.ts";

type Draw = (rng: Rng) => Omit<OpCase, "note">;

const f32 = (shape: readonly number[], range?: readonly [number, number]): CaseInput =>
  range ? { dtype: "float32", shape, range } : { dtype: "float32", shape };
const list = (values: readonly number[]): CaseInput => ({
  dtype: "int64",
  shape: [values.length],
  values,
  constant: true,
});

const between = (rng: Rng, low: number, high: number): number => low + rng.below(high - low + 1);
const many = (rng: Rng, count: number, low: number, high: number): number[] =>
  Array.from({ length: count }, () => between(rng, low, high));
const pick = <T>(rng: Rng, items: readonly T[]): T => items[rng.below(items.length)] as T;
const chance = (rng: Rng): boolean => rng.below(2) === 0;

/** A shape that broadcasts against `whole`: leading axes dropped, others made 1. */
function narrowed(rng: Rng, whole: readonly number[]): number[] {
  return whole.slice(rng.below(whole.length + 1)).map((size) => (rng.below(3) === 0 ? 1 : size));
}

/** Shapes that broadcast against one another, one of them whole. */
function broadcastShapes(rng: Rng, count: number): number[][] {
  const whole = many(rng, between(rng, 1, 4), 1, 4);
  const shapes = Array.from({ length: count }, () => narrowed(rng, whole));
  shapes[rng.below(count)] = whole;
  return shapes;
}

const elementwise =
  (op: string, count: number, range?: readonly [number, number]): Draw =>
  (rng) => ({ op, opset: 21, inputs: broadcastShapes(rng, count).map((shape) => f32(shape, range)) });

/** Strides, dilations, and pads below the kernel's reach. */
function sliding(rng: Rng, kernel: readonly number[]): Record<string, number[]> {
  const dilations = kernel.map(() => between(rng, 1, 2));
  const reach = kernel.map((k, i) => (k - 1) * (dilations[i] ?? 1));
  return {
    strides: kernel.map(() => between(rng, 1, 3)),
    dilations,
    pads: [...reach, ...reach].map((most) => rng.below(most + 1)),
  };
}

const conv: Draw = (rng) => {
  const kernel = many(rng, between(rng, 1, 3), 1, 3);
  const group = between(rng, 1, 3);
  const [perGroup, outputs] = [between(rng, 1, 2), between(rng, 1, 2)];
  const inside = kernel.map((k) => 2 * k + between(rng, 0, 3));
  const inputs = [f32([2, perGroup * group, ...inside]), f32([outputs * group, perGroup, ...kernel])];
  if (chance(rng)) inputs.push(f32([outputs * group]));
  const { pads, ...rest } = sliding(rng, kernel);
  const padding = chance(rng) ? { pads } : { auto_pad: pick(rng, ["SAME_UPPER", "SAME_LOWER", "VALID"]) };
  const ones = kernel.map(() => 1);
  const slide = "pads" in padding ? rest : { ...rest, dilations: ones };
  return {
    op: "Conv",
    opset: 17,
    attributes: { ...slide, ...padding, group } as NonNullable<OpCase["attributes"]>,
    inputs,
  };
};

const convTranspose: Draw = (rng) => {
  const kernel = many(rng, between(rng, 1, 3), 2, 3);
  const group = between(rng, 1, 2);
  const [perGroup, outputs] = [between(rng, 1, 2), between(rng, 1, 2)];
  const { strides = [], dilations = [], pads = [] } = sliding(rng, kernel);
  const attributes: Record<string, number | number[]> = { strides, dilations, group };
  attributes["pads"] = pads.map((amount) => Math.min(amount, 1));
  attributes["output_padding"] = strides.map((stride) => rng.below(stride));
  const inputs = [
    f32([2, perGroup * group, ...kernel.map(() => between(rng, 2, 3))]),
    f32([perGroup * group, outputs, ...kernel]),
  ];
  if (chance(rng)) inputs.push(f32([outputs * group]));
  return { op: "ConvTranspose", opset: 17, attributes, inputs };
};

const pool =
  (op: string): Draw =>
  (rng) => {
    const kernel = many(rng, between(rng, 1, 3), 2, 3);
    const { strides = [], dilations = [], pads = [] } = sliding(rng, kernel);
    const attributes: Record<string, number | number[]> = { kernel_shape: kernel, strides };
    attributes["pads"] = pads.map((amount, i) => Math.min(amount, (kernel[i % kernel.length] ?? 1) - 1));
    if (op !== "LpPool") attributes["dilations"] = dilations;
    if (op === "AveragePool") attributes["count_include_pad"] = rng.below(2);
    if (op === "LpPool") attributes["p"] = between(rng, 1, 3);
    return { op, opset: 19, attributes, inputs: [f32([2, 2, ...kernel.map((k) => 2 * k + between(rng, 0, 2))])] };
  };

const matMul: Draw = (rng) => {
  const [m, k, n] = many(rng, 3, 1, 4) as [number, number, number];
  const batch = many(rng, between(rng, 0, 2), 1, 3);
  const a = rng.below(4) === 0 ? [k] : [...narrowed(rng, batch), m, k];
  const b = rng.below(4) === 0 ? [k] : [...(a.length === 1 ? batch : narrowed(rng, batch)), k, n];
  return { op: "MatMul", opset: 13, inputs: [f32(a), f32(b)] };
};

const gemm: Draw = (rng) => {
  const [m, k, n] = many(rng, 3, 1, 4) as [number, number, number];
  const [transA, transB] = [rng.below(2), rng.below(2)];
  const inputs = [f32(transA ? [k, m] : [m, k]), f32(transB ? [n, k] : [k, n])];
  if (chance(rng)) inputs.push(f32(pick(rng, [[], [n], [1, n], [m, 1], [m, n], [1]])));
  const attributes = { transA, transB, alpha: { float: 0.5 }, beta: { float: -2 } };
  return { op: "Gemm", opset: 13, attributes, inputs };
};

const fusedMatMul: Draw = (rng) => {
  const [m, k, n] = many(rng, 3, 1, 4) as [number, number, number];
  const batch = many(rng, between(rng, 0, 2), 1, 3);
  const [transA, transB] = [rng.below(2), rng.below(2)];
  const a = transA ? [k, m] : [m, k];
  const b = transB ? [n, k] : [k, n];
  const inputs = [f32([...narrowed(rng, batch), ...a]), f32([...batch, ...b])];
  return {
    op: "FusedMatMul",
    domain: "com.microsoft",
    opset: 17,
    attributes: { transA, transB, alpha: { float: 0.25 } },
    inputs,
  };
};

const EQUATIONS: readonly (readonly [string, ...number[][]])[] = [
  ["ij,jk->ik", [2, 3], [3, 4]],
  ["bhqd,bhkd->bhqk", [2, 2, 3, 2], [2, 2, 4, 2]],
  ["bhqk,bhkd->bhqd", [2, 2, 3, 4], [2, 2, 4, 2]],
  ["...ij,jk->...ik", [2, 2, 3, 2], [2, 3]],
  ["...i,...i->...", [2, 3], [1, 3]],
  ["i,j->ij", [3], [2]],
  ["ij->ji", [2, 3]],
  ["ij->i", [2, 3]],
  ["ijk->", [2, 3, 2]],
  ["ij,ij,i->j", [3, 2], [3, 2], [3]],
  ["bc,bcd", [2, 3], [2, 3, 2]],
  ["ab,cd->ac", [2, 3], [2, 2]],
  ["ii->i", [3, 3]],
  ["ii->", [3, 3]],
  ["iji,j->ij", [2, 3, 2], [3]],
  ["bii,bij->bj", [2, 3, 3], [2, 3, 2]],
  ["...ii->...i", [2, 2, 3, 3]],
  ["iijj->ij", [2, 2, 3, 3]],
  ["...ab,...cb->...c", [1, 2, 3], [2, 2, 3]],
];

const einsum =
  ([equation, ...shapes]: (typeof EQUATIONS)[number]): Draw =>
  () => ({ op: "Einsum", opset: 12, attributes: { equation }, inputs: shapes.map((shape) => f32(shape)) });

const reduce =
  (op: string, range?: readonly [number, number]): Draw =>
  (rng) => {
    const shape = many(rng, between(rng, 1, 4), 1, 4);
    const axes = shape.flatMap((_, axis) => (chance(rng) ? [chance(rng) ? axis : axis - shape.length] : []));
    const keepdims = rng.below(2);
    const inputs = [f32(shape, range)];
    if (op !== "ReduceSum" && chance(rng))
      return { op, opset: 13, attributes: { keepdims, ...(axes.length > 0 ? { axes } : {}) }, inputs };
    if (axes.length > 0 || chance(rng)) inputs.push(list(axes));
    return { op, opset: 18, attributes: { keepdims }, inputs };
  };

/** Large enough that two elements which happen to be equal do not divide rounding errors by almost nothing. */
const EPSILON = { epsilon: { float: 0.01 } };

const channels =
  (op: string, opset: number): Draw =>
  (rng) => {
    const group = between(rng, 1, 3);
    const width = group * between(rng, 1, 2);
    const x = f32([between(rng, 1, 3), width, ...many(rng, between(rng, 1, 3), 2, 3)]);
    const scale = f32([op === "GroupNormalization" && opset < 21 ? group : width]);
    const attributes = { ...EPSILON, ...(op === "GroupNormalization" ? { num_groups: group } : {}) };
    return { op, opset, attributes, inputs: [x, scale, scale] };
  };

const batchNorm: Draw = (rng) => {
  const width = between(rng, 1, 3);
  const x = f32([between(rng, 2, 3), width, ...many(rng, between(rng, 0, 3), 2, 3)]);
  const [row, positive] = [f32([width]), f32([width], [0.5, 2])];
  const training = chance(rng);
  const momentum = { float: pick(rng, [0, 0.9, 0.5]) };
  return {
    op: "BatchNormalization",
    opset: 15,
    attributes: training ? { training_mode: 1, momentum } : { momentum },
    inputs: [x, row, row, row, positive],
    outputs: training ? 3 : 1,
  };
};

const layer =
  (op: string, opset: number, bias: boolean): Draw =>
  (rng) => {
    const shape = many(rng, between(rng, 1, 4), 2, 4);
    const first = rng.below(shape.length);
    const scale = f32(shape.slice(first));
    const axis = chance(rng) ? first : first - shape.length;
    return {
      op,
      opset,
      attributes: { axis, ...EPSILON },
      inputs: [f32(shape), scale, ...(bias && chance(rng) ? [scale] : [])],
    };
  };

const skip =
  (op: string): Draw =>
  (rng) => {
    const [batch, length, width] = many(rng, 3, 2, 4) as [number, number, number];
    const other = pick(rng, [
      [batch, length, width],
      [1, length, width],
      [length, width],
    ]);
    const row = f32([width]);
    const beta = op === "SkipLayerNormalization" ? [chance(rng) ? row : null] : [];
    const inputs = [f32([batch, length, width]), f32(other), row, ...beta, ...(chance(rng) ? [row] : [])];
    return { op, domain: "com.microsoft", opset: 17, attributes: { epsilon: { float: 0.001 } }, inputs, outputs: 4 };
  };

const alongAxis =
  (op: string, opset: number): Draw =>
  (rng) => {
    const shape = many(rng, between(rng, 1, 4), 2, 4);
    return { op, opset, attributes: { axis: between(rng, -shape.length, shape.length - 1) }, inputs: [f32(shape)] };
  };

const lrn: Draw = (rng) => ({
  op: "LRN",
  opset: 13,
  attributes: { size: pick(rng, [1, 3, 5]), alpha: { float: 0.5 }, beta: { float: 0.6 }, bias: { float: 1.5 } },
  inputs: [f32([2, between(rng, 2, 6), ...many(rng, 2, 1, 3)])],
});

const loss =
  (op: string): Draw =>
  (rng) => {
    const [batch, classes] = [between(rng, 1, 3), between(rng, 2, 4)];
    const spatial = many(rng, between(rng, 0, 2), 1, 3);
    const shape = [batch, ...spatial];
    // The first label is never the ignored one: a mean over nothing is not a number.
    const values = Array.from({ length: shape.reduce((n, size) => n * size, 1) }, (_, i) =>
      i ? rng.below(classes) : 1,
    );
    const labels = { dtype: "int64", shape, values } as const;
    const attributes: Record<string, string | number> = { reduction: pick(rng, ["none", "mean", "sum"]) };
    if (chance(rng)) attributes["ignore_index"] = 0;
    const weights = chance(rng) ? [f32([classes], [0.5, 2])] : [];
    return { op, opset: 13, attributes, inputs: [f32([batch, classes, ...spatial]), labels, ...weights] };
  };

/** Places in and around the image. */
const gridSample: Draw = (rng) => {
  const rank = between(rng, 2, 3);
  const [batch, width] = many(rng, 2, 1, 2) as [number, number];
  const attributes = {
    mode: pick(rng, rank === 2 ? ["linear", "cubic", "nearest"] : ["linear", "nearest"]),
    padding_mode: pick(rng, ["zeros", "border", "reflection"]),
    align_corners: rng.below(2),
  };
  const inputs = [
    f32([batch, width, ...many(rng, rank, 1, 4)]),
    f32([batch, ...many(rng, rank, 1, 3), rank], [-2.2, 2.2]),
  ];
  return { op: "GridSample", opset: 20, attributes, inputs };
};

const affineGrid: Draw = (rng) => {
  const rank = between(rng, 2, 3);
  const size = [between(rng, 1, 2), 1, ...many(rng, rank, 2, 3)];
  const inputs = [f32([size[0] as number, rank, rank + 1]), list(size)];
  return { op: "AffineGrid", opset: 20, attributes: { align_corners: rng.below(2) }, inputs };
};

const roiAlign: Draw = (rng) => {
  const count = between(rng, 1, 3);
  const corners = Array.from({ length: count }, () => [0, 1, 0, 1].map((_, i) => rng.uniform(-1, 3) + (i > 1 ? 3 : 0)));
  const attributes = {
    output_height: between(rng, 1, 3),
    output_width: between(rng, 1, 3),
    sampling_ratio: between(rng, 1, 2),
    coordinate_transformation_mode: pick(rng, ["half_pixel", "output_half_pixel"]),
  };
  const images = { dtype: "int64", shape: [count], values: corners.map(() => rng.below(2)), constant: true } as const;
  const inputs = [f32([2, 2, ...many(rng, 2, 3, 6)]), { ...f32([count, 4]), values: corners.flat() }, images];
  return { op: "RoiAlign", opset: 16, attributes, inputs };
};

const col2Im: Draw = (rng) => {
  const kernel = many(rng, between(rng, 2, 3), 1, 3);
  const image = kernel.map((k) => 2 * k + between(rng, 0, 2));
  const { strides = [], pads = [], ...rest } = sliding(rng, kernel);
  // Dilated blocks of volumes are added in the wrong places by the engine (1.30).
  const dilations = kernel.length === 2 ? (rest["dilations"] ?? []) : kernel.map(() => 1);
  const blocks = image.map((size, i) => {
    const reach = ((kernel[i] ?? 1) - 1) * (dilations[i] ?? 1) + 1;
    const padded = size + (pads[i] ?? 0) + (pads[i + image.length] ?? 0);
    return Math.floor((padded - reach) / (strides[i] ?? 1)) + 1;
  });
  const columns = kernel.reduce((n, size) => n * size, between(rng, 1, 2));
  const inputs = [f32([2, columns, blocks.reduce((n, count) => n * count, 1)]), list(image), list(kernel)];
  return { op: "Col2Im", opset: 18, attributes: { strides, dilations, pads }, inputs };
};

const dft: Draw = (rng) => {
  const shape = many(rng, between(rng, 2, 3), 1, 6);
  const axis = between(rng, 1, shape.length - 1);
  shape[axis] = between(rng, 4, 9);
  const real = chance(rng);
  const onesided = real && chance(rng) ? 1 : 0;
  const attributes = { axis, onesided, inverse: onesided ? 0 : rng.below(2) };
  const length = { dtype: "int64", shape: [], values: [between(rng, 3, 10)], constant: true } as const;
  return {
    op: "DFT",
    opset: 17,
    attributes,
    inputs: [f32([...shape, real ? 1 : 2]), ...(chance(rng) ? [length] : [])],
  };
};

const stft: Draw = (rng) => {
  const [length, step] = [between(rng, 3, 8), between(rng, 1, 5)];
  const scalar = (value: number): CaseInput => ({ dtype: "int64", shape: [], values: [value], constant: true });
  const real = chance(rng);
  // The engine (1.30) reads beyond a complex signal where there is a window.
  const window = real && chance(rng) ? f32([length]) : null;
  return {
    op: "STFT",
    opset: 17,
    attributes: { onesided: real ? rng.below(2) : 0 },
    inputs: [f32([2, length + between(rng, 0, 9), real ? 1 : 2]), scalar(step), window, scalar(length)],
  };
};

const positive = [0.5, 2] as const;

export const RANDOM: Readonly<Record<string, Draw>> = {
  Add: elementwise("Add", 2),
  Sub: elementwise("Sub", 2),
  Mul: elementwise("Mul", 2),
  Div: elementwise("Div", 2, positive),
  Pow: elementwise("Pow", 2, positive),
  PRelu: (rng) => {
    const shape = many(rng, between(rng, 1, 4), 1, 4);
    return { op: "PRelu", opset: 16, inputs: [f32(shape), f32(narrowed(rng, shape))] };
  },
  Max: elementwise("Max", 3),
  Min: elementwise("Min", 2),
  Sum: elementwise("Sum", 3),
  Mean: elementwise("Mean", 3),
  Conv: conv,
  ConvTranspose: convTranspose,
  AveragePool: pool("AveragePool"),
  MaxPool: pool("MaxPool"),
  LpPool: pool("LpPool"),
  MatMul: matMul,
  Gemm: gemm,
  FusedMatMul: fusedMatMul,
  ...Object.fromEntries(EQUATIONS.map((each) => [`Einsum ${each[0]}`, einsum(each)])),
  ReduceSum: reduce("ReduceSum"),
  ReduceMean: reduce("ReduceMean"),
  ReduceMax: reduce("ReduceMax"),
  ReduceMin: reduce("ReduceMin"),
  ReduceProd: reduce("ReduceProd"),
  ReduceL1: reduce("ReduceL1"),
  ReduceL2: reduce("ReduceL2"),
  ReduceSumSquare: reduce("ReduceSumSquare"),
  ReduceLogSum: reduce("ReduceLogSum", positive),
  ReduceLogSumExp: reduce("ReduceLogSumExp"),
  InstanceNormalization: channels("InstanceNormalization", 13),
  GroupNormalization: channels("GroupNormalization", 21),
  "GroupNormalization before opset 21": channels("GroupNormalization", 18),
  BatchNormalization: batchNorm,
  LayerNormalization: layer("LayerNormalization", 17, true),
  RMSNormalization: layer("RMSNormalization", 23, false),
  SkipLayerNormalization: skip("SkipLayerNormalization"),
  SkipSimplifiedLayerNormalization: skip("SkipSimplifiedLayerNormalization"),
  LpNormalization: alongAxis("LpNormalization", 13),
  LRN: lrn,
  Softmax: alongAxis("Softmax", 13),
  "Softmax before opset 13": alongAxis("Softmax", 12),
  LogSoftmax: alongAxis("LogSoftmax", 13),
  GridSample: gridSample,
  AffineGrid: affineGrid,
  RoiAlign: roiAlign,
  Col2Im: col2Im,
  DFT: dft,
  STFT: stft,
  SoftmaxCrossEntropyLoss: loss("SoftmaxCrossEntropyLoss"),
  NegativeLogLikelihoodLoss: loss("NegativeLogLikelihoodLoss"),
};
