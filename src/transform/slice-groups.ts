/** Cuts groups of channels out of a model: smaller tensors, and attributes, sizes and indices that follow. */
import type { AxisClass } from "../analyse/axis-ties.ts";
import type { ChannelGroups, Group } from "../analyse/groups.ts";
import { nameOf } from "../analyse/keep.ts";
import { inferShapes, inferTypes } from "../analyse/shapes.ts";
import { PareError } from "../base/error.ts";
import { type Dim, formatShape } from "../base/shape.ts";
import { toAttribute } from "../ir/attribute.ts";
import { Node, Value } from "../ir/graph.ts";
import type { KeptAxis } from "../ir/kept-ports.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import type { Narrowed, NarrowContext } from "../ops/narrow.ts";
import { specOf } from "../ops/registry.ts";
import { removeDead } from "./remove-dead.ts";
import { type Kept, sliceTensor } from "./slice-tensor.ts";

/**
 * Removes groups of {@link ChannelGroups} from the model that they were found in. Tensors shrink when they are read. Returns what is
 * left of inputs and outputs that shrank. Throws `internal` if the shapes that follow are not those that the groups promise, which
 * would be a mistake in a record.
 */
export function sliceGroups(model: Model, groups: ChannelGroups, removed: Iterable<Group>): KeptSides {
  const kept = keptPositions(removed);
  const sides: KeptSides = { inputs: {}, outputs: {} };
  if (kept.size === 0) return sides;
  const [inputs, outputs] = [new Set(model.graph.inputs), new Set(model.graph.outputs)];
  const keptOf = (value: Value | undefined, axis: number): readonly number[] | undefined => {
    const owner = value && groups.axisOf(value, axis);
    return owner && kept.get(owner);
  };
  const expected = new Map<Value, readonly Dim[]>();
  for (const [owner, stay] of kept)
    for (const { value, axis } of owner.members) {
      const shape = [...(expected.get(value) ?? value.shape ?? [])];
      shape[axis] = stay.length;
      expected.set(value, shape);
      if (inputs.has(value) && !value.tensor) sides.inputs[value.name] = { axis, kept: stay };
      if (outputs.has(value)) sides.outputs[value.name] = { axis, kept: stay };
    }
  const known = new Set(inferTypes(model, { fresh: true }).problems.map(({ message }) => message));
  const changes: { node: Node; narrowed: Narrowed }[] = [];
  for (const node of model.graph.allNodes()) {
    const narrow = specOf(node, model.opsets.get(node.domain) ?? 1)?.narrow;
    const touched = [...node.inputs, ...node.outputs].some((value) => value && expected.has(value));
    if (narrow && touched) changes.push({ node, narrowed: narrow(contextOf(node, expected, keptOf)) });
  }
  for (const { node, narrowed } of changes) apply(node, narrowed);
  for (const [value, shape] of expected) {
    if (inputs.has(value)) value.shape = shape;
    if (!value.tensor) continue;
    const stay = new Map(value.shape?.flatMap((_, axis) => keptAt(keptOf(value, axis), axis)));
    value.tensor = sliceTensor(value.tensor, stay as Kept);
    value.shape = shape;
  }
  removeDead(model);
  agree(model, expected, known);
  return sides;
}

/** By name, what is left of an axis of each input and output that shrank. */
export interface KeptSides {
  readonly inputs: Record<string, KeptAxis>;
  readonly outputs: Record<string, KeptAxis>;
}

function keptAt(positions: readonly number[] | undefined, axis: number): [number, readonly number[]][] {
  return positions ? [[axis, positions]] : [];
}

/** Positions that stay on each axis that loses some. */
function keptPositions(removed: Iterable<Group>): Map<AxisClass, readonly number[]> {
  const gone = new Map<AxisClass, Set<number>>();
  for (const { parts } of removed)
    for (const { axis, indices } of parts) {
      const set = gone.get(axis) ?? new Set();
      for (const index of indices) set.add(index);
      gone.set(axis, set);
    }
  const kept = new Map<AxisClass, readonly number[]>();
  for (const [axis, set] of gone) {
    const stay = Array.from({ length: axis.size ?? 0 }, (_, i) => i).filter((i) => !set.has(i));
    const member = axis.members[0];
    if (stay.length === 0)
      throw new PareError("bad-option", "Nothing would be left of an axis", {
        where: member ? `value '${member.value.name}' axis ${member.axis}` : "an axis",
        help: "Keep at least one of its groups",
      });
    kept.set(axis, stay);
  }
  return kept;
}

function contextOf(
  node: Node,
  expected: ReadonlyMap<Value, readonly Dim[]>,
  keptOf: (value: Value | undefined, axis: number) => readonly number[] | undefined,
): NarrowContext {
  const after = (value: Value | undefined): readonly Dim[] | undefined => value && (expected.get(value) ?? value.shape);
  return {
    node,
    before: { input: (i) => node.inputs[i]?.shape, output: (i) => node.outputs[i]?.shape },
    after: { input: (i) => after(node.inputs[i]), output: (i) => after(node.outputs[i]) },
    kept: { input: (i, axis) => keptOf(node.inputs[i], axis), output: (i, axis) => keptOf(node.outputs[i], axis) },
  };
}

function apply(node: Node, { attributes = {}, inputs = {}, sizes }: Narrowed): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined) node.attributes.delete(name);
    else node.attributes.set(name, toAttribute(value));
  }
  for (const [index, numbers] of Object.entries(inputs)) setNumbers(node, Number(index), numbers);
  if (!sizes) return;
  const value = node.inputs[sizes.input];
  const given = value?.tensor?.peekNumbers();
  if (given) {
    const now = given.map((size, i) => sizes.entries.get(i) ?? size);
    setNumbers(node, sizes.input, now);
  } else if (value) node.setInput(sizes.input, patched(node, value, sizes.entries));
}

/** A new constant in place of a stored input: others may read the old one. */
function setNumbers(node: Node, index: number, numbers: readonly number[]): void {
  const old = node.inputs[index];
  const shape = old?.shape?.length === 0 ? [] : [numbers.length];
  const tensor =
    old?.dtype === "int32" ? Tensor.of("int32", shape, Int32Array.from(numbers)) : Tensor.int64(numbers, shape);
  node.setInput(index, constant(node, old?.name ?? `${nameOf(node)}.sizes`, tensor));
}

function constant(node: Node, name: string, tensor: Tensor): Value {
  if (!node.graph) throw new PareError("internal", "A node lies in no graph", { where: nameOf(node) });
  return node.graph.addInitializer(name, tensor);
}

/** Sizes that a run computes, with the entries that are known now put in their place: pieces of the old ones and constants. */
function patched(node: Node, sizes: Value, entries: ReadonlyMap<number, number>): Value {
  const { graph } = node;
  const length = typeof sizes.shape?.[0] === "number" ? sizes.shape[0] : Math.max(...entries.keys()) + 1;
  const dtype = "int64";
  const add = (opType: string, inputs: readonly Value[], attributes: Record<string, number> = {}): Value => {
    const output = new Value(graph?.uniqueName(`${sizes.name}_${opType.toLowerCase()}`) ?? "", dtype);
    const made = new Node({
      opType,
      inputs,
      outputs: [output],
      name: graph?.uniqueName(`${nameOf(node)}_${opType.toLowerCase()}`) ?? "",
      attributes: Object.entries(attributes).map(([name, value]) => [name, toAttribute(value)] as const),
    });
    graph?.add(made, node);
    return output;
  };
  const pieces: Value[] = [];
  for (let i = 0; i < length; i++) {
    const entry = entries.get(i);
    const index = constant(node, `${sizes.name}_entry`, Tensor.int64([entry ?? i]));
    pieces.push(entry === undefined ? add("Gather", [sizes, index], { axis: 0 }) : index);
  }
  return add("Concat", pieces, { axis: 0 });
}

/** Infers all shapes anew: what comes out must be what the groups say. */
function agree(model: Model, expected: ReadonlyMap<Value, readonly Dim[]>, known: ReadonlySet<string>): void {
  const before = new Map([...model.graph.outputs].map((output) => [output, output.shape]));
  const problems = inferShapes(model, { fresh: true }).filter(({ message }) => !known.has(message));
  const wrong = [...expected].find(
    ([value, shape]) =>
      !value.tensor &&
      value.shape !== undefined &&
      (value.producer?.graph !== undefined || value.uses.length > 0) &&
      (value.shape.length !== shape.length ||
        value.shape.some((dim, i) => typeof dim === "number" && typeof shape[i] === "number" && dim !== shape[i])),
  );
  if (problems[0] || wrong)
    throw new PareError("internal", "Shapes do not follow the channels that were removed", {
      where: problems[0]?.where ?? `value '${wrong?.[0].name}'`,
      found: problems[0]?.message ?? formatShape(wrong?.[0].shape),
      ...(wrong ? { expected: formatShape(wrong[1]) } : {}),
      help: "This is a mistake in pare: please report the model",
    });
  for (const [output, shape] of before) if (shape) output.shape = expected.get(output) ?? shape;
}
