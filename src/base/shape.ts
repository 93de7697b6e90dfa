/** Shapes: products, strides, symbolic dimensions. */

/** One dimension: a size, a symbol or symbolic expression ("batch", "2*batch + 1"), or null when nothing is known. */
export type Dim = number | string | null;

/** Number of elements of a concrete shape; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (const size of shape) count *= size;
  return count;
}

/** True if every dimension is a number. */
export function isConcrete(shape: readonly Dim[] | undefined): shape is readonly number[] {
  return shape?.every((dim) => typeof dim === "number") ?? false;
}

/** Row-major strides in elements: stride_i = Π_{j>i} size_j. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = shape.map(() => 1);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis] ?? 1;
  }
  return strides;
}

/** A shape as people write it: `[batch, 3, 224, 224]`; `?` for unknown, `[...]` for unknown rank. */
export function formatShape(shape: readonly Dim[] | undefined): string {
  return shape === undefined ? "[...]" : `[${shape.map((dim) => dim ?? "?").join(", ")}]`;
}
