/** Arrays in double precision and the loops that plain references of operators are written in. */
import type { Node } from "../../../src/ir/graph.ts";

export interface Nd {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** The operator in plain double-precision TypeScript: its outputs from its inputs; integer inputs are given as numbers. */
export type Reference = (node: Node, inputs: readonly (Nd | undefined)[], opset: number) => readonly Nd[];

export const product = (sizes: readonly number[]): number => sizes.reduce((n, size) => n * size, 1);

/** Calls `visit` with every coordinate of a shape, in row-major order; the list of coordinates is reused. */
export function each(shape: readonly number[], visit: (at: readonly number[], flat: number) => void): void {
  const at = shape.map(() => 0);
  const total = product(shape);
  for (let flat = 0; flat < total; flat++) {
    visit(at, flat);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at[axis] = (at[axis] ?? 0) + 1;
      if ((at[axis] ?? 0) < (shape[axis] ?? 0)) break;
      at[axis] = 0;
    }
  }
}

/** Element of `array` at the trailing coordinates of `at`, axes of size 1 repeated. */
export function broadcastAt({ shape, data }: Nd, at: readonly number[]): number {
  let flat = 0;
  for (const [axis, size] of shape.entries())
    flat = flat * size + (size === 1 ? 0 : (at[at.length - shape.length + axis] ?? 0));
  return data[flat] ?? Number.NaN;
}

/** Elements of x in groups: for each element of the shape with `axes` left out, the flat positions that share it. */
export function groups(shape: readonly number[], axes: readonly number[]): number[][] {
  const all = new Map<string, number[]>();
  each(shape, (at, flat) => {
    const key = at.filter((_, axis) => !axes.includes(axis)).join();
    const list = all.get(key);
    if (list) list.push(flat);
    else all.set(key, [flat]);
  });
  return [...all.values()];
}

/** A function of each element of the first input. */
export function pointwise(f: (x: number, node: Node) => number): Reference {
  return (node, [x]) => [{ shape: x?.shape ?? [], data: (x as Nd).data.map((value) => f(value, node)) }];
}

/** erf by its Maclaurin series 2/√π Σ (−1)ⁿ x^(2n+1)/(n!(2n+1)), exact to 1e-12 for |x| ≤ 4. */
export function erf(x: number): number {
  let [term, sum] = [x, x];
  for (let n = 1; n < 100; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}
