/** Folds per-channel scales and shifts (BatchNormalization, Mul, Add, Sub, Div by constants) into the linear operator before them. */
import { bytesOf } from "../base/dtype.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import { constantTensor, onlyUse, outputValues, readNumbers } from "./constants.ts";

/** y = scale·x + shift along the channel axis 1 (`axis` "channel") or along the last axis; one element means all channels. */
interface Affine {
  readonly scale: Float64Array | undefined;
  readonly shift: Float64Array | undefined;
}

export interface FoldedAffine {
  /** The operator that went and the linear operator that took it over. */
  readonly folded: string;
  readonly into: string;
  /** The linear operator, and the factor that the weights of each channel took; undefined: none. */
  readonly linear: Node;
  readonly scale: Float64Array | undefined;
  /** What the operator that went gave; the linear operator's output has taken its place. */
  readonly output: Value;
}

export interface FoldAffineResult {
  readonly folded: readonly FoldedAffine[];
  readonly skipped: readonly { readonly what: string; readonly why: string }[];
}

/** Where a linear operator keeps its output channels. */
interface Linear {
  readonly node: Node;
  readonly weight: Value;
  readonly weightTensor: Tensor;
  /** Index of the bias input. */
  readonly biasInput: number | undefined;
  readonly channels: number;
  /** Axis of the operator's output that holds the channels, counted from the front, or "last". */
  readonly outputAxis: 1 | "last";
  /** Channel of each weight element group: (outer, channels, inner) layout with a possible group stride. */
  channelOf(flat: number): number;
}

/** Folds whatever can be folded, repeatedly, so that Conv → BatchNorm → Mul → Add all go into the Conv. */
export async function foldAffine(model: Model): Promise<FoldAffineResult> {
  const folded: FoldedAffine[] = [];
  const skipped = new Map<string, string>();
  for (const graph of model.graph.allGraphs()) {
    for (let changed = true; changed; ) {
      changed = false;
      const outputs = outputValues(model);
      for (const node of graph.nodes.slice()) {
        const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
        if (!spec?.traits?.linear || node.graph !== graph) continue;
        const output = node.outputs[0];
        const use = output && onlyUse(output, outputs);
        if (!use || use.node.graph !== graph) continue;
        const kind = affineKind(use.node);
        if (!kind) continue;
        const label = use.node.name || use.node.opType;
        const linear = linearOf(model, node);
        if (typeof linear === "string") {
          if (kind === "BatchNormalization") skipped.set(label, linear);
          continue;
        }
        const affine = await affineOf(model, use.node, use.index, linear);
        if (typeof affine === "string") {
          if (kind === "BatchNormalization") skipped.set(label, affine);
          continue;
        }
        const affineOutput = use.node.outputs[0] as Value;
        if (await applyAffine(model, graph, linear, use.node, affine)) {
          const channels = linear.channels;
          const scale =
            affine.scale?.length === 1 ? new Float64Array(channels).fill(affine.scale[0] ?? 1) : affine.scale;
          folded.push({ folded: label, into: node.name || node.opType, linear: node, scale, output: affineOutput });
          changed = true;
        }
      }
    }
  }
  return { folded, skipped: [...skipped].map(([what, why]) => ({ what, why })) };
}

function affineKind(node: Node): string | undefined {
  return node.domain === "" && ["BatchNormalization", "Mul", "Add", "Sub", "Div"].includes(node.opType)
    ? node.opType
    : undefined;
}

function linearOf(model: Model, node: Node): Linear | string {
  const name = node.name || node.opType;
  const weight = node.inputs[1];
  const tensor = constantTensor(model, weight);
  if (!weight || !tensor) return `the weight of ${name} is computed, not constant`;
  if (!["float32", "float64"].includes(tensor.dtype)) return `the weight of ${name} is ${tensor.dtype}`;
  if (weight.uses.length > 1) return `the weight of ${name} is shared with another operator`;
  const shape = tensor.shape;
  const base = { node, weight, weightTensor: tensor };
  const size = tensor.elements;
  switch (specOf(node, model.opset)?.traits?.linear) {
    case "conv": {
      const channels = shape[0] ?? 1; // (o, i/g, k…)
      const inner = size / channels;
      return { ...base, biasInput: 2, channels, outputAxis: 1, channelOf: (flat) => Math.floor(flat / inner) };
    }
    case "conv-transpose": {
      const groups = node.int("group", 1); // (i, o/g, k…)
      const [inputs = 1, perGroup = 1] = shape;
      const inner = size / (inputs * perGroup);
      const inputsPerGroup = inputs / groups;
      return {
        ...base,
        biasInput: 2,
        channels: perGroup * groups,
        outputAxis: 1,
        channelOf: (flat) => {
          const row = Math.floor(flat / (inner * perGroup));
          return Math.floor(row / inputsPerGroup) * perGroup + (Math.floor(flat / inner) % perGroup);
        },
      };
    }
    case "gemm": {
      const transposed = node.int("transB", 0) === 1;
      const channels = (transposed ? shape[0] : shape[1]) ?? 1;
      const inner = transposed ? size / channels : 1;
      return {
        ...base,
        biasInput: 2,
        channels,
        outputAxis: "last",
        channelOf: (flat) => Math.floor(flat / inner) % channels,
      };
    }
    case "matmul": {
      if (shape.length !== 2) return `the weight of ${name} is not a matrix`;
      const channels = shape[1] ?? 1;
      return { ...base, biasInput: undefined, channels, outputAxis: "last", channelOf: (flat) => flat % channels };
    }
    default:
      return `${name} is not a convolution or matrix product`;
  }
}

/** The affine map that a node applies to its input `index`, or why it is not one along the linear operator's channels. */
async function affineOf(model: Model, node: Node, index: number, linear: Linear): Promise<Affine | string> {
  const name = node.name || node.opType;
  if (node.opType === "BatchNormalization") {
    if (index !== 0) return `${name} takes the result as a parameter`;
    if (node.int("training_mode", 0) === 1 || node.outputs.length > 1) return `${name} is in training mode`;
    const rank = node.inputs[0]?.shape?.length;
    // BatchNormalization's channel axis is 1; a matrix product's channels are its last axis.
    if (linear.outputAxis === "last" && linear.node.opType === "MatMul" && rank !== 2)
      return `${name} normalizes axis 1, which is not the last axis of ${linear.node.name || linear.node.opType}`;
    const parameters: Float64Array[] = [];
    for (const input of [1, 2, 3, 4]) {
      const tensor = constantTensor(model, node.inputs[input]);
      const numbers = tensor && (await readNumbers(tensor));
      if (!numbers) return `a parameter of ${name} is not constant`;
      parameters.push(numbers);
    }
    const [gamma, beta, mean, variance] = parameters as [Float64Array, Float64Array, Float64Array, Float64Array];
    if (gamma.length !== linear.channels) return `${name} has ${gamma.length} channels, not ${linear.channels}`;
    const epsilon = node.float("epsilon", 1e-5);
    // y = γ·(x − μ)/√(σ² + ε) + β = a·x + (β − a·μ), a = γ/√(σ² + ε)
    const scale = gamma.map((g, c) => g / Math.sqrt((variance[c] ?? 0) + epsilon));
    const shift = beta.map((b, c) => b - (scale[c] ?? 0) * (mean[c] ?? 0));
    return { scale, shift };
  }
  const tensor = constantTensor(model, node.inputs[1 - index]);
  if (!tensor || !["float32", "float64"].includes(tensor.dtype)) return "not a constant";
  const rank = node.inputs[index]?.shape?.length;
  if (!alongChannels(tensor.shape, rank, linear)) return "not along the channels";
  const numbers = await readNumbers(tensor);
  if (!numbers) return "not numbers";
  switch (node.opType) {
    case "Mul":
      return { scale: numbers, shift: undefined };
    case "Add":
      return { scale: undefined, shift: numbers };
    case "Sub": // x − c, or c − x
      return index === 0
        ? { scale: undefined, shift: numbers.map((c) => -c) }
        : { scale: Float64Array.of(-1), shift: numbers };
    default: // x / c; c / x is not affine
      return index === 0 && numbers.every((c) => c !== 0)
        ? { scale: numbers.map((c) => 1 / c), shift: undefined }
        : "not affine";
  }
}

/** True if broadcasting the constant against the output varies along the channel axis only and does not raise its rank. */
function alongChannels(shape: readonly number[], rank: number | undefined, linear: Linear): boolean {
  const elements = shape.reduce((product, size) => product * size, 1);
  if (elements === 1 && (shape.length === 0 || (rank !== undefined && shape.length <= rank))) return true;
  if (elements !== linear.channels || rank === undefined || shape.length > rank) return false;
  const fromBack = linear.outputAxis === "last" ? 1 : rank - 1;
  return shape[shape.length - fromBack] === linear.channels;
}

/** Writes W' = a·W and b' = a·b + shift, and removes the affine node. */
async function applyAffine(model: Model, graph: Graph, linear: Linear, node: Node, affine: Affine): Promise<boolean> {
  const { weight, weightTensor, channels, biasInput } = linear;
  const dtype = weightTensor.dtype === "float64" ? "float64" : "float32";
  const at = (vector: Float64Array | undefined, channel: number, rest: number): number =>
    vector === undefined ? rest : ((vector.length === 1 ? vector[0] : vector[channel]) ?? rest);
  // A MatMul has no bias; its shift stays behind as an Add, unless there is none.
  if (biasInput === undefined && affine.shift && node.opType !== "BatchNormalization") return false;

  let bias: Float64Array | undefined;
  const biasValue = biasInput === undefined ? undefined : linear.node.inputs[biasInput];
  if (biasValue) {
    const tensor = constantTensor(model, biasValue);
    const numbers = tensor && (await readNumbers(tensor));
    if (!numbers || ![1, channels].includes(numbers.length) || (tensor.shape.at(-1) ?? 1) !== numbers.length)
      return false;
    bias = Float64Array.from({ length: channels }, (_, c) => at(numbers, c, 0));
  }
  const gemm = linear.node.opType === "Gemm";
  const beta = gemm ? linear.node.float("beta", 1) : 1;
  const output = node.outputs[0] as Value;
  const result = linear.node.outputs[0] as Value;
  // A MatMul has nowhere to keep a shift: the normalization behind it stays, as an Add.
  const staysAsAdd = biasInput === undefined && affine.shift !== undefined;
  if (!staysAsAdd && !graph.replaceValue(output, result)) return false;

  if (affine.scale) {
    const scale = affine.scale;
    const scaled = Tensor.lazy(dtype, weightTensor.shape, async () => {
      const data = await weightTensor.data();
      const made = dtype === "float64" ? new Float64Array(data.length) : new Float32Array(data.length);
      for (let i = 0; i < made.length; i++) made[i] = Number(data[i]) * at(scale, linear.channelOf(i), 1);
      return bytesOf(made);
    });
    linear.node.setInput(1, graph.addInitializer(weight.name, scaled));
  }
  if (affine.shift || bias) {
    const sums = Float64Array.from(
      { length: channels },
      (_, c) => at(bias, c, 0) * beta * at(affine.scale, c, 1) + at(affine.shift, c, 0),
    );
    const tensor = Tensor.of(dtype, [channels], dtype === "float64" ? sums : Float32Array.from(sums));
    const shift = graph.addInitializer(biasValue?.name ?? `${linear.node.name || weight.name}_bias`, tensor);
    if (staysAsAdd) {
      node.detach();
      node.opType = "Add";
      node.attributes.clear();
      node.setInput(0, result);
      node.setInput(1, shift);
      return true;
    }
    if (biasInput !== undefined) linear.node.setInput(biasInput, shift);
    if (gemm) linear.node.attributes.delete("beta");
  }
  graph.remove(node);
  return true;
}
