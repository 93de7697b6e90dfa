/** One small model per operator with a large weight, and the weight that a quantized copy of it stores, decoded in plain TypeScript. */
import { toFloat32 } from "../../src/base/to-float32.ts";
import type { Dim } from "../../src/base/shape.ts";
import type { Attribute } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { formatNamed } from "../../src/techniques/quantize/weights/formats.ts";
import { randomTensor } from "./small-models.ts";

interface Case {
  readonly op: string;
  readonly domain?: string;
  readonly attributes?: Readonly<Record<string, number | readonly number[] | Attribute>>;
  /** Shape of the data input; null for indices into a table. */
  readonly x: readonly number[] | null;
  /** Shapes of the weights that are quantized, in their places behind the data; tables come before it. */
  readonly weights: readonly (readonly number[])[];
  /** Shapes of biases behind them. */
  readonly rest?: readonly (readonly number[])[];
  readonly y: readonly Dim[];
}

/** Every operator whose weights can have any format; inputs are fixed so that a model needs nothing else. */
export const WEIGHT_CASES: Readonly<Record<string, Case>> = {
  MatMul: { op: "MatMul", x: [3, 64], weights: [[64, 48]], y: [3, 48] },
  "batched MatMul": { op: "MatMul", x: [2, 3, 64], weights: [[2, 64, 48]], y: [2, 3, 48] },
  Gemm: { op: "Gemm", attributes: { transB: 1 }, x: [3, 64], weights: [[48, 64]], rest: [[48]], y: [3, 48] },
  Conv: { op: "Conv", x: [1, 16, 5, 5], weights: [[24, 16, 3, 3]], rest: [[24]], y: [1, 24, 3, 3] },
  "depthwise Conv": {
    op: "Conv",
    attributes: { group: 256 },
    x: [1, 256, 5, 5],
    weights: [[256, 1, 3, 3]],
    y: [1, 256, 3, 3],
  },
  "Conv in one dimension": { op: "Conv", x: [1, 32, 9], weights: [[24, 32, 5]], y: [1, 24, 5] },
  ConvTranspose: { op: "ConvTranspose", x: [1, 24, 3, 3], weights: [[24, 16, 3, 3]], y: [1, 16, 5, 5] },
  Gather: { op: "Gather", x: null, weights: [[96, 64]], y: [5, 64] },
  LSTM: {
    op: "LSTM",
    attributes: { hidden_size: 16 },
    x: [4, 2, 48],
    weights: [
      [1, 64, 48],
      [1, 64, 16],
    ],
    rest: [[1, 128]],
    y: [4, 1, 2, 16],
  },
  GRU: {
    op: "GRU",
    attributes: { hidden_size: 24 },
    x: [4, 2, 48],
    weights: [
      [1, 72, 48],
      [1, 72, 24],
    ],
    y: [4, 1, 2, 24],
  },
  RNN: {
    op: "RNN",
    attributes: { hidden_size: 48 },
    x: [4, 2, 64],
    weights: [
      [1, 48, 64],
      [1, 48, 48],
    ],
    y: [4, 1, 2, 48],
  },
  Attention: {
    op: "Attention",
    domain: "com.microsoft",
    attributes: { num_heads: 2 },
    x: [2, 3, 32],
    weights: [[32, 96]],
    rest: [[96]],
    y: [2, 3, 32],
  },
};

/** A model with these cases side by side: inputs `x <case>`, outputs `<case>`, weights `<case> w0`, `<case> w1`. */
export function weightModel(names: readonly string[], opset: number): Model {
  const model = new Model(undefined, opset, opset >= 25 ? 13 : opset >= 21 ? 10 : 8);
  const b = new Builder(model.graph);
  for (const name of names) {
    const { op, domain = "", attributes = {}, x, weights, rest = [], y } = WEIGHT_CASES[name] as Case;
    if (domain) model.opsets.set(domain, 1);
    const data = x ? b.input(`x ${name}`, "float32", x) : b.constant("indices", Tensor.int64([0, 95, 7, 33, 64]));
    const kernels = weights.map((shape, i) => b.constant(`${name} w${i}`, randomTensor(shape, i + 1, 0.2)));
    const biases = rest.map((shape, i) => b.constant(`${name} b${i}`, randomTensor(shape, i + 11, 0.1)));
    const inputs = x ? [data, ...kernels, ...biases] : [...kernels, data];
    let result = b.op(op, inputs, { domain, attributes, name: `${name} layer` });
    // Constant results would be folded away
    if (!x) result = b.op("Add", [result, b.input(`x ${name}`, "float32", [5, 64])]);
    [result.dtype, result.shape] = ["float32", y];
    b.output(result, name);
  }
  return model;
}

/** Names and shapes of the quantized weights of a case. */
export function weightsOfCase(name: string): [string, readonly number[]][] {
  return (WEIGHT_CASES[name]?.weights ?? []).map((shape, i) => [`${name} w${i}`, shape]);
}

/**
 * The quantized weight `name` as floats in its own shape: ŵ = (code − z)·s or levels[code]·s. `byColumns` says of a square matrix
 * in a packed kernel that its inputs were rows.
 */
export async function storedWeight(
  model: Model,
  name: string,
  format: string,
  shape: readonly number[],
  byColumns = true,
): Promise<Float32Array> {
  const known = formatNamed(format as Parameters<typeof formatNamed>[0]);
  const find = (part: string): Value | undefined => {
    for (const graph of model.graph.allGraphs()) {
      const value = graph.find(`${name}.${part}`);
      if (value) return value;
    }
    return undefined;
  };
  const tensorOf = (part: string): Tensor | undefined => find(part)?.tensor;
  const floats = async (part: string): Promise<Float32Array | undefined> => {
    const tensor = tensorOf(part);
    return tensor && toFloat32(tensor.dtype, await tensor.bytes(), tensor.elements);
  };
  const codesTensor = tensorOf("codes") as Tensor;
  const native = known.kind === "levels" ? known.levels.native : undefined;
  const elements = shape.reduce((a, b) => a * b, 1);
  // The codes of a packed table reach a product through a Reshape
  const codesValue = find("codes");
  const readers = (codesValue?.uses ?? []).flatMap(({ node }) => [
    node,
    ...node.outputs.flatMap((o) => o.uses.map((use) => use.node)),
  ]);
  const node = readers.find(({ opType }) => opType === "MatMulNBits" || opType === "GatherBlockQuantized");
  const packed = node !== undefined;
  const bytes = await codesTensor.bytes();
  const inBytes = codesTensor.dtype === "uint8" && known.bits < 8;
  const codes = inBytes
    ? unpackPlanes(bytes, packed ? codesTensor.elements * (8 / known.bits) : elements, known.bits)
    : toFloat32(native?.dtype ?? codesTensor.dtype, bytes, elements);
  const scales = await floats("scales");
  const levels = known.kind === "levels" && !native ? known.levels.values : await floats("levels");
  const blocks = scales?.length ?? 1;
  const middle = known.kind === "int" && known.bits < 16 ? 2 ** (known.bits - 1) : 0;
  const zeroBytes = await tensorOf("zero")?.bytes();
  const zeros = !zeroBytes
    ? undefined
    : packed && known.bits < 8
      ? unpackPlanes(zeroBytes, (zeroBytes.length * 8) / known.bits, known.bits)
      : zeroBytes;
  const { fround } = Math;
  const rows = packed ? (tensorOf("scales")?.shape[0] ?? 1) : blocks;
  const perRow = packed ? codes.length / rows : elements / blocks;
  const block = packed ? perRow / (blocks / rows) : perRow;
  const zeroRow = zeros && packed ? zeros.length / rows : 1;
  const value = (i: number): number => {
    const [row, at] = [Math.floor(i / perRow), Math.floor((i % perRow) / block)];
    const code = codes[i] as number;
    const group = packed ? row * (blocks / rows) + at : row;
    const zero = zeros ? (zeros[packed ? row * zeroRow + at : row] as number) : levels ? 0 : middle;
    const level = levels ? (levels[code] as number) : code - zero;
    return scales ? fround(level * (scales[group] as number)) : level;
  };
  // Columns of a stored (k, n) matrix are rows of codes, padded to whole blocks
  const use = isTransposed(codesValue) || (node?.opType === "MatMulNBits" && shape.length === 2);
  const stored = tensorOf("scales")?.shape[0];
  const turned = stored === shape[1] && (stored !== shape[0] || byColumns);
  if (use && shape.length === 2 && (!packed || turned)) {
    const [k = 1, n = 1] = shape;
    const length = packed ? perRow : k;
    return Float32Array.from({ length: elements }, (_, i) => value((i % n) * length + Math.floor(i / n)));
  }
  const length = packed ? (shape[1] as number) : elements;
  return Float32Array.from({ length: elements }, (_, i) =>
    value(Math.floor(i / length) * (packed ? perRow : 0) + (packed ? i % length : i)),
  );
}

/** True if what unpacks the codes ends in a Transpose; one behind it is the model's own. */
function isTransposed(codes: Value | undefined): boolean {
  const next = codes?.uses.map(({ node }) => node).find(({ name }) => name.startsWith("pare.w"));
  return next !== undefined && (next.opType === "Transpose" || isTransposed(next.outputs[0]));
}

/** Codes out of planes of 1, 2 and 4 bits, low bits first. */
function unpackPlanes(bytes: Uint8Array, count: number, bits: number): Uint8Array {
  const widths = { 3: [2, 1], 5: [4, 1], 6: [4, 2] }[bits] ?? [bits];
  const codes = new Uint8Array(count);
  let [from, shift] = [0, 0];
  for (const width of widths) {
    for (let i = 0; i < count; i++) {
      const bit = i * width;
      const field = ((bytes[from + (bit >> 3)] as number) >> (bit & 7)) & (2 ** width - 1);
      codes[i] = (codes[i] as number) | (field << shift);
    }
    from += Math.ceil((count * width) / 8);
    shift += width;
  }
  return codes;
}

/** The original model with other weights. */
export async function withWeights(original: Model, weights: Readonly<Record<string, Float32Array>>): Promise<Model> {
  const model = cloneModel(original);
  for (const graph of model.graph.allGraphs())
    for (const [name, value] of graph.initializers) {
      const data = weights[name];
      if (data && value.tensor) value.tensor = Tensor.float32(value.tensor.shape, data);
    }
  return model;
}
