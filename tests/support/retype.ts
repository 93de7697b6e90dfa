/** A model in another float type: half precision widened, and double precision where the engine has the kernels. */
import { inferShapes } from "../../src/analyse/shapes.ts";
import { type DType, dtypeCode } from "../../src/base/dtype.ts";
import { toFloat32 } from "../../src/base/to-float32.ts";
import type { Attribute } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Graph, Node, Value } from "../../src/ir/graph.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { Session } from "../../src/run/session.ts";
import { knownContents } from "../../src/analyse/known-contents.ts";
import { lowerNode } from "../../src/ops/lower-node.ts";
import { DOUBLE_FORMS } from "./double-forms.ts";

type Float = "float16" | "float32" | "float64";

/** Inputs that an operator's definition wants in float32 whatever its data is. */
const FLOAT32_INPUTS: Readonly<Record<string, readonly number[]>> = { Resize: [1, 2] };

async function retyped(tensor: Tensor, from: Float, to: Float): Promise<Tensor> {
  if (tensor.dtype !== from) return tensor;
  const narrow = toFloat32(from, await tensor.bytes());
  return Tensor.of(to, tensor.shape, to === "float64" ? Float64Array.from(narrow) : narrow.slice());
}

/** A copy whose floats of one type are of another throughout; shapes are inferred. */
export async function withFloats(original: Model, from: Float, to: Float): Promise<Model> {
  const model = cloneModel(original);
  inferShapes(model);
  for (const graph of model.graph.allGraphs()) {
    for (const value of graph.values()) {
      const wants32 = (value.tensor?.dtype ?? value.dtype) === "float32" && value.uses.length > 0;
      if (wants32 && value.uses.every(({ node, index }) => FLOAT32_INPUTS[node.opType]?.includes(index))) continue;
      if (value.tensor) value.tensor = await retyped(value.tensor, from, to);
      if (value.dtype === from) [value.dtype, value.original] = [to, undefined];
    }
    for (const node of graph.nodes) await retypeAttributes(node, from, to);
  }
  inferShapes(model);
  return model;
}

async function retypeAttributes(node: Node, from: Float, to: Float): Promise<void> {
  for (const name of ["to", "dtype"])
    if (node.int(name) === dtypeCode(from)) node.attributes.set(name, { type: "int", value: dtypeCode(to) });
  for (const [name, attribute] of node.attributes)
    if (attribute.type === "tensor")
      node.attributes.set(name, { type: "tensor", value: await retyped(attribute.value, from, to) });
  const plain = node.opType === "Constant" && from === "float32" ? plainFloats(node) : undefined;
  if (!plain) return;
  node.attributes.clear();
  node.attributes.set("value", { type: "tensor", value: await retyped(plain, from, to) });
}

function plainFloats(node: Node): Tensor | undefined {
  const one = node.attributes.get("value_float") as Attribute | undefined;
  if (one?.type === "float") return Tensor.float32([], [one.value]);
  const many = node.attributes.get("value_floats") as Attribute | undefined;
  return many?.type === "floats" ? Tensor.float32([many.value.length], many.value) : undefined;
}

/** The engine loads these in float64 and refuses at run time, or writes them out in operators that it has not in float64. */
const REFUSED_LATE = ["LSTM", "GRU", "RNN", "HardSwish"];

/** Operators that a model may have without a kernel in float64. */
const MOST_KINDS = 40;

/**
 * The model in double precision. Operators for which the engine has no float64 kernel are written in others, by the forms
 * of `double-forms.ts` or by their own lowered form; what has neither computes in float32 between Casts and is named in
 * `single`.
 */
export async function openDouble(original: Model): Promise<{ session: Session; single: readonly string[] }> {
  const model = await withFloats(original, "float32", "float64");
  const single = new Set<string>();
  const tried = new Set<string>();
  for (const kind of REFUSED_LATE) replaceAll(model, kind, single);
  // Unoptimized: the engine would fuse arithmetic into operators that have no float64 kernel.
  for (let round = 0; round < MOST_KINDS; round++) {
    try {
      return {
        session: await openSession(model, { inProcess: true, threads: 1, optimize: "none" }),
        single: [...single],
      };
    } catch (error) {
      const kind = refusedOperator(error);
      if (kind === undefined || single.has(kind)) throw error;
      replaceAll(model, kind, single, tried.has(kind));
      tried.add(kind);
    }
  }
  throw new Error("operators are replaced without end");
}

function refusedOperator(error: unknown): string | undefined {
  const text = error instanceof Error ? error.message : String(error);
  const match =
    /implementation for (?:[\w.]+[.:])?(\w+)\(\d+\)/.exec(text) ??
    /Type 'tensor\(double\)' of input parameter .* of operator \((\w+)\)/.exec(text) ??
    /\((?:Op|op)?\s*(\w+)\) .*tensor\(double\)/.exec(text);
  return match?.[1];
}

function replaceAll(model: Model, kind: string, single: Set<string>, inCasts = false): void {
  const contents = knownContents(model);
  for (const graph of model.graph.allGraphs())
    for (const node of graph.nodes.filter((each) => each.opType === kind)) {
      if (!inCasts && replaceBy(graph, node)) continue;
      if (inCasts || !lowerNode(graph, node, model.opset, contents)) {
        inFloat32(graph, node);
        single.add(kind);
      }
    }
  inferShapes(model);
}

function replaceBy(graph: Graph, node: Node): boolean {
  const b = new Builder(graph, { before: node, prefix: `${node.name || node.opType}/` });
  const result = node.domain === "" ? DOUBLE_FORMS[node.opType]?.(b, node) : undefined;
  if (!result) return false;
  const made = b.op("Identity", [result]);
  const output = node.outputs[0] as Value;
  const producer = made.producer as Node;
  node.outputs[0] = made;
  producer.outputs[0] = output;
  output.producer = producer;
  made.producer = node;
  graph.remove(node);
  return true;
}

/** Casts around a node that exists in float32 only. */
function inFloat32(graph: Graph, node: Node): void {
  const before = new Builder(graph, { before: node });
  for (const [i, input] of node.inputs.entries())
    if (input && (input.tensor?.dtype ?? input.dtype) === "float64")
      node.setInput(i, before.op("Cast", [input], { attributes: { to: dtypeCode("float32") } }));
  const after = new Builder(graph, { before: graph.nodes[graph.nodes.indexOf(node) + 1] });
  for (const [i, output] of node.outputs.entries()) {
    if (output.dtype !== "float64") continue;
    const cast = after.op("Cast", [output], { attributes: { to: dtypeCode("float64") } });
    const producer = cast.producer as Node;
    producer.setInput(0, cast);
    [node.outputs[i], producer.outputs[0]] = [cast, output];
    [cast.producer, output.producer] = [node, producer];
    cast.dtype = "float32" satisfies DType;
  }
}
