/** Groups of channels that can only be removed together, read off the axes of the operators' records. */
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";
import type { Weight } from "../ops/spec.ts";
import { type AxisClass, type AxisTies, tieAxes } from "./axis-ties.ts";
import { nameOf } from "./keep.ts";
import { type FamilyKind, isStored, kindOf } from "./group-kinds.ts";
import { type GroupedQueries, type TiedPositions, tiePositions } from "./positions.ts";

/** What goes of one axis of one value. */
export interface GroupMember {
  readonly value: Value;
  readonly axis: number;
  /** Positions, ascending. */
  readonly indices: readonly number[];
}

/** Positions that go together or not at all. */
export interface Group {
  /** Its number within the family, from 0, in the order of the family's first axis. */
  readonly index: number;
  /** Positions by axis, ascending; several values may have the axis. */
  readonly parts: readonly { readonly axis: AxisClass; readonly indices: readonly number[] }[];
}

/** Groups that touch the same axes: the channels of one layer and of everything tied to them. */
export interface Family {
  /** The first layer that makes these channels. */
  readonly name: string;
  readonly kind: FamilyKind;
  readonly groups: readonly Group[];
  /** Readings of weights that have these channels as outputs, and as inputs that are summed over. */
  readonly producers: readonly WeightAxis[];
  readonly consumers: readonly WeightAxis[];
  /** Other learned vectors along these channels: biases, scales, statistics. */
  readonly companions: readonly WeightAxis[];
  /** Why a network without some of them is not the one with them set to zero; undefined where it is. */
  readonly mixed: string | undefined;
}

/** A weight of a node, and the axis of it that a family lies along. */
export interface WeightAxis {
  readonly node: Node;
  readonly weight: Weight;
  readonly value: Value;
  readonly axis: number;
}

/** Channels of a layer that stay, and why. */
export interface FrozenChannels {
  /** The layer. */
  readonly name: string;
  /** Channels that stay, of how many. */
  readonly count: number;
  readonly size: number;
  readonly reason: string;
}

export interface GroupOptions {
  /** How heads of queries that share a head of keys go; default: together, with that head. */
  readonly queries?: GroupedQueries | undefined;
  /** Heads may go whose keys and values are inputs and outputs of the model: a cache that the caller keeps. Default: false. */
  readonly caches?: boolean | undefined;
}

export interface ChannelGroups {
  /** What they were found with. */
  readonly options: GroupOptions;
  readonly families: readonly Family[];
  readonly frozen: readonly FrozenChannels[];
  /** The axes that are tied with this one, or undefined where the value is not part of the graph. */
  axisOf(value: Value, axis: number): AxisClass | undefined;
}

/** The members of a group, one for each axis of each value. */
export function membersOf(group: Group): GroupMember[] {
  return group.parts.flatMap(({ axis, indices }) => axis.members.map((member) => ({ ...member, indices })));
}

/**
 * Every group of the model that can be removed, by family, and what is frozen with the reason. Constants must be
 * initializers and the inputs' sizes known where channels depend on them; shapes are inferred and written on the values.
 * Needs no weights: tensors are not read.
 */
export function channelGroups(model: Model, options: GroupOptions = {}): ChannelGroups {
  const ties = tieAxes(model);
  const classes = ties.classes(options);
  const positions = tiePositions(ties, classes, options.queries);
  const axisOf = (value: Value, axis: number): AxisClass | undefined => {
    const id = ties.find(value, axis);
    return id === undefined ? undefined : classes.get(ties.root(id));
  };
  const weights = weightAxes(model, ties, classes);
  const families = familiesOf(model, positions, classes, weights);
  return { options, families, frozen: frozenChannels(positions, weights, families), axisOf };
}

interface WeightUse extends WeightAxis {
  readonly kind: "producer" | "consumer" | "companion";
}

/** Learned inputs of all layers, by the class of each axis that they have. */
function weightAxes(
  model: Model,
  ties: AxisTies,
  classes: ReadonlyMap<number, AxisClass>,
): ReadonlyMap<AxisClass, readonly WeightUse[]> {
  const found = new Map<AxisClass, WeightUse[]>();
  for (const node of model.graph.allNodes()) {
    const list = specOf(node, model.opsets.get(node.domain) ?? 1)?.weights ?? [];
    for (const weight of typeof list === "function" ? list(node) : list) {
      const value = node.inputs[weight.input];
      if (!value?.shape || !isStored(value)) continue;
      const isKernel = weight.role === "kernel" || weight.role === "table";
      for (const axis of value.shape.keys()) {
        const id = ties.find(value, axis);
        const owner = id === undefined ? undefined : classes.get(ties.root(id));
        if (!owner) continue;
        const kind = !isKernel ? "companion" : isProducer(weight, axis) ? "producer" : "consumer";
        found.set(owner, [...(found.get(owner) ?? []), { node, weight, value, axis, kind }]);
      }
    }
  }
  return found;
}

/** Rows of a table lie along its reduction axis for who reads them: a looked-up row comes out. */
function isProducer(weight: Weight, axis: number): boolean {
  return weight.role === "table" ? axis !== weight.channelAxis : axis === weight.channelAxis;
}

function familiesOf(
  model: Model,
  positions: TiedPositions,
  classes: ReadonlyMap<number, AxisClass>,
  weights: ReadonlyMap<AxisClass, readonly WeightUse[]>,
): Family[] {
  const groups = new Map<number, Map<AxisClass, number[]>>();
  for (const each of classes.values()) {
    const start = positions.offset.get(each.root);
    if (start === undefined) continue;
    for (let i = 0; i < (each.size ?? 0); i++) {
      const root = positions.root(start + i);
      if (positions.frozen.has(root)) continue;
      let parts = groups.get(root);
      if (!parts) groups.set(root, (parts = new Map()));
      const list = parts.get(each);
      if (list) list.push(i);
      else parts.set(each, [i]);
    }
  }
  const families = new Map<string, { axes: AxisClass[]; groups: Group[] }>();
  for (const parts of groups.values()) {
    // An axis that one group covers would be empty without it.
    if ([...parts].some(([axis, indices]) => indices.length === axis.size)) continue;
    if (![...parts.keys()].some((axis) => weights.get(axis)?.some(({ kind }) => kind !== "companion"))) continue;
    const axes = [...parts.keys()];
    const key = axes.map((axis) => axis.root).join(" ");
    let family = families.get(key);
    if (!family) families.set(key, (family = { axes, groups: [] }));
    const list = axes.map((axis) => ({ axis, indices: parts.get(axis) ?? [] }));
    family.groups.push({ index: family.groups.length, parts: list });
  }
  return nameFamilies(
    [...families.values()].map((family) => {
      const uses = family.axes.flatMap((axis) => weights.get(axis) ?? []);
      const of = (kind: WeightUse["kind"]): WeightUse[] => uses.filter((use) => use.kind === kind);
      const named = of("producer")[0] ?? uses[0];
      return {
        name: named ? nameOf(named.node) : "?",
        kind: kindOf(model, { axes: family.axes, producers: of("producer"), consumers: of("consumer") }),
        groups: family.groups,
        producers: of("producer"),
        consumers: of("consumer"),
        companions: of("companion"),
        mixed: family.axes.find((axis) => axis.mixed !== undefined)?.mixed,
      };
    }),
  );
}

/** Families of one layer (parts of its channels are tied to different things) are told apart by a letter. */
function nameFamilies(families: readonly Family[]): Family[] {
  const count = new Map<string, number>();
  for (const { name } of families) count.set(name, (count.get(name) ?? 0) + 1);
  const seen = new Map<string, number>();
  return families.map((family) => {
    if ((count.get(family.name) ?? 0) < 2) return family;
    const number = (seen.get(family.name) ?? 0) + 1;
    seen.set(family.name, number);
    return { ...family, name: `${family.name}#${number}` };
  });
}

/** For each layer the output channels that are in no family, with the first reason. */
function frozenChannels(
  positions: TiedPositions,
  weights: ReadonlyMap<AxisClass, readonly WeightUse[]>,
  families: readonly Family[],
): FrozenChannels[] {
  const free = new Map<AxisClass, number>();
  for (const { groups } of families)
    for (const { parts } of groups)
      for (const { axis, indices } of parts) free.set(axis, (free.get(axis) ?? 0) + indices.length);
  const result: FrozenChannels[] = [];
  const seen = new Set<Node>();
  for (const [axis, uses] of weights)
    for (const { node, kind } of uses) {
      const size = axis.size ?? 0;
      const count = size - (free.get(axis) ?? 0);
      if (kind !== "producer" || count === 0 || seen.has(node)) continue;
      seen.add(node);
      result.push({ name: nameOf(node), count, size, reason: axis.frozen ?? reasonOf(positions, axis) });
    }
  return result;
}

function reasonOf(positions: TiedPositions, axis: AxisClass): string {
  const start = positions.offset.get(axis.root) ?? 0;
  for (let i = start; i < start + (axis.size ?? 0); i++) {
    const reason = positions.frozen.get(positions.root(i));
    if (reason !== undefined) return reason;
  }
  return "all of it goes together, and something has to stay";
}
