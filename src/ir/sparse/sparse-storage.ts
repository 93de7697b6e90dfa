/** Sparse forms in files: a value with one is written as its parts and the operators that expand them, and found again when the file is read. */
import { create } from "@bufbuild/protobuf";
import { type TypedData, bytesOf, dtypeBits, dtypeCode } from "../../base/dtype.ts";
import { PareError } from "../../base/error.ts";
import type { NodeProto, TensorProto } from "../../onnx/gen/onnx_pb.js";
import { GraphProtoSchema, NodeProtoSchema, SparseTensorProtoSchema } from "../../onnx/gen/onnx_pb.js";
import { encodeSegments } from "../../onnx/segments.ts";
import { type Attribute, toAttribute } from "../attribute.ts";
import { writeAttribute } from "../attribute-messages.ts";
import type { Graph, Node, Value } from "../graph.ts";
import { originalOfValue, type ValueOriginal } from "../original.ts";
import { writeTensor } from "../tensor-messages.ts";
import { Tensor } from "../tensor.ts";
import { type Expansion, expansionOf } from "./expansion.ts";
import { type SparseForm, denseOf } from "./sparse-form.ts";
import type { SparseIndex } from "./sparse-index.ts";

/** Between a weight's name and those of its parts, and in front of what weights share. */
const MARK = "~";
const SHARED = `pare${MARK}`;

const PATTERN_TABLE = new RegExp(`^${SHARED}(\\d+)of(\\d+)$`);
/** Neighbours of a pattern at most: more do not share a byte. */
const MOST_NEIGHBOURS = 32;
/** Parts that hold data; the other constants of an expansion follow from the form. */
const DATA = new Set(["index", "values", "codes", "scales"]);

/** Stores an initializer in this form from now on, until it gets another tensor. */
export function setSparseForm(value: Value, form: SparseForm): void {
  const dense = denseOf(form, `weight '${value.name}'`);
  value.tensor = dense;
  value.original = { ...withoutForms(value), form: { form, dense } } satisfies ValueOriginal;
}

/** Stores an initializer as coordinates (`sparse_initializer`): linear positions and values. */
export function setCoordinates(value: Value, positions: Tensor, values: Tensor): void {
  const dense = value.tensor as Tensor;
  const message = create(SparseTensorProtoSchema, {
    values: writeTensor(values, value.name),
    indices: writeTensor(positions, ""),
    dims: dense.shape.map(BigInt),
  });
  value.original = { ...withoutForms(value), sparse: { message, dense } } satisfies ValueOriginal;
}

/** Stores an initializer element by element. */
export function setDense(value: Value): void {
  const rest = withoutForms(value);
  value.original = Object.values(rest).some((part) => part !== undefined) ? rest : undefined;
}

function withoutForms(value: Value): ValueOriginal {
  const { sparse: _, form: __, ...rest } = originalOfValue(value) ?? {};
  return rest;
}

/** The form that the value is saved in, if its tensor is still the one that the form stands for. */
export function sparseFormOf(value: Value): SparseForm | undefined {
  const stored = originalOfValue(value)?.form;
  return stored && stored.dense === value.tensor ? stored.form : undefined;
}

/** True if the value is saved in a sparse form or as coordinates. */
export function isStoredSparse(value: Value): boolean {
  const sparse = originalOfValue(value)?.sparse;
  return sparseFormOf(value) !== undefined || (sparse !== undefined && sparse.dense === value.tensor);
}

/** Messages that stand for initializers with sparse forms. */
export interface SparseMessages {
  readonly nodes: readonly NodeProto[];
  readonly tensors: readonly TensorProto[];
}

export function writeSparseForms(values: readonly Value[]): SparseMessages {
  const nodes: NodeProto[] = [];
  const tensors: TensorProto[] = [];
  const shared = new Map<string, Tensor>();
  for (const value of values) {
    const expansion = expansionOf(sparseFormOf(value) as SparseForm);
    for (const [name, tensor] of expansion.shared) shared.set(name, tensor);
    for (const [name, tensor] of expansion.tensors) tensors.push(writeTensor(tensor, fullName(value.name, name)));
    for (const [i, { opType, inputs, output, attributes }] of expansion.steps.entries()) {
      const isLast = i === expansion.steps.length - 1;
      nodes.push(
        create(NodeProtoSchema, {
          opType,
          name: isLast ? `${value.name}${MARK}` : fullName(value.name, output),
          input: inputs.map((input) => fullName(value.name, input)),
          output: [isLast ? value.name : fullName(value.name, output)],
          attribute: Object.entries(attributes).map(([name, input]) =>
            writeAttribute(name, toAttribute(input), () => {
              throw new PareError("internal", "An expansion has no subgraphs");
            }),
          ),
        }),
      );
    }
  }
  for (const [name, tensor] of shared) tensors.push(writeTensor(tensor, fullName("", name)));
  return { nodes, tensors };
}

/** Bytes that an initializer takes in a file, in the form that it is saved in: names and operators counted, what weights share left out. */
export function storedBytes(value: Value): number {
  const { tensors, nodes } = sparseFormOf(value) ? writeSparseForms([value]) : { tensors: [], nodes: [] };
  const own = tensors.filter(({ name }) => !name.startsWith(SHARED));
  const sparse = originalOfValue(value)?.sparse;
  const message = create(GraphProtoSchema, { node: [...nodes], initializer: own });
  if (nodes.length === 0 && value.tensor) {
    if (sparse && sparse.dense === value.tensor) message.sparseInitializer = [sparse.message];
    else message.initializer = [writeTensor(value.tensor, value.name)];
  }
  return encodeSegments(GraphProtoSchema, message).byteLength;
}

function fullName(weight: string, local: string): string {
  return local.startsWith("@") ? `${SHARED}${local.slice(1)}` : `${weight}${MARK}${local}`;
}

/** Turns the expansions of a graph that was read into initializers with sparse forms; what differs from them stays as it is. */
export function collapseSparseForms(graph: Graph): void {
  const gone: Node[] = [];
  for (const last of graph.nodes) {
    const value = last.outputs[0];
    if (!value || !graph.initializers.has(fullName(value.name, "index"))) continue;
    const nodes = nodesOf(graph, last, value);
    const found = nodes && formOf(graph, value, nodes);
    if (!nodes || !found) continue;
    const { form, unread } = found;
    const dense =
      unread.length === 0
        ? denseOf(form, `weight '${value.name}'`)
        : Tensor.lazy(form.dtype, form.shape, async () => {
            for (const [stored, meant] of unread) await checkTable(stored, meant, value.name);
            return denseOf(form, `weight '${value.name}'`).bytes();
          });
    for (const name of expansionOf(form).tensors.keys()) graph.initializers.delete(fullName(value.name, name));
    for (const node of nodes) node.detach();
    gone.push(...nodes);
    value.producer = undefined;
    value.tensor = dense;
    value.dtype = form.dtype;
    value.shape = form.shape;
    value.original = { ...originalOfValue(value), form: { form, dense } } satisfies ValueOriginal;
    graph.initializers.set(value.name, value);
  }
  if (gone.length === 0) return;
  graph.remove(...gone);
  for (const value of graph.initializers.values())
    if (value.name.startsWith(SHARED) && value.uses.length === 0 && !graph.isOutput(value))
      graph.removeInitializer(value);
}

async function checkTable(stored: Tensor, meant: Tensor, weight: string): Promise<void> {
  if (!sameBytes(await stored.data(), await meant.data()))
    throw new PareError("bad-model", "A table that expands sparse weights is not what it should be", {
      where: `weight '${weight}'`,
    });
}

/** The nodes behind `last` that belong to the weight alone, in the graph's order. */
function nodesOf(graph: Graph, last: Node, value: Value): Node[] | undefined {
  const prefix = `${value.name}${MARK}`;
  const mine = new Set([last]);
  for (const node of mine)
    for (const input of node.inputs)
      if (input?.producer?.graph === graph && input.name.startsWith(prefix)) mine.add(input.producer);
  for (const node of mine)
    if (
      node.outputs.length !== 1 ||
      (node !== last &&
        (graph.isOutput(node.outputs[0] as Value) || node.outputs[0]?.uses.some((use) => !mine.has(use.node))))
    )
      return undefined;
  return graph.nodes.filter((node) => mine.has(node));
}

interface FoundForm {
  readonly form: SparseForm;
  /** Tables whose elements are still to be compared with what they should be. */
  readonly unread: readonly (readonly [stored: Tensor, meant: Tensor])[];
}

/** The form whose expansion these nodes are. */
function formOf(graph: Graph, value: Value, nodes: readonly Node[]): FoundForm | undefined {
  const form = guess(graph, value, nodes);
  const expansion = form && expansionOf(form);
  if (!form || !expansion || expansion.steps.length !== nodes.length) return undefined;
  for (const [i, step] of expansion.steps.entries()) if (!isStep(nodes[i] as Node, step, value.name)) return undefined;
  const unread: [Tensor, Tensor][] = [];
  for (const [name, meant] of [...expansion.tensors, ...expansion.shared]) {
    const stored = graph.initializers.get(fullName(value.name, name));
    if (!stored?.tensor || graph.inputs.includes(stored) || graph.isOutput(stored)) return undefined;
    if (DATA.has(name)) {
      if (stored.uses.length !== 1) return undefined;
      continue;
    }
    const { tensor } = stored;
    if (tensor.dtype !== meant.dtype || tensor.shape.join() !== meant.shape.join()) return undefined;
    const elements = tensor.peek();
    if (!elements) unread.push([tensor, meant]);
    else if (!sameBytes(elements, meant.peek() as TypedData)) return undefined;
  }
  return { form, unread };
}

function isStep(node: Node, step: Expansion["steps"][number], weight: string): boolean {
  const attributes = Object.entries(step.attributes);
  return (
    node.opType === step.opType &&
    node.domain === "" &&
    node.inputs.length === step.inputs.length &&
    step.inputs.every((input, i) => node.inputs[i]?.name === fullName(weight, input)) &&
    node.attributes.size === attributes.length &&
    attributes.every(([name, input]) => sameAttribute(node.attributes.get(name), toAttribute(input)))
  );
}

function sameAttribute(a: Attribute | undefined, b: Attribute): boolean {
  if (a?.type === "tensor" && b.type === "tensor") {
    const [x, y] = [a.value.peek(), b.value.peek()];
    return a.value.dtype === b.value.dtype && x !== undefined && y !== undefined && sameBytes(x, y);
  }
  return a?.type === b.type && String(a.value) === String(b.value);
}

function sameBytes(a: TypedData, b: TypedData): boolean {
  const [x, y] = [bytesOf(a), bytesOf(b)];
  return x.length === y.length && x.every((byte, i) => byte === y[i]);
}

/** The form that the parts look like; whether they are it, their expansion tells. */
function guess(graph: Graph, value: Value, nodes: readonly Node[]): SparseForm | undefined {
  const part = (name: string): Tensor | undefined => graph.initializers.get(fullName(value.name, name))?.tensor;
  const numbers = (name: string): number[] | undefined => part(name)?.peekNumbers();
  const node = (opType: string): Node | undefined => nodes.find((each) => each.opType === opType);
  const [codes, plain, coded, scales, shape] = [
    part("index"),
    part("values"),
    part("codes"),
    part("scales"),
    numbers("shape"),
  ];
  const index = codes && indexOf(codes, nodes);
  const values =
    plain ?? (coded && scales && ({ bits: coded.dtype === "int8" ? 8 : 4, codes: coded, scales } as const));
  if (!codes || !index || !values || !shape || shape.some((size) => size < 0)) return undefined;
  const half = dtypeCode("float16");
  const dtype = plain?.dtype ?? (nodes.some((each) => each.int("to") === half) ? "float16" : "float32");
  const end = [...graph.initializers.keys()].find((name) => name.startsWith(fullName(value.name, "end")));
  const cut = end === undefined ? undefined : graph.initializers.get(end)?.tensor?.peekNumbers()?.[0];
  const entries = index.kind === "nibbles" ? (cut ?? 2 * codes.elements) : codes.elements;
  const unit = index.kind === "mask" ? ((plain ? plain.shape[1] : numbers("units")?.[1]) ?? 1) : 1;
  const back = node("Transpose")?.ints("perm");
  const moved = numbers("split");
  const order = back &&
    moved && { split: back.map((axis) => moved[axis] as number), perm: back.map((_, axis) => back.indexOf(axis)) };
  const constant = node("ConstantOfShape")?.attributes.get("value");
  const resident = constant?.type === "tensor" ? constant.value.peek() : undefined;
  const fill = resident ? bytesOf(resident) : new Uint8Array(dtypeBits(dtype) / 8);
  return { dtype, shape, index, codes, entries, unit, values, fill, order };
}

function indexOf(codes: Tensor, nodes: readonly Node[]): SparseIndex | undefined {
  if (codes.shape.length !== 1) return undefined;
  if (codes.dtype === "uint16") return { kind: "gaps", bits: 16 };
  if (codes.dtype !== "uint8") return undefined;
  if (nodes.some(({ opType }) => opType === "Where")) return { kind: "nibbles" };
  if (nodes.some(({ opType }) => opType === "ScatterElements")) return { kind: "gaps", bits: 8 };
  for (const { inputs } of nodes) {
    const [, keep, of] = PATTERN_TABLE.exec(inputs[0]?.name ?? "") ?? [];
    if (keep && of)
      return Number(of) <= MOST_NEIGHBOURS ? { kind: "pattern", keep: Number(keep), of: Number(of) } : undefined;
  }
  return { kind: "mask" };
}
