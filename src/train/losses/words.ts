/** Words in which losses are written, on top of those of gradients. */
import { elementCount } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { add, div, mul, reduceSum, reshape, scalar, scale, type Site, sub } from "../../ops/gradients/words.ts";

export const abs = (s: Site, x: Value): Value => s.b.op("Abs", [x]);
export const exp = (s: Site, x: Value): Value => s.b.op("Exp", [x]);
export const log = (s: Site, x: Value): Value => s.b.op("Log", [x]);
export const max = (s: Site, x: Value, y: Value): Value => s.b.op("Max", [x, y]);
export const min = (s: Site, x: Value, y: Value): Value => s.b.op("Min", [x, y]);
export const matmul = (s: Site, x: Value, y: Value): Value => s.b.op("MatMul", [x, y]);
export const square = (s: Site, x: Value): Value => mul(s, x, x);

/** ln softmax over the last axis. */
export function logSoftmax(s: Site, x: Value): Value {
  return s.b.op("LogSoftmax", [x], { attributes: { axis: -1 } });
}

/** 0, 1, … */
export function axesOf(rank: number): number[] {
  return Array.from({ length: rank }, (_, axis) => axis);
}

/** Σ x / count over all axes of a shape. */
export function total(s: Site, x: Value, shape: readonly number[], count = 1): Value {
  return scale(s, reduceSum(s, x, axesOf(shape.length), false), 1 / count, "float32");
}

/** The mean over all elements of a shape. */
export function mean(s: Site, x: Value, shape: readonly number[]): Value {
  return total(s, x, shape, elementCount(shape));
}

/** x + c. */
export function plus(s: Site, x: Value, c: number): Value {
  return c === 0 ? x : add(s, x, scalar(s, "float32", c));
}

/** Huber's loss of a difference, elementwise: ½d² up to δ, δ(|d| − ½δ) beyond; with c = min(|d|, δ) both are c(|d| − ½c). */
export function huber(s: Site, difference: Value, delta: number): Value {
  const size = abs(s, difference);
  const cut = min(s, size, scalar(s, "float32", delta));
  return mul(s, cut, sub(s, size, scale(s, cut, 0.5, "float32")));
}

/** x/max(‖x‖, ε) over the last axis of a value of that rank. */
export function unit(s: Site, x: Value, rank: number): Value {
  const squares = reduceSum(s, square(s, x), [rank - 1], true);
  return div(s, x, s.b.op("Sqrt", [max(s, squares, scalar(s, "float32", 1e-12))]));
}

/** Rows of everything but the last axis: (rows, width). */
export function rowsOf(s: Site, x: Value, shape: readonly number[]): Value {
  const width = shape.at(-1) ?? 1;
  return shape.length === 2 ? x : reshape(s, x, [elementCount(shape) / width, width]);
}
