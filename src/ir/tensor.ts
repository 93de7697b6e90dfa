/** Tensors: immutable, lazy. Asking for dtype, shape or byteLength never reads anything. */
import { type DType, type TypedData, byteLengthOf, bytesOf, viewAs } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import type { FileRange } from "../base/file-range.ts";
import { elementCount } from "../base/shape.ts";

/** Where the bytes of a tensor come from: memory, a range of a file, Blob or HTTP source, or a computation run when asked. */
export interface TensorSource {
  /** Number of bytes, known without reading. */
  readonly byteLength: number;
  /** All the bytes, or `length` of them from `offset`. Not kept by the source: the caller owns what it is given, but must not write to it. */
  read(offset?: number, length?: number): Promise<Uint8Array>;
  /** The bytes if they already lie in memory. */
  readonly resident?: Uint8Array | undefined;
  /** Fills `target` from `offset`; present where a part costs no more than its bytes (a computation is always run whole). */
  readInto?(target: Uint8Array, offset: number): Promise<void>;
  /** Where the bytes lie in an open file, for another thread to read while this source is in use; undefined, also as a promise, where they do not. */
  fileRange?(): Promise<FileRange | undefined>;
  /**
   * Begins a computation that the next read will wait for; present where it can run beside other work, within a memory bound
   * of its own. Settles when it ends; the signal stops it. Its result is held until it is read.
   */
  prepare?(signal: AbortSignal): Promise<void>;
}

/** An immutable n-dimensional array; elements are packed little-endian, row-major. Strings are held apart in `strings`. */
export class Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly source: TensorSource;
  /** Elements of a string tensor, as bytes; undefined for every other dtype. */
  readonly strings: readonly Uint8Array[] | undefined;

  constructor(dtype: DType, shape: readonly number[], source: TensorSource, strings?: readonly Uint8Array[]) {
    this.dtype = dtype;
    this.shape = shape;
    this.source = source;
    this.strings = strings;
    if (dtype !== "string" && source.byteLength !== byteLengthOf(dtype, this.elements))
      throw new PareError("bad-model", `Tensor of ${dtype} [${shape.join(", ")}] has the wrong number of bytes`, {
        found: `${source.byteLength} bytes`,
        expected: `${byteLengthOf(dtype, this.elements)} bytes`,
      });
  }

  /** A tensor over memory. The array is not copied and must not change afterwards. */
  static of(dtype: DType, shape: readonly number[], data: TypedData): Tensor {
    return new Tensor(dtype, shape, memorySource(bytesOf(data)));
  }

  static float32(shape: readonly number[], data: ArrayLike<number>): Tensor {
    return Tensor.of("float32", shape, data instanceof Float32Array ? data : Float32Array.from(data));
  }

  /** An int64 tensor from numbers; a vector unless a shape is given. */
  static int64(data: readonly number[], shape: readonly number[] = [data.length]): Tensor {
    return Tensor.of("int64", shape, BigInt64Array.from(data, BigInt));
  }

  static scalar(dtype: "float32" | "int64", value: number): Tensor {
    return dtype === "float32" ? Tensor.float32([], [value]) : Tensor.int64([value], []);
  }

  /** A tensor whose bytes are computed when they are read, and not kept: a transform of weights costs nothing until saved. */
  static lazy(dtype: DType, shape: readonly number[], compute: () => Promise<Uint8Array>): Tensor {
    const byteLength = byteLengthOf(dtype, elementCount(shape));
    return new Tensor(dtype, shape, {
      byteLength,
      async read(offset = 0, length = byteLength - offset) {
        return (await compute()).subarray(offset, offset + length);
      },
    });
  }

  get elements(): number {
    return elementCount(this.shape);
  }

  get byteLength(): number {
    return this.strings ? this.strings.reduce((sum, text) => sum + text.byteLength, 0) : this.source.byteLength;
  }

  /** The packed bytes. */
  bytes(): Promise<Uint8Array> {
    return this.source.read();
  }

  /** The elements as the dtype's typed array ({@link viewAs}); bit patterns for half floats, packed bytes below 8 bits. */
  async data(): Promise<TypedData> {
    return viewAs(this.dtype, await this.source.read());
  }

  /** The elements if they already lie in memory (small tensors always do), else undefined. */
  peek(): TypedData | undefined {
    const bytes = this.source.resident;
    return bytes && this.dtype !== "string" ? viewAs(this.dtype, bytes) : undefined;
  }

  /** The elements as numbers if resident and of an integer, bool or 32/64-bit float dtype: shapes, axes, scalars. */
  peekNumbers(): number[] | undefined {
    const data = this.peek();
    return data && !["float16", "bfloat16"].includes(this.dtype)
      ? Array.from<number | bigint, number>(data, Number)
      : undefined;
  }

  /** The same elements under another shape with as many elements. */
  reshape(shape: readonly number[]): Tensor {
    return new Tensor(this.dtype, shape, this.source, this.strings);
  }
}

/** A source over bytes in memory. */
export function memorySource(bytes: Uint8Array): TensorSource {
  return {
    byteLength: bytes.byteLength,
    resident: bytes,
    read: (offset = 0, length = bytes.byteLength - offset) => Promise.resolve(bytes.subarray(offset, offset + length)),
  };
}
