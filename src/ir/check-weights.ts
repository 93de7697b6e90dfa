/** Reads every weight once, in bounded memory: is it there, and is it a number? */
import { type DType, viewAs } from "../base/dtype.ts";
import { messageOf, throwIfAborted } from "../base/error.ts";
import { COPY_CHUNK_BYTES } from "../onnx/limits.ts";
import type { Problem } from "./check.ts";
import type { Model } from "./model.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Problems of the weights themselves: initializers and constants that cannot be read (missing or truncated external data)
 * and ones that hold NaN or infinity. A lone infinity is left alone: it is how attention masks are written.
 */
export async function checkWeights(model: Model, signal?: AbortSignal): Promise<Problem[]> {
  const problems: Problem[] = [];
  for (const { name, tensor } of weightsOf(model)) {
    throwIfAborted(signal);
    const where = `tensor '${name}'`;
    try {
      const count = await countNonFinite(tensor, signal);
      if (count > 0 && !(await isLoneInfinity(tensor)))
        problems.push({
          severity: "warning",
          code: "non-finite-weights",
          where,
          message: `${count} of ${tensor.elements} elements are NaN or infinite`,
        });
    } catch (error) {
      throwIfAborted(signal);
      problems.push({ severity: "error", code: "unreadable-weights", where, message: messageOf(error) });
    }
  }
  return problems;
}

async function isLoneInfinity(tensor: Tensor): Promise<boolean> {
  if (tensor.elements !== 1 || !["float32", "float64", "float16"].includes(tensor.dtype)) return false;
  const [value] = await tensor.data();
  return tensor.dtype === "float16" ? (Number(value) & 0x3ff) === 0 : !Number.isNaN(Number(value));
}

/** Every tensor of a model by its value's name: initializers and tensor attributes of all graphs and functions. */
export function* weightsOf(model: Model): Generator<{ readonly name: string; readonly tensor: Tensor }> {
  for (const root of [model.graph, ...model.functions.map(({ body }) => body)])
    for (const graph of root.allGraphs()) {
      for (const value of graph.initializers.values())
        if (value.tensor) yield { name: value.name, tensor: value.tensor };
      for (const node of graph.nodes)
        for (const attribute of node.attributes.values()) {
          const name = node.outputs[0]?.name ?? node.name;
          if (attribute.type === "tensor") yield { name, tensor: attribute.value };
          else if (attribute.type === "tensors") for (const tensor of attribute.value) yield { name, tensor };
        }
    }
}

/** Number of elements that are NaN or infinite. Integer tensors have none, but are read all the same. */
async function countNonFinite(tensor: Tensor, signal: AbortSignal | undefined): Promise<number> {
  const { source, dtype } = tensor;
  if (tensor.strings) return 0;
  if (!source.readInto) return countIn(dtype, await source.read());
  const buffer = new Uint8Array(Math.min(COPY_CHUNK_BYTES, source.byteLength));
  let count = 0;
  for (let at = 0; at < source.byteLength; at += buffer.length) {
    throwIfAborted(signal);
    const part = buffer.subarray(0, Math.min(buffer.length, source.byteLength - at));
    await source.readInto(part, at);
    count += countIn(dtype, part);
  }
  return count;
}

function countIn(dtype: DType, bytes: Uint8Array): number {
  switch (dtype) {
    case "float32":
    case "float64":
    case "complex64":
    case "complex128":
      return countWhere(viewAs(dtype, bytes) as Float32Array, (value) => !Number.isFinite(value));
    case "float16":
      return countWhere(viewAs(dtype, bytes) as Uint16Array, (bits) => (bits & 0x7c00) === 0x7c00);
    case "bfloat16":
      return countWhere(viewAs(dtype, bytes) as Uint16Array, (bits) => (bits & 0x7f80) === 0x7f80);
    case "float8e4m3fn":
      return countWhere(bytes, (bits) => (bits & 0x7f) === 0x7f);
    case "float8e5m2":
      return countWhere(bytes, (bits) => (bits & 0x7c) === 0x7c);
    case "float8e4m3fnuz":
    case "float8e5m2fnuz":
      return countWhere(bytes, (bits) => bits === 0x80);
    case "float8e8m0":
      return countWhere(bytes, (bits) => bits === 0xff);
    default:
      return 0;
  }
}

function countWhere(data: ArrayLike<number>, isBad: (value: number) => boolean): number {
  let count = 0;
  for (let i = 0; i < data.length; i++) if (isBad(data[i] as number)) count++;
  return count;
}
