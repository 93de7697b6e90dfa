/** Patterns that many operator records share: inference by broadcasting or copying, contents of small tensors, costs. */
import type { DType } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { type Dim, elementCount, formatShape, isConcrete } from "../base/shape.ts";
import type { Node } from "../ir/graph.ts";
import type { Cost, Grad, Infer, InferContext, OpSpec, ValueType } from "./spec.ts";
import { broadcast } from "./symbolic.ts";

/** Records of one family: `Op` in the standard domain, `domain::Op` elsewhere; a list where the meaning changed with the opset. */
export type OpTable = Readonly<Record<string, OpSpec | readonly OpSpec[]>>;

/** The records of an operator whose meanings share one gradient rule. */
export function differentiable(records: readonly OpSpec[], grad: Grad): readonly OpSpec[] {
  return records.map((record) => ({ ...record, grad }));
}

export type Shape = readonly Dim[];

/** Tensors with more elements than this carry no contents through inference. */
export const MAX_CONTENTS = 1024;

export function mismatch(context: InferContext, found: string, expected: string): PareError {
  const { node } = context;
  return new PareError("shape-mismatch", "The inputs do not fit the operator", {
    where: `node '${node.name || node.outputs[0]?.name || node.opType}' (${node.opType})`,
    found,
    expected,
  });
}

export function shapeOf(context: InferContext, index: number): Shape | undefined {
  return context.inputs[index]?.shape;
}

export function dtypeOf(context: InferContext, index: number): DType | undefined {
  return context.inputs[index]?.dtype;
}

/** Row-major contents of an input, as far as known. */
export function contentsOf(context: InferContext, index: number): readonly Dim[] | undefined {
  return context.inputs[index]?.contents;
}

/** Integers given as an attribute in older opsets and as an input in newer ones; "absent" if neither is there. */
export function integers(
  context: InferContext,
  attribute: string,
  input: number,
): readonly Dim[] | "absent" | undefined {
  const list = context.node.ints(attribute);
  if (list) return list;
  const single = context.node.int(attribute);
  if (single !== undefined) return [single];
  const given = context.inputs[input];
  return given ? given.contents : "absent";
}

/** The same, as plain numbers: undefined when absent or not all known. */
export function knownIntegers(context: InferContext, attribute: string, input: number): readonly number[] | undefined {
  const list = integers(context, attribute, input);
  return list !== "absent" && isConcrete(list) ? list : undefined;
}

/** An axis counted from the front; throws when it lies outside the rank. */
export function normalizeAxis(context: InferContext, axis: number, rank: number): number {
  const positive = axis < 0 ? axis + rank : axis;
  if (positive < 0 || positive >= rank)
    throw mismatch(context, `axis ${axis} of a tensor of rank ${rank}`, `an axis in [${-rank}, ${rank - 1}]`);
  return positive;
}

/** Numpy broadcasting. Throws when two sizes differ and neither is 1; undefined if a rank is unknown. */
export function broadcastShapes(context: InferContext, shapes: readonly (Shape | undefined)[]): Shape | undefined {
  let rank = 0;
  for (const shape of shapes) {
    if (!shape) return undefined;
    rank = Math.max(rank, shape.length);
  }
  const result = Array.from({ length: rank }, (): Dim => 1);
  for (const shape of shapes as readonly Shape[])
    for (const [i, dim] of shape.entries()) {
      const axis = rank - shape.length + i;
      const before = result[axis] ?? null;
      if (typeof before === "number" && typeof dim === "number" && before !== dim && before !== 1 && dim !== 1)
        throw mismatch(context, shapes.map((each) => formatShape(each)).join(" and "), "shapes that broadcast");
      // An unknown size against a known one above 1 is that one; against 1 or a symbol nothing is known.
      result[axis] = broadcast(before, dim);
    }
  return result;
}

/** More axes than any operator takes: a rank beyond it is a lie, and is not believed. */
const MAX_RANK = 64;

/** Every size of a shape of this rank is unknown. */
export function unknownShape(rank: number): Shape | undefined {
  if (!Number.isInteger(rank) || rank < 0 || rank > MAX_RANK) return undefined;
  return Array.from({ length: rank }, (): Dim => null);
}

/** Output 0 has input `index`'s dtype and shape. */
export function sameAsInput(index = 0): Infer {
  return (context) => [{ dtype: dtypeOf(context, index), shape: shapeOf(context, index) }];
}

/** Output 0 has input `index`'s shape and a fixed dtype. */
export function sameShape(dtype: DType, index = 0): Infer {
  return (context) => [{ dtype, shape: shapeOf(context, index) }];
}

/** Applies a function to the contents of broadcast inputs, if all are known and small. */
export function broadcastContents(
  inputs: readonly (ValueType | undefined)[],
  shape: Shape | undefined,
  compute: (...elements: Dim[]) => Dim,
): readonly Dim[] | undefined {
  if (!isConcrete(shape) || inputs.length === 0 || inputs.some((input) => !input?.contents)) return undefined;
  const count = elementCount(shape);
  if (count > MAX_CONTENTS) return undefined;
  const pickers = inputs.map((input) => {
    const own = input?.shape as readonly number[];
    const contents = input?.contents as readonly Dim[];
    return (coordinates: readonly number[]): Dim => {
      let offset = 0;
      for (const [axis, size] of own.entries()) {
        const coordinate = coordinates[coordinates.length - own.length + axis] ?? 0;
        offset = offset * size + (size === 1 ? 0 : coordinate);
      }
      return contents[offset] ?? null;
    };
  });
  return mapCoordinates(shape, (coordinates) => compute(...pickers.map((pick) => pick(coordinates))));
}

/** Row-major elements of an array of this shape, computed from their coordinates. */
export function mapCoordinates<T>(shape: readonly number[], compute: (coordinates: readonly number[]) => T): T[] {
  const count = elementCount(shape);
  const result: T[] = [];
  const coordinates = Array.from({ length: shape.length }, (): number => 0);
  for (let i = 0; i < count; i++) {
    result[i] = compute(coordinates);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      coordinates[axis] = (coordinates[axis] ?? 0) + 1;
      if ((coordinates[axis] ?? 0) < (shape[axis] ?? 0)) break;
      coordinates[axis] = 0;
    }
  }
  return result;
}

/** Keeps contents only if they are as many as the shape says and few enough; otherwise drops them. */
export function withContents(
  dtype: DType | undefined,
  shape: Shape | undefined,
  contents: readonly Dim[] | undefined,
): ValueType {
  if (!contents || !isConcrete(shape) || contents.length !== elementCount(shape) || contents.length > MAX_CONTENTS)
    return { dtype, shape };
  return { dtype, shape, contents };
}

/** Elements of a concrete shape; 0 when unknown. */
export function count(shape: readonly number[] | undefined): number {
  return shape ? elementCount(shape) : 0;
}

/** No arithmetic: moves or names elements. */
export const FREE: Cost = () => ({ macs: 0 });

/** `perElement` operations for each element of output 0. */
export function perOutput(perElement = 1): Cost {
  return ({ outputs }) => ({ macs: 0, flops: perElement * count(outputs[0]) });
}

/** `perElement` operations for each element of input 0. */
export function perInput(perElement = 1): Cost {
  return ({ inputs }) => ({ macs: 0, flops: perElement * count(inputs[0]) });
}

/** True if the input is a stored tensor: an initializer, or the output of a Constant node. */
export function isStored(node: Node, index: number): boolean {
  const value = node.inputs[index];
  return value?.tensor !== undefined || value?.producer?.opType === "Constant";
}
