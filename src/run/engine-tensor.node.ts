/** Between pare's arrays and the engine's tensors, without copying where the engine allows it. */
import ort from "onnxruntime-node";
import { type DType, type TypedData, arrayTypeOf } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import type { NdArray, Port } from "./session.ts";

/**
 * Element types that onnxruntime-node passes in and out; the others exist inside a graph only. (1.30 opens a model with
 * 4-bit outputs, and then fetching one ends the process; feeding one is refused.)
 */
const ENGINE_DTYPES: ReadonlySet<string> = new Set([
  "float32",
  "uint8",
  "int8",
  "uint16",
  "int16",
  "int32",
  "int64",
  "string",
  "bool",
  "float16",
  "float64",
  "uint32",
  "uint64",
]);

/** True if arrays of this dtype can be fed to and fetched from the engine. */
export function isEngineDtype(dtype: DType): boolean {
  return ENGINE_DTYPES.has(dtype);
}

/** The engine's tensor over the array's memory. Shared memory is copied: the engine refuses it. */
export function toEngineTensor(array: NdArray): ort.Tensor {
  if (!isEngineDtype(array.dtype))
    throw new PareError("unsupported", `onnxruntime-node cannot pass a ${array.dtype} array in or out`, {
      help: "Cast it inside the model",
    });
  if (array.dtype === "string") return new ort.Tensor("string", [...(array.data as readonly string[])], array.shape);
  let data = array.data as TypedData;
  if (!(data.buffer instanceof ArrayBuffer)) data = copyOf(data);
  return new ort.Tensor(array.dtype as "float32", data as Float32Array, array.shape);
}

/** The array over the engine's tensor; half floats as bit patterns also where JavaScript has a Float16Array. */
export function fromEngineTensor(tensor: ort.Tensor): NdArray {
  const dtype = tensor.type as DType;
  const shape = [...tensor.dims];
  if (dtype === "string") return { dtype, shape, data: tensor.data as unknown as string[] };
  const data = tensor.data as TypedData;
  const Type = arrayTypeOf(dtype);
  if (data instanceof (Type as unknown as Uint8ArrayConstructor)) return { dtype, shape, data };
  return { dtype, shape, data: new Type(data.buffer, data.byteOffset, data.byteLength / Type.BYTES_PER_ELEMENT) };
}

/** A copy in memory of its own that is exactly as long as the data. */
export function copyOf<T extends TypedData>(data: T): T {
  const Type = data.constructor as new (source: T) => T;
  return new Type(data);
}

/** A session's inputs or outputs as ports. Sequences and optionals have dtype "undefined": they cannot be passed. */
export function portsOf(metadata: readonly ort.InferenceSession.ValueMetadata[]): Port[] {
  return metadata.map((entry) =>
    entry.isTensor
      ? {
          name: entry.name,
          dtype: entry.type as DType,
          shape: entry.shape.map((dim) => (dim === "" ? null : dim)),
        }
      : { name: entry.name, dtype: "undefined", shape: [] },
  );
}
