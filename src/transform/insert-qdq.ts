/** Puts QuantizeLinear and DequantizeLinear pairs around operators, in the places where the engine fuses them into int8 kernels. */
import type { DType } from "../base/dtype.ts";
import { Builder } from "../ir/builder.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import { Tensor } from "../ir/tensor.ts";
import { sharedConstant } from "./unpack-weights.ts";

export interface ActivationGrid {
  readonly dtype: "uint8" | "int8";
  readonly scale: number;
  readonly zeroPoint: number;
  /** Largest code, where the grid has fewer than its type; the codes are cut off there. */
  readonly cutAt?: number | undefined;
}

/**
 * Quantizes one activation: its quantized readers see the dequantized value, and where `everywhere` is set all readers and
 * the graph's outputs do, so that its producer feeds the QuantizeLinear alone (which is what makes it an int8 operator).
 * Returns the dequantized value.
 */
export function quantizeActivation(
  graph: Graph,
  value: Value,
  grid: ActivationGrid,
  readers: ReadonlySet<Node>,
  everywhere: boolean,
): Value {
  const uses = value.uses.filter((use) => everywhere || readers.has(use.node));
  const before = value.producer ? graph.nodes[graph.nodes.indexOf(value.producer) + 1] : graph.nodes[0];
  const b = new Builder(graph, { before });
  const scale = sharedConstant(graph, `scale_${grid.scale}`, Tensor.float32([], [grid.scale]));
  const zeroPoint = sharedConstant(
    graph,
    `zero_${grid.dtype}_${grid.zeroPoint}`,
    Tensor.of(grid.dtype, [], grid.dtype === "uint8" ? Uint8Array.of(grid.zeroPoint) : Int8Array.of(grid.zeroPoint)),
  );
  const rounded = b.op("QuantizeLinear", [value, scale, zeroPoint], { name: `${value.name}.q` });
  [rounded.dtype, rounded.shape] = [grid.dtype, value.shape];
  const codes = grid.cutAt === undefined ? rounded : clipCodes(b, rounded, grid.dtype, undefined, grid.cutAt);
  const back = b.op("DequantizeLinear", [codes, scale, zeroPoint], { name: `${value.name}.dq` });
  codes.dtype = grid.dtype;
  codes.shape = value.shape;
  back.dtype = "float32";
  back.shape = value.shape;
  for (const use of uses) use.node.setInput(use.index, back);
  if (!everywhere || !graph.isOutput(value)) return back;
  const name = value.name;
  value.name = graph.uniqueName(`${name}.float`);
  back.name = name;
  back.original = value.original;
  for (const [index, output] of graph.outputs.entries()) if (output === value) graph.outputs[index] = back;
  return back;
}

/** Codes between bounds: the operator before still gives all that its type holds, and runs on integers. */
function clipCodes(
  b: Builder,
  codes: Value,
  dtype: ActivationGrid["dtype"],
  lowest: number | undefined,
  highest: number | undefined,
): Value {
  const limit = (name: string, code: number | undefined): Value | undefined =>
    code === undefined
      ? undefined
      : sharedConstant(
          b.graph,
          `${name}_${dtype}_${code}`,
          Tensor.of(dtype, [], dtype === "uint8" ? Uint8Array.of(code) : Int8Array.of(code)),
        );
  const clipped = b.op("Clip", [codes, limit("lowest", lowest), limit("highest", highest)], {
    name: `${codes.name}.clip`,
  });
  [clipped.dtype, clipped.shape] = [dtype, codes.shape];
  return clipped;
}

/** Replaces one input of a node by the dequantized form of integer constants. */
export function dequantizeInput(
  graph: Graph,
  node: Node,
  input: number,
  parts: { readonly codes: Tensor; readonly scales: Tensor; readonly axis: number | undefined; readonly name: string },
): void {
  const b = new Builder(graph, { prefix: `${parts.name}.`, before: node });
  const zeroType: DType = parts.codes.dtype;
  const codes = b.constant("codes", parts.codes);
  const scales = b.constant("scales", parts.scales);
  const zeros = Tensor.of(
    zeroType,
    parts.scales.shape,
    zeroType === "int32" ? new Int32Array(parts.scales.elements) : new Int8Array(parts.scales.elements),
  );
  const zeroPoints = sharedConstant(graph, `zeros_${zeroType}_${parts.scales.shape.join("x")}`, zeros);
  const dense = b.op("DequantizeLinear", [codes, scales, zeroPoints], {
    attributes: { axis: parts.axis },
    name: "dq",
  });
  dense.dtype = "float32";
  dense.shape = parts.codes.shape;
  node.setInput(input, dense);
}

/**
 * Lets a Pad work on the integer codes: DequantizeLinear → Pad → QuantizeLinear of one grid becomes Pad with the zero point
 * as its value. The engine fuses such triples for other movement, but not for Pad. Returns false where the form differs.
 */
export function padCodes(graph: Graph, pad: Node): boolean {
  const before = pad.inputs[0]?.producer;
  const output = pad.outputs[0];
  const after = output?.uses.length === 1 ? output.uses[0]?.node : undefined;
  if (before?.opType !== "DequantizeLinear" || after?.opType !== "QuantizeLinear" || !output) return false;
  if (before.inputs[1] !== after.inputs[1] || before.inputs[2] !== after.inputs[2]) return false;
  const codes = before.inputs[0];
  const result = after.outputs[0];
  if (!codes || !result) return false;
  pad.setInput(0, codes);
  pad.setInput(2, before.inputs[2]);
  output.dtype = codes.dtype;
  output.original = undefined;
  result.replaceUses(output);
  graph.remove(after);
  return true;
}

/**
 * Removes the clamp whose result alone is quantized, for it keeps the operator before it in floating point: the integers saturate
 * where it cuts, or where the grid goes further they are clipped themselves, q(clip(x, lo, hi)) = clip(q(x), q(lo), q(hi)), rounding
 * being monotonic. `bounds` are those of a Relu or Clip. Returns false where something else reads the clamp.
 */
export function absorbClamp(
  graph: Graph,
  clamp: Node,
  bounds: { readonly low: number; readonly high: number },
  grid: { readonly scale: number; readonly zeroPoint: number; readonly lowest: number; readonly highest: number },
): boolean {
  const [output, input] = [clamp.outputs[0], clamp.inputs[0]];
  const reader = output?.uses.length === 1 ? output.uses[0]?.node : undefined;
  const codes = reader?.outputs[0];
  if (!output || !input || !codes || reader?.opType !== "QuantizeLinear" || graph.isOutput(output)) return false;
  const code = (bound: number): number => Math.round(bound / grid.scale) + grid.zeroPoint;
  const low = code(bounds.low) > grid.lowest ? Math.min(grid.highest, code(bounds.low)) : undefined;
  const high = code(bounds.high) < grid.highest ? Math.max(grid.lowest, code(bounds.high)) : undefined;
  reader.setInput(0, input);
  graph.remove(clamp);
  if (low === undefined && high === undefined) return true;
  const uses = codes.uses.slice();
  const after = graph.nodes[graph.nodes.indexOf(reader) + 1];
  const clipped = clipCodes(
    new Builder(graph, { before: after }),
    codes,
    grid.lowest < 0 ? "int8" : "uint8",
    low,
    high,
  );
  for (const use of uses) use.node.setInput(use.index, clipped);
  return true;
}

/** Operators whose float weights the engine rounds itself, to one scale, between dequantized inputs of one scale and QuantizeLinear. */
const ROUNDED_BY_ENGINE = new Set(["Conv", "ConvTranspose", "Gemm"]);

/**
 * Keeps operators with float weights in floating point (onnxruntime's WeightBiasQuantization would round them): their inputs are
 * dequantized by a scale per channel, all of them the same number, which the engine leaves alone. Channels lie on axis 1.
 */
export function holdFloat(graph: Graph): void {
  for (const node of graph.nodes.slice()) {
    if (!ROUNDED_BY_ENGINE.has(node.opType) || !node.inputs[1]?.tensor || !reachesQuantizer(node)) continue;
    const [input] = node.inputs;
    const before = input?.producer;
    const [codes, scale, zero] = before?.inputs ?? [];
    const channels = input?.shape?.[1];
    if (before?.opType !== "DequantizeLinear" || !codes || typeof channels !== "number" || channels < 2) continue;
    const [one, middle] = [scale?.tensor?.peek()?.[0], zero?.tensor?.peek()?.[0]];
    if (one === undefined || middle === undefined || scale?.tensor?.elements !== 1) continue;
    const scales = Tensor.float32([channels], new Float32Array(channels).fill(Number(one)));
    const zeros = zero?.dtype === "int8" ? new Int8Array(channels) : new Uint8Array(channels);
    const by = (tensor: Tensor, name: string): Value => sharedConstant(graph, `${name}_by_${channels}`, tensor);
    const inputs = [
      codes,
      by(scales, `scale_${one}`),
      by(Tensor.of(zero?.dtype ?? "uint8", [channels], zeros.fill(Number(middle))), `zero_${zero?.dtype}_${middle}`),
    ];
    const b = new Builder(graph, { before: node });
    const own = b.op("DequantizeLinear", inputs, {
      attributes: { axis: 1 },
      name: `${node.name}.held`,
    });
    [own.dtype, own.shape] = ["float32", input?.shape];
    node.setInput(0, own);
  }
}

/** Whether a QuantizeLinear alone reads the result, with clamps between at most. */
function reachesQuantizer(node: Node): boolean {
  let at: Node | undefined = node;
  while (at) {
    const uses: readonly { readonly node: Node }[] = at.outputs[0]?.uses ?? [];
    if (uses.length !== 1) return false;
    at = uses[0]?.node;
    if (at?.opType === "QuantizeLinear") return true;
    if (at?.opType !== "Relu" && at?.opType !== "Clip") return false;
  }
  return false;
}
