/** The numbers that a stored weight stands for, where it is unpacked by plain operators on constants: Cast, Gather, Sub, Mul, Reshape, Transpose. */
import { toFloat32 } from "../base/to-float32.ts";
import { elementCount, stridesOf } from "../base/shape.ts";
import type { Node, Value } from "../ir/graph.ts";
import { storedTensor } from "./layer-weights.ts";

interface Array32 {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** The weight's elements; undefined when another operator takes part in unpacking it. */
export async function unpackedWeight(value: Value | undefined): Promise<Float32Array | undefined> {
  return (await evaluate(value))?.data;
}

async function evaluate(value: Value | undefined): Promise<Array32 | undefined> {
  const tensor = storedTensor(value);
  if (tensor) return { shape: tensor.shape, data: toFloat32(tensor.dtype, await tensor.bytes(), tensor.elements) };
  const node = value?.producer;
  if (!node || node.domain !== "") return undefined;
  const [a, b] = [await evaluate(node.inputs[0]), await evaluate(node.inputs[1])];
  if (!a) return undefined;
  switch (node.opType) {
    case "Cast":
      return a;
    case "Transpose":
      return transposed(a, node.ints("perm"));
    case "Reshape":
      return b && reshaped(a, b, node);
    case "Gather":
      return b && node.int("axis", 0) === 0 ? gathered(a, b) : undefined;
    case "Sub":
      return b && broadcast(a, b, (x, y) => x - y);
    case "Mul":
      return b && broadcast(a, b, (x, y) => x * y);
    default:
      return undefined;
  }
}

function reshaped(a: Array32, target: Array32, node: Node): Array32 {
  const keepsZero = node.int("allowzero", 0) === 0;
  const sizes = Array.from(target.data, (size, axis) => (size === 0 && keepsZero ? (a.shape[axis] ?? 1) : size));
  const known = sizes.reduce((product, size) => (size < 0 ? product : product * size), 1);
  return { shape: sizes.map((size) => (size < 0 ? a.data.length / known : size)), data: a.data };
}

/** y_i = table_{index_i}, along the first axis. */
function gathered(table: Array32, index: Array32): Array32 {
  const row = elementCount(table.shape.slice(1));
  const data = new Float32Array(index.data.length * row);
  const rows = table.shape[0] ?? 0;
  for (const [i, at] of index.data.entries()) {
    const start = (at < 0 ? at + rows : at) * row;
    data.set(table.data.subarray(start, start + row), i * row);
  }
  return { shape: [...index.shape, ...table.shape.slice(1)], data };
}

function transposed(a: Array32, perm?: readonly number[]): Array32 {
  const order = perm ?? a.shape.map((_, axis) => a.shape.length - 1 - axis);
  const shape = order.map((axis) => a.shape[axis] ?? 1);
  const strides = stridesOf(a.shape);
  const steps = order.map((axis) => strides[axis] ?? 0);
  return { shape, data: gatherBySteps(a.data, shape, steps) };
}

function broadcast(a: Array32, b: Array32, apply: (x: number, y: number) => number): Array32 {
  const rank = Math.max(a.shape.length, b.shape.length);
  const sizeAt = (shape: readonly number[], axis: number): number => shape[axis - (rank - shape.length)] ?? 1;
  const shape = Array.from({ length: rank }, (_, axis) => Math.max(sizeAt(a.shape, axis), sizeAt(b.shape, axis)));
  const stretch = (x: Array32): Float32Array => {
    if (x.data.length === elementCount(shape)) return x.data;
    const strides = stridesOf(x.shape);
    const steps = shape.map((_, axis) =>
      sizeAt(x.shape, axis) === 1 ? 0 : (strides[axis - (rank - x.shape.length)] ?? 0),
    );
    return gatherBySteps(x.data, shape, steps);
  };
  const [x, y] = [stretch(a), stretch(b)];
  return { shape, data: x.map((value, i) => apply(value, y[i] as number)) };
}

/** Reads an array in the order of `shape`, moving by `steps` elements along each axis. */
function gatherBySteps(data: Float32Array, shape: readonly number[], steps: readonly number[]): Float32Array {
  const out = new Float32Array(elementCount(shape));
  const position = shape.map(() => 0);
  let from = 0;
  for (let i = 0; i < out.length; i++) {
    out[i] = data[from] as number;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      position[axis] = (position[axis] as number) + 1;
      from += steps[axis] as number;
      if ((position[axis] as number) < (shape[axis] as number)) break;
      from -= (steps[axis] as number) * (shape[axis] as number);
      position[axis] = 0;
    }
  }
  return out;
}
