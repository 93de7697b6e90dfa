/** NumPy's array files: header and elements of .npy, and the arrays of a .npz. */
import { unzip } from "fflate";
import { type DType, type TypedData, viewAs } from "../base/dtype.ts";
import { messageOf, PareError } from "../base/error.ts";
import { elementCount, stridesOf } from "../base/shape.ts";

export interface NpyArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Row-major, native byte order. */
  readonly data: TypedData;
}

/** Most bytes of one .npz once unpacked: it lies in memory. */
const NPZ_LIMIT = 2 ** 31;

const DTYPES: Readonly<Record<string, DType>> = {
  b1: "bool",
  i1: "int8",
  i2: "int16",
  i4: "int32",
  i8: "int64",
  u1: "uint8",
  u2: "uint16",
  u4: "uint32",
  u8: "uint64",
  f2: "float16",
  f4: "float32",
  f8: "float64",
};

/** Reads a .npy file: any version, number dtype, byte order and memory order. Throws `bad-data`. */
export function parseNpy(bytes: Uint8Array, where: string): NpyArray {
  const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // \x93NUMPY
  if (!magic.every((byte, i) => bytes[i] === byte) || bytes.byteLength < 12)
    throw new PareError("bad-data", "This is not a .npy array", {
      where,
      expected: "bytes that begin with \\x93NUMPY",
    });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = (bytes[6] ?? 1) >= 2;
  const start = long ? 12 : 10;
  const end = start + (long ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.subarray(start, Math.min(end, start + 65_536)));
  const descr = /'descr'\s*:\s*'([<>|=])([a-zA-Z])(\d+)'/.exec(header);
  const order = /'fortran_order'\s*:\s*(True|False)/.exec(header);
  const dims = /'shape'\s*:\s*\(([^)]*)\)/.exec(header);
  const dtype = descr ? DTYPES[`${descr[2]}${descr[3]}`] : undefined;
  if (!descr || !order || !dims || !dtype || end > bytes.byteLength)
    throw new PareError("bad-data", "The .npy header is not one that can be read", {
      where,
      found: descr ? `dtype ${descr[1]}${descr[2]}${descr[3]}` : header.trim().slice(0, 80),
      expected: `a dtype of ${Object.keys(DTYPES).join(", ")}`,
      help: "Save the array with a plain number dtype: array.astype('float32')",
    });
  const shape = (dims[1] as string)
    .split(",")
    .map((word) => word.trim())
    .filter(Boolean)
    .map(Number);
  const width = Number(descr[3]);
  const count = elementCount(shape);
  if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0) || bytes.byteLength !== end + count * width)
    throw new PareError("bad-data", "The .npy file does not hold what its header declares", {
      where,
      found: `${bytes.byteLength - end} bytes`,
      expected: `${count * width} bytes for (${shape.join(", ")})`,
      help: "It is truncated: save it again",
    });
  const body = bytes.slice(end);
  if (descr[1] === ">") swapBytes(body, width);
  const data = viewAs(dtype, body);
  return { dtype, shape, data: order[1] === "True" && shape.length > 1 ? fromFortran(data, shape) : data };
}

function swapBytes(bytes: Uint8Array, width: number): void {
  for (let at = 0; at < bytes.length; at += width) bytes.subarray(at, at + width).reverse();
}

/** Column-major to row-major: out[Σ i_k s_k] = in[Σ i_k f_k] with f_k = Π_{j<k} size_j. */
function fromFortran(data: TypedData, shape: readonly number[]): TypedData {
  const out = data.slice();
  const rowMajor = stridesOf(shape);
  const index = Array.from({ length: shape.length }, () => 0);
  let target = 0;
  for (let from = 0; from < data.length; from++) {
    out[target] = data[from] as never;
    for (let axis = 0; axis < shape.length; axis++) {
      const stride = rowMajor[axis] as number;
      target += stride;
      index[axis] = (index[axis] as number) + 1;
      if ((index[axis] as number) < (shape[axis] as number)) break;
      target -= stride * (shape[axis] as number);
      index[axis] = 0;
    }
  }
  return out;
}

/** The arrays of a .npz, by name without `.npy`; only those that `wanted` accepts are unpacked. */
export async function parseNpz(
  bytes: Uint8Array,
  where: string,
  wanted: (name: string) => boolean,
): Promise<{ readonly names: readonly string[]; readonly arrays: ReadonlyMap<string, NpyArray> }> {
  const names: string[] = [];
  let total = 0;
  const files = await new Promise<Record<string, Uint8Array>>((resolve, reject) => {
    const filter = (file: { name: string; originalSize: number }): boolean => {
      if (!file.name.endsWith(".npy")) return false;
      const name = file.name.slice(0, -4);
      names.push(name);
      if (!wanted(name)) return false;
      total += file.originalSize;
      return total <= NPZ_LIMIT;
    };
    unzip(bytes, { filter }, (error, result) => (error ? reject(error) : resolve(result)));
  }).catch((cause: unknown) => {
    throw new PareError("bad-data", "This is not a whole .npz (zip) file", { where, found: messageOf(cause), cause });
  });
  if (total > NPZ_LIMIT)
    throw new PareError("bad-data", "The arrays are too large to hold in memory", {
      where,
      found: `${total} bytes`,
      expected: `at most ${NPZ_LIMIT} bytes`,
    });
  const arrays = new Map<string, NpyArray>();
  for (const [name, content] of Object.entries(files))
    arrays.set(name.slice(0, -4), parseNpy(content, `${where}, array ${name.slice(0, -4)}`));
  return { names, arrays };
}
