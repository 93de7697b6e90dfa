/** Mixed precision: products in float16 inside a float32 network, casts at the borders. */
import { dtypeCode, isFloat } from "../base/dtype.ts";
import { Builder } from "../ir/builder.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";

const PRODUCTS: ReadonlySet<string | undefined> = new Set(["conv", "conv-transpose", "matmul", "gemm"]);

/**
 * Lets convolutions and matrix products compute in float16, and what merely moves or bends their results element by element
 * (Micikevicius et al. 2018). Sums over many elements (normalization, softmax, reductions) and weights stay float32. Shapes
 * and dtypes must be known. The first output stays float32.
 */
export function halveProducts(model: Model): void {
  const { graph } = model;
  const halves = new Set<Value>();
  const inHalf = new Set<Node>();
  for (const node of graph.nodes.slice()) {
    if (!computesInHalf(model, node, halves)) continue;
    inHalf.add(node);
    const casts = new Map<Value, Value>();
    for (const [index, input] of node.inputs.entries()) {
      if (input?.dtype !== "float32") continue;
      const known = casts.get(input) ?? castTo(model, input, "float16", node);
      casts.set(input, known);
      node.setInput(index, known);
    }
    for (const output of node.outputs)
      if (output.dtype === "float32") {
        output.dtype = "float16";
        halves.add(output);
      }
  }
  for (const value of halves) {
    const wide = value.uses.filter(({ node }) => !inHalf.has(node));
    if (wide.length === 0) continue;
    const after = graph.nodes.indexOf(value.producer as Node) + 1;
    const cast = castTo(model, value, "float32", graph.nodes[after]);
    for (const use of wide) use.node.setInput(use.index, cast);
  }
  const [output] = graph.outputs;
  if (output && halves.has(output)) graph.outputs[0] = castTo(model, output, "float32", undefined);
}

/** A float32 copy of a value of 16 bits; any other value as it is. */
export function widened(b: Builder, value: Value): Value {
  if (value.dtype !== "float16") return value;
  const wide = b.op("Cast", [value], { attributes: { to: dtypeCode("float32") } });
  [wide.dtype, wide.shape] = ["float32", value.shape];
  return wide;
}

function computesInHalf(model: Model, node: Node, halves: ReadonlySet<Value>): boolean {
  const traits = specOf(node, model.opsets.get(node.domain) ?? model.opset)?.traits;
  if (!traits || node.domain !== "") return false;
  if (PRODUCTS.has(traits.linear)) return true;
  const floats = node.inputs.filter((input) => input?.dtype !== undefined && isFloat(input.dtype));
  const follows = traits.movement === true || traits.elementwise === true;
  return follows && floats.length > 0 && floats.every((input) => input && halves.has(input));
}

function castTo(model: Model, value: Value, dtype: "float16" | "float32", before: Node | undefined): Value {
  const b = new Builder(model.graph, { prefix: "train/", before });
  const cast = b.op("Cast", [value], { attributes: { to: dtypeCode(dtype) } });
  [cast.dtype, cast.shape] = [dtype, value.shape];
  return cast;
}
