/** Elements of any numeric dtype as float32. */
import { bfloat16ToFloat32 } from "./bfloat.ts";
import { type DType, viewAs } from "./dtype.ts";
import { PareError } from "./error.ts";
import { smallFloatTable } from "./float8.ts";
import { float16ToFloat32 } from "./half.ts";
import { unpackSigned, unpackUnsigned } from "./packed.ts";

/**
 * Little-endian packed bytes as float32, rounded to nearest where float32 is narrower (64-bit types, large 32-bit integers).
 * float32 itself is a view, not a copy, when the bytes are aligned. `count` is needed only for 2- and 4-bit types whose last
 * byte is padded; its default is every element that fits.
 */
export function toFloat32(dtype: DType, bytes: Uint8Array, count?: number): Float32Array {
  switch (dtype) {
    case "float32":
      return viewAs(dtype, bytes) as Float32Array;
    case "float16":
      return float16ToFloat32(viewAs(dtype, bytes) as Uint16Array);
    case "bfloat16":
      return bfloat16ToFloat32(viewAs(dtype, bytes) as Uint16Array);
    case "float8e4m3fn":
    case "float8e4m3fnuz":
    case "float8e5m2":
    case "float8e5m2fnuz":
    case "float8e8m0":
      return lookUp(smallFloatTable(dtype), bytes);
    case "float4e2m1":
      return lookUp(smallFloatTable(dtype), unpackUnsigned(bytes, 4, count ?? bytes.length * 2));
    case "uint4":
      return Float32Array.from(unpackUnsigned(bytes, 4, count ?? bytes.length * 2));
    case "int4":
      return Float32Array.from(unpackSigned(bytes, 4, count ?? bytes.length * 2));
    case "uint2":
      return Float32Array.from(unpackUnsigned(bytes, 2, count ?? bytes.length * 4));
    case "int2":
      return Float32Array.from(unpackSigned(bytes, 2, count ?? bytes.length * 4));
    case "undefined":
    case "string":
    case "complex64":
    case "complex128":
      throw new PareError("unsupported", `A ${dtype} tensor has no float32 form`);
    default: {
      const data = viewAs(dtype, bytes);
      const values = new Float32Array(data.length);
      for (let i = 0; i < data.length; i++) values[i] = Number(data[i]);
      return values;
    }
  }
}

function lookUp(table: Float32Array, codes: Uint8Array): Float32Array {
  const values = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) values[i] = table[codes[i] as number] as number;
  return values;
}
