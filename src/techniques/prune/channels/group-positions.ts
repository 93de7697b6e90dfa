/** Where the groups of a family lie on the axes of values, and which values tell of them. */
import type { ChannelGroups, Family, WeightAxis } from "../../../analyse/groups.ts";
import type { Value } from "../../../ir/graph.ts";

/** A value, and the axis of it that a family lies along. */
export interface AxisOfValue {
  readonly value: Value;
  readonly axis: number;
}

/** Positions of each group on the axis of a value; none where the axis is not the family's. */
export function indicesIn(family: Family, { value, axis }: AxisOfValue): readonly (readonly number[])[] {
  return family.groups.map(
    ({ parts }) =>
      parts.find((part) => part.axis.members.some((member) => member.value === value && member.axis === axis))
        ?.indices ?? [],
  );
}

/** Each axis of a value once: a weight that two layers read is told of by both. */
export function distinct<T extends AxisOfValue>(places: readonly T[]): T[] {
  const seen = new Map<Value, Set<number>>();
  return places.filter(({ value, axis }) => {
    const axes = seen.get(value) ?? new Set();
    seen.set(value, axes);
    return !axes.has(axis) && axes.add(axis);
  });
}

/**
 * The activations along a family: what the layers that sum over it read, or what makes it where nothing stored does. A value
 * that several layers read stands once.
 */
export function activationsOf(family: Family, groups: ChannelGroups): AxisOfValue[] {
  const axes = new Set(family.groups.flatMap(({ parts }) => parts.map(({ axis }) => axis)));
  const along = (values: readonly (Value | undefined)[], weights: readonly WeightAxis[]): AxisOfValue[] =>
    values.flatMap((value) => {
      if (!value?.shape || value.tensor || weights.some((weight) => weight.value === value)) return [];
      const axis = value.shape.findIndex((_, i) => {
        const owner = groups.axisOf(value, i);
        return owner !== undefined && axes.has(owner);
      });
      return axis < 0 ? [] : [{ value, axis }];
    });
  const read = family.consumers.flatMap(({ node }) => along(node.inputs, family.consumers));
  return distinct(read.length > 0 ? read : family.producers.flatMap(({ node }) => along(node.outputs, [])));
}
