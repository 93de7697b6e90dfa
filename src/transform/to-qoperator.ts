/** Writes a model of QuantizeLinear/DequantizeLinear pairs with operators that take integers themselves (QLinearConv and its kin). */
import { nameOf } from "../analyse/keep.ts";
import type { AttributeInput } from "../ir/attribute.ts";
import { Builder } from "../ir/builder.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";
import { outputValues } from "./constants.ts";
import { removeDead } from "./remove-dead.ts";

/** Domain of the engine's own operators. */
const ENGINE = "com.microsoft";

/** Integers and what they stand for: (codes − zero)·scale. */
interface Quantized {
  readonly codes: Value;
  readonly scale: Value;
  readonly zeroPoint: Value | undefined;
  /** Axis of the scales, where there is one for each channel. */
  readonly axis: number;
  readonly constant: boolean;
}

/** An operator between its dequantized inputs and, where its output alone is quantized, the grid of that. */
interface Site {
  readonly node: Node;
  readonly inputs: readonly (Quantized | undefined)[];
  /** Scale and zero point of the output; undefined where it is read as a float. */
  readonly grid: readonly [Value, Value | undefined] | undefined;
  readonly opset: number;
}

/** The operator on integers. */
interface IntegerForm {
  readonly opType: string;
  readonly domain: string;
  readonly inputs: readonly (Value | undefined)[];
  /** Attributes beyond those of the operator itself; undefined leaves one out. */
  readonly attributes?: Readonly<Record<string, AttributeInput | undefined>>;
}

export interface QOperatorResult {
  readonly converted: number;
  /** Operators between DequantizeLinear and QuantizeLinear that have no such form. */
  readonly left: readonly { readonly what: string; readonly why: string }[];
}

const parts = ({ codes, scale, zeroPoint }: Quantized): (Value | undefined)[] => [codes, scale, zeroPoint];

/** All inputs that an operator has are quantized. */
function whole(site: Site, count: number): readonly Quantized[] | undefined {
  const given = site.inputs.slice(0, count);
  return given.length === count && given.every((each) => each !== undefined) ? (given as Quantized[]) : undefined;
}

const unary =
  (opType: string, attributes?: (site: Site) => IntegerForm["attributes"]) =>
  (site: Site): IntegerForm | string => {
    const [x] = whole(site, 1) ?? [];
    if (!x || !site.grid) return NOT_BETWEEN;
    const extra = attributes?.(site);
    return { opType, domain: ENGINE, inputs: [...parts(x), ...site.grid], ...(extra ? { attributes: extra } : {}) };
  };

const binary =
  (opType: string) =>
  (site: Site): IntegerForm | string => {
    const both = whole(site, 2);
    if (!both || !site.grid) return NOT_BETWEEN;
    return { opType, domain: ENGINE, inputs: [...both.flatMap(parts), ...site.grid] };
  };

const NOT_BETWEEN = "not all that it reads and gives is quantized";

/**
 * Forms by operator of the standard domain. Where a scale for each channel would lie along an axis that the kernel does not know, or
 * the operator has an argument that the kernel has not, the pairs stay.
 */
const FORMS: Readonly<Record<string, (site: Site) => IntegerForm | string>> = {
  Conv(site) {
    const [x, w, bias] = site.inputs;
    if (!x || !w?.constant || !site.grid || (site.node.inputs[2] && !bias)) return NOT_BETWEEN;
    if (w.axis !== 0 && !isScalar(w.scale)) return "its scales do not lie along its output channels";
    return { opType: "QLinearConv", domain: "", inputs: [...parts(x), ...parts(w), ...site.grid, bias?.codes] };
  },
  MatMul(site) {
    const [a, b] = whole(site, 2) ?? [];
    if (!a || !b) return NOT_BETWEEN;
    const rank = b.codes.shape?.length;
    if (!isScalar(b.scale) && b.axis !== -1 && b.axis + 1 !== rank)
      return "its scales do not lie along its output channels";
    if (site.grid) return { opType: "QLinearMatMul", domain: "", inputs: [...parts(a), ...parts(b), ...site.grid] };
    const inputs = [a.codes, b.codes, a.scale, b.scale, a.zeroPoint, b.zeroPoint];
    return { opType: "MatMulIntegerToFloat", domain: ENGINE, inputs };
  },
  Gemm(site) {
    const [a, b, c] = site.inputs;
    if (!a || !b?.constant || (site.node.inputs[2] && !c)) return NOT_BETWEEN;
    if (site.node.float("beta", 1) !== 1) return "it scales its bias";
    const transposed = site.node.int("transB", 0) !== 0;
    if (!isScalar(b.scale) && b.axis !== (transposed ? 0 : 1)) return "its scales do not lie along its output channels";
    const inputs = [...parts(a), ...parts(b), c?.codes, ...(site.grid ?? [])];
    return { opType: "QGemm", domain: ENGINE, inputs, attributes: { beta: undefined } };
  },
  Add: binary("QLinearAdd"),
  Mul: binary("QLinearMul"),
  Concat(site) {
    const all = whole(site, site.node.inputs.length);
    if (!all || !site.grid) return NOT_BETWEEN;
    return { opType: "QLinearConcat", domain: ENGINE, inputs: [...site.grid, ...all.flatMap(parts)] };
  },
  GlobalAveragePool: unary("QLinearGlobalAveragePool"),
  AveragePool: unary("QLinearAveragePool"),
  Sigmoid: unary("QLinearSigmoid"),
  LeakyRelu: unary("QLinearLeakyRelu"),
  Softmax: unary("QLinearSoftmax", ({ node, opset }) => ({ opset, axis: node.int("axis", opset < 13 ? 1 : -1) })),
};

/**
 * Replaces every operator between DequantizeLinear and QuantizeLinear that the engine's CPU kernels have an integer form of. Operators
 * that move or choose values work on the codes where the grid does not change. What remains keeps its pairs. The model must have
 * been written with one QuantizeLinear for each value, as static quantization does; int32 biases have the scale of their products.
 */
export function toQOperators(model: Model): QOperatorResult {
  const { graph } = model;
  const outputs = outputValues(model);
  const left: { what: string; why: string }[] = [];
  let converted = 0;
  for (const node of graph.nodes.slice()) {
    if (isConversion(node)) continue;
    const site = siteOf(model, node, outputs);
    if (!site) continue;
    if (passCodes(model, site)) {
      converted++;
      continue;
    }
    const form = node.domain === "" ? (FORMS[node.opType]?.(site) ?? NO_FORM) : NO_FORM;
    if (typeof form === "string") {
      left.push({ what: nameOf(node), why: form });
      continue;
    }
    replace(model, site, form);
    converted++;
  }
  removeDead(model);
  return { converted, left };
}

const NO_FORM = "no integer operator stands for it";

function isConversion({ opType }: Node): boolean {
  return opType === "QuantizeLinear" || opType === "DequantizeLinear";
}

/** undefined for operators that read nothing dequantized. */
function siteOf(model: Model, node: Node, outputs: ReadonlySet<Value>): Site | undefined {
  const inputs = node.inputs.map(quantizedOf);
  if (!inputs.some((input) => input && !input.constant)) return undefined;
  const quantizer = quantizerOf(node.outputs[0], outputs);
  const [, scale, zeroPoint] = quantizer?.inputs ?? [];
  return { node, inputs, grid: scale && [scale, zeroPoint], opset: model.opset };
}

/** The QuantizeLinear that alone reads a value. */
function quantizerOf(value: Value | undefined, outputs: ReadonlySet<Value>): Node | undefined {
  const [use, ...others] = value?.uses ?? [];
  if (!value || !use || others.length > 0 || outputs.has(value)) return undefined;
  return use.node.opType === "QuantizeLinear" && use.index === 0 ? use.node : undefined;
}

/** What a DequantizeLinear reads. */
function quantizedOf(value: Value | undefined): Quantized | undefined {
  const producer = value?.producer;
  const [codes, scale, zeroPoint] = producer?.inputs ?? [];
  if (producer?.opType !== "DequantizeLinear" || !codes || !scale?.tensor) return undefined;
  return { codes, scale, zeroPoint, axis: producer.int("axis", 1), constant: isConstant(codes) };
}

/** A constant, or computed from constants (codes that are packed in the file). */
function isConstant(value: Value): boolean {
  if (value.tensor) return true;
  const inputs = value.producer?.inputs.filter((input) => input !== undefined) ?? [];
  return value.producer !== undefined && inputs.length > 0 && inputs.every(isConstant);
}

function isScalar({ tensor }: Value): boolean {
  return tensor?.elements === 1;
}

/** Movement between two equal grids needs no grid at all: it moves the codes. */
function passCodes(model: Model, { node, inputs, grid }: Site): boolean {
  const traits = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits;
  const nearest = node.opType === "Resize" && (node.string("mode") ?? "nearest") === "nearest";
  if (!(traits?.movement || nearest) || !grid || node.outputs.length !== 1) return false;
  const moved = inputs.flatMap((input, index) => (input ? [{ input, index }] : []));
  if (!moved.every(({ input }) => sameNumber(input.scale, grid[0]) && sameNumber(input.zeroPoint, grid[1])))
    return false;
  // A computed float among the inputs would be moved as it is.
  if (node.inputs.some((input, index) => input?.dtype === "float32" && !input.tensor && !inputs[index])) return false;
  const [output] = node.outputs;
  const quantizer = output?.uses[0]?.node;
  const result = quantizer?.outputs[0];
  if (!output || !quantizer || !result) return false;
  for (const { input, index } of moved) node.setInput(index, input.codes);
  output.dtype = moved[0]?.input.codes.dtype;
  output.original = undefined;
  result.replaceUses(output);
  node.graph?.remove(quantizer);
  return true;
}

function sameNumber(a: Value | undefined, b: Value | undefined): boolean {
  if (a === b) return true;
  const [x, y] = [a?.tensor?.peekNumbers(), b?.tensor?.peekNumbers()];
  return x?.length === 1 && y?.length === 1 && x[0] === y[0] && a?.tensor?.dtype === b?.tensor?.dtype;
}

/** Puts the integer operator in the place of the operator and of the QuantizeLinear behind it, under the operator's name. */
function replace(model: Model, { node, grid }: Site, form: IntegerForm): void {
  const { graph } = model;
  const output = node.outputs[0] as Value;
  const quantizer = grid && output.uses[0]?.node;
  const result = quantizer?.outputs[0] ?? output;
  const made = new Builder(graph, { before: node }).op(form.opType, form.inputs, {
    domain: form.domain,
    name: result.name,
    attributes: { ...Object.fromEntries(node.attributes), ...form.attributes },
  });
  [made.dtype, made.shape] = [result.dtype, result.shape];
  graph.replaceValue(result, made);
  if (quantizer) graph.remove(quantizer);
  graph.remove(node);
  if (made.producer) made.producer.name = node.name;
  if (form.domain !== "" && !model.opsets.has(form.domain)) model.opsets.set(form.domain, 1);
}
