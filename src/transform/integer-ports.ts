/** Makes inputs and outputs of a quantized model integers: the conversions at its borders become the caller's. */
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { setPortGrid, type PortGrid } from "../run/port-grids.ts";
import { removeDead } from "./remove-dead.ts";

export interface IntegerPorts {
  /** Ports that take or give codes now. */
  readonly changed: readonly { readonly what: string; readonly grid: PortGrid }[];
  readonly left: readonly { readonly what: string; readonly why: string }[];
}

/**
 * Inputs that one QuantizeLinear alone reads take its codes; outputs that a DequantizeLinear gives are its codes. Names and shapes
 * stay; scale and zero point go into the metadata (`pare.quantized.NAME`).
 */
export function integerPorts(
  model: Model,
  sides: { readonly inputs: boolean; readonly outputs: boolean },
): IntegerPorts {
  const { graph } = model;
  const changed: { what: string; grid: PortGrid }[] = [];
  const left: { what: string; why: string }[] = [];
  const take = (value: Value, cut: (graph: Graph, value: Value) => PortGrid | string): void => {
    const { name } = value;
    const grid = value.dtype === "float32" ? cut(graph, value) : `it is ${value.dtype ?? "of unknown type"}`;
    if (typeof grid === "string") {
      left.push({ what: name, why: grid });
      return;
    }
    setPortGrid(model, name, grid);
    changed.push({ what: name, grid });
  };
  if (sides.inputs) for (const input of graph.inputs.slice()) if (!input.tensor) take(input, cutInput);
  if (sides.outputs) for (const output of graph.outputs.slice()) take(output, cutOutput);
  removeDead(model);
  return { changed, left };
}

function cutInput(graph: Graph, input: Value): PortGrid | string {
  const [first, ...others] = input.uses;
  const codes = first?.node.outputs[0];
  if (first?.node.opType !== "QuantizeLinear" || others.length > 0 || graph.isOutput(input) || !codes)
    return "it is read in floating point";
  const grid = gridOf(first.node);
  if (!grid) return NO_GRID;
  input.dtype = grid.dtype;
  input.original = undefined;
  codes.replaceUses(input);
  graph.remove(first.node);
  return grid;
}

function cutOutput(graph: Graph, output: Value): PortGrid | string {
  const dequantize = output.producer;
  const codes = dequantize?.inputs[0];
  if (dequantize?.opType !== "DequantizeLinear" || !codes?.producer || graph.isOutput(codes))
    return "what gives it does so in floating point";
  const grid = gridOf(dequantize);
  if (!grid) return NO_GRID;
  const { name, shape } = output;
  output.name = graph.uniqueName(`${name}.float`);
  codes.name = name;
  [codes.dtype, codes.shape, codes.original] = [grid.dtype, shape ?? codes.shape, undefined];
  for (const [index, each] of graph.outputs.entries()) if (each === output) graph.outputs[index] = codes;
  return grid;
}

const NO_GRID = "its scale is not one constant";

/** Of a QuantizeLinear or DequantizeLinear with one constant scale. */
function gridOf({ inputs }: Node): PortGrid | undefined {
  const [, scale, zero] = inputs;
  const [s, z] = [scale?.tensor?.peekNumbers(), zero?.tensor?.peekNumbers()];
  const dtype = zero?.tensor?.dtype;
  if (s?.length !== 1 || z?.length !== 1 || (dtype !== "uint8" && dtype !== "int8")) return undefined;
  return { dtype, scale: s[0] as number, zeroPoint: z[0] as number };
}
