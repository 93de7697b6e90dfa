/** Zeros of stored tensors, counted on their bits in pieces, so that large tensors do not fill the memory. */
import { dtypeBits, viewAs } from "../base/dtype.ts";
import { unpackSigned, unpackUnsigned } from "../base/packed.ts";
import { toFloat32 } from "../base/to-float32.ts";
import type { Tensor } from "../ir/tensor.ts";

const CHUNK_BYTES = 16 * 2 ** 20;

/** Elements that are ±0. */
export async function storedZeros(tensor: Tensor): Promise<number> {
  if (dtypeBits(tensor.dtype) < 8) {
    let packed = 0;
    for (const code of await storedCodes(tensor)) if (code === 0) packed++;
    return packed;
  }
  const { byteLength } = tensor.source;
  let zeros = 0;
  for (let offset = 0; offset < byteLength; offset += CHUNK_BYTES)
    zeros += zerosOfBytes(tensor, await tensor.source.read(offset, Math.min(CHUNK_BYTES, byteLength - offset)));
  return zeros;
}

function zerosOfBytes(tensor: Tensor, bytes: Uint8Array): number {
  let zeros = 0;
  switch (tensor.dtype) {
    case "float32": {
      const bits = viewAs("uint32", bytes) as Uint32Array;
      for (let i = 0; i < bits.length; i++) if (((bits[i] as number) & 0x7fff_ffff) === 0) zeros++;
      return zeros;
    }
    case "float16":
    case "bfloat16": {
      const bits = viewAs("uint16", bytes) as Uint16Array;
      for (let i = 0; i < bits.length; i++) if (((bits[i] as number) & 0x7fff) === 0) zeros++;
      return zeros;
    }
    default: {
      const values =
        tensor.dtype === "float64" ? (viewAs("float64", bytes) as Float64Array) : toFloat32(tensor.dtype, bytes);
      for (let i = 0; i < values.length; i++) if (values[i] === 0) zeros++;
      return zeros;
    }
  }
}

/** Elements as small numbers, unpacked: codes of quantized tensors. */
export async function storedCodes(tensor: Tensor): Promise<Int8Array | Uint8Array | Float32Array> {
  const bytes = await tensor.bytes();
  switch (tensor.dtype) {
    case "int4":
      return unpackSigned(bytes, 4, tensor.elements);
    case "int2":
      return unpackSigned(bytes, 2, tensor.elements);
    case "uint4":
      return unpackUnsigned(bytes, 4, tensor.elements);
    case "uint2":
      return unpackUnsigned(bytes, 2, tensor.elements);
    case "int8":
      return viewAs("int8", bytes) as Int8Array;
    case "uint8":
    case "bool":
      return bytes;
    default:
      return toFloat32(tensor.dtype, bytes, tensor.elements);
  }
}
