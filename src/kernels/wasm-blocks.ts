/** Block-wise quantization through the SIMD kernels, tile by tile, of matrices that may arrive in pieces. */
import { PareError } from "../base/error.ts";
import { packBits, unpackUnsigned } from "../base/packed.ts";
import type { Arena } from "./arena.ts";
import type { KernelExports } from "./exports.ts";
import { blockRatios } from "./search-grid.ts";
import type { BlockQuantized, BlockQuantizer, BlockSpec } from "./types.ts";

/** Floats of a tile: 256 KiB stay in the second-level cache between the copy and the kernel. */
const TILE = 65536;
/** Stored rows and columns of a transposed tile: 1 MiB, wide enough that copies are not dominated by their calls. */
const TILE_ROWS = 512;
const TILE_COLS = 512;
/** Floats added to the stride of a transposed tile, so that the rows of a column do not fall into one cache set. */
const SKEW = 16;

export class WasmBlockQuantizer implements BlockQuantizer {
  readonly #arena: Arena;
  readonly #wasm: KernelExports;
  readonly #rows: number; // of the result
  readonly #cols: number;
  readonly #transposed: boolean;
  readonly #spec: Required<BlockSpec>;
  readonly #blocks: number; // per row of the result
  readonly #codes: Uint8Array; // (rows, blocks, block·bits/8)
  readonly #scales: Float32Array; // (rows, blocks)
  readonly #zeros: Uint8Array; // (rows, blocks), empty when symmetric
  readonly #ratios: Float32Array;
  readonly #sums = new Float64Array(3);
  #notFinite = 0;
  #filled = 0; // floats

  constructor(
    arena: Arena,
    wasm: KernelExports,
    stored: { rows: number; cols: number; transpose?: boolean },
    spec: BlockSpec,
  ) {
    this.#arena = arena;
    this.#wasm = wasm;
    this.#transposed = stored.transpose ?? false;
    this.#rows = this.#transposed ? stored.cols : stored.rows;
    this.#cols = this.#transposed ? stored.rows : stored.cols;
    this.#spec = { block: 32, symmetric: true, scale: "range", scaleType: "float32", ...spec };
    const { bits, block, symmetric } = this.#spec;
    if (block % 16 !== 0 || block < 16 || block > TILE)
      throw new PareError("bad-option", "A block is a multiple of 16 elements", { found: String(block) });
    this.#blocks = Math.ceil(this.#cols / block);
    this.#codes = new Uint8Array((this.#rows * this.#blocks * block * bits) / 8);
    this.#scales = new Float32Array(this.#rows * this.#blocks);
    this.#zeros = new Uint8Array(symmetric ? 0 : this.#rows * this.#blocks);
    this.#ratios = this.#spec.scale === "mse" ? blockRatios(bits, symmetric) : new Float32Array(0);
  }

  push(rows: Float32Array): void {
    const width = this.#transposed ? this.#rows : this.#cols; // floats in a stored row
    const total = this.#rows * this.#cols;
    if (this.#filled + rows.length > total || (rows.length !== 0 && rows.length % width !== 0))
      throw new PareError("internal", "A piece of a matrix is not whole rows of it", {
        found: `${rows.length} elements`,
        expected: `a multiple of ${width}, at most ${total - this.#filled}`,
      });
    if (this.#transposed) this.#pushTransposed(rows, width);
    else this.#pushStraight(rows, width);
    this.#filled += rows.length;
  }

  #pushStraight(w: Float32Array, cols: number): void {
    const { block } = this.#spec;
    const blocksBefore = cols === 0 ? 0 : (this.#filled / cols) * this.#blocks;
    if (cols % block === 0) {
      const step = Math.floor(TILE / block) * block;
      for (let at = 0; at < w.length; at += step) {
        const piece = w.subarray(at, at + step);
        this.#run(piece, 1, piece.length, blocksBefore + at / block);
      }
    } else if (cols <= TILE) {
      const rows = w.length / cols;
      const step = Math.floor(TILE / cols);
      for (let row = 0; row < rows; row += step) {
        const count = Math.min(step, rows - row);
        this.#run(w.subarray(row * cols, (row + count) * cols), count, cols, blocksBefore + row * this.#blocks);
      }
    } else {
      const step = Math.floor(TILE / block) * block;
      for (let row = 0; row * cols < w.length; row++)
        for (let col = 0; col < cols; col += step) {
          const piece = w.subarray(row * cols + col, row * cols + Math.min(col + step, cols));
          this.#run(piece, 1, piece.length, blocksBefore + row * this.#blocks + col / block);
        }
    }
  }

  /** Quantizes consecutive rows whose blocks are consecutive in the result, from `firstBlock` on. */
  #run(w: Float32Array, rows: number, cols: number, firstBlock: number): void {
    const arena = this.#arena;
    arena.reset();
    const result = this.#kernel(arena.place(w), rows, cols);
    const count = rows * result.blocks;
    const blockBytes = (this.#spec.block * this.#spec.bits) / 8;
    const { codes, scales, zeros } = result;
    this.#codes.set(arena.bytes.subarray(codes, codes + count * blockBytes), firstBlock * blockBytes);
    this.#scales.set(arena.floats(scales, count), firstBlock);
    if (!this.#spec.symmetric) this.#zeros.set(arena.bytes.subarray(zeros, zeros + count), firstBlock);
  }

  #pushTransposed(w: Float32Array, n: number): void {
    const { block, bits } = this.#spec;
    const arena = this.#arena;
    const start = n === 0 ? 0 : this.#filled / n; // of k
    const k = n === 0 ? 0 : w.length / n;
    if (start % block !== 0 || (k % block !== 0 && start + k !== this.#cols))
      throw new PareError("internal", "A piece of a transposed matrix is not whole blocks of rows", {
        found: `rows ${start} to ${start + k}`,
      });
    const blockBytes = (block * bits) / 8;
    const stepK = Math.max(1, Math.floor(TILE_ROWS / block)) * block;
    const stepN = Math.max(16, Math.floor((TILE_ROWS * TILE_COLS) / stepK));
    for (let k0 = 0; k0 < k; k0 += stepK)
      for (let n0 = 0; n0 < n; n0 += stepN) {
        const kt = Math.min(stepK, k - k0);
        const nt = Math.min(stepN, n - n0);
        arena.reset();
        const stride = nt + SKEW;
        const stored = arena.allocate(kt * stride * 4); // (kt, nt)
        const tile = arena.floats(stored, kt * stride);
        for (let i = 0; i < kt; i++) tile.set(w.subarray((k0 + i) * n + n0, (k0 + i) * n + n0 + nt), i * stride);
        const turned = arena.allocate(nt * kt * 4); // (nt, kt)
        this.#wasm.transposeFloats(stored, kt, nt, stride, turned, kt);
        const result = this.#kernel(turned, nt, kt);

        const here = result.blocks;
        const firstBlock = (start + k0) / block;
        const scales = arena.floats(result.scales, nt * here);
        for (let row = 0; row < nt; row++) {
          const at = (n0 + row) * this.#blocks + firstBlock;
          const from = result.codes + row * here * blockBytes;
          this.#codes.set(arena.bytes.subarray(from, from + here * blockBytes), at * blockBytes);
          for (let b = 0; b < here; b++) this.#scales[at + b] = scales[row * here + b] as number;
          if (!this.#spec.symmetric)
            for (let b = 0; b < here; b++) this.#zeros[at + b] = arena.bytes[result.zeros + row * here + b] as number;
        }
      }
  }

  /** Runs the kernel on (rows, cols) floats in the arena; says where it wrote. */
  #kernel(src: number, rows: number, cols: number): { blocks: number; codes: number; scales: number; zeros: number } {
    const { bits, block, symmetric, scaleType } = this.#spec;
    const arena = this.#arena;
    const blocks = Math.ceil(cols / block);
    const codes = arena.allocate((rows * blocks * block * bits) / 8);
    const scales = arena.allocate(rows * blocks * 4);
    const zeros = arena.allocate(rows * blocks);
    const sums = arena.zeros(24);
    this.#notFinite += this.#wasm.quantizeBlocks(
      src,
      rows,
      cols,
      block,
      bits,
      symmetric ? 1 : 0,
      scaleType === "float16" ? 1 : 0,
      arena.copy(this.#ratios),
      this.#ratios.length,
      codes,
      scales,
      zeros,
      arena.allocate(block * 4),
      sums,
    );
    const [squaredError = 0, squaredNorm = 0, maxError = 0] = arena.doubles(sums, 3);
    const total = this.#sums;
    total[0] = (total[0] as number) + squaredError;
    total[1] = (total[1] as number) + squaredNorm;
    total[2] = Math.max(total[2] as number, maxError);
    return { blocks, codes, scales, zeros };
  }

  finish(): BlockQuantized {
    const expected = this.#rows * this.#cols;
    if (this.#filled !== expected)
      throw new PareError("internal", "Not every row was pushed", { found: `${this.#filled} of ${expected} elements` });
    const { bits, block, symmetric } = this.#spec;
    const [squaredError = 0, squaredNorm = 0, maxError = 0] = this.#sums;
    return {
      rows: this.#rows,
      cols: this.#cols,
      bits,
      block,
      codes: this.#codes,
      scales: this.#scales,
      zeroPoints: symmetric ? undefined : packZeroPoints(this.#zeros, this.#rows, this.#blocks, bits),
      squaredError,
      squaredNorm,
      maxError,
      notFinite: this.#notFinite,
    };
  }
}

function packZeroPoints(zeros: Uint8Array, rows: number, blocks: number, bits: 2 | 4 | 8): Uint8Array {
  if (bits === 8) return zeros;
  const rowBytes = Math.ceil((blocks * bits) / 8);
  if (blocks * bits === rowBytes * 8) return packBits(zeros, bits);
  const packed = new Uint8Array(rows * rowBytes);
  for (let row = 0; row < rows; row++)
    packed.set(packBits(zeros.subarray(row * blocks, (row + 1) * blocks), bits), row * rowBytes);
  return packed;
}

/** Zero points one byte each. */
function unpackZeroPoints(q: BlockQuantized, blocks: number): Uint8Array {
  const { rows, bits, zeroPoints } = q;
  if (zeroPoints === undefined) return new Uint8Array(rows * blocks).fill(2 ** (bits - 1));
  if (bits === 8) return zeroPoints;
  const rowBytes = Math.ceil((blocks * bits) / 8);
  const zeros = new Uint8Array(rows * blocks);
  for (let row = 0; row < rows; row++)
    zeros.set(unpackUnsigned(zeroPoints.subarray(row * rowBytes, (row + 1) * rowBytes), bits, blocks), row * blocks);
  return zeros;
}

/** ŵ = (code − z)·s as a (rows, cols) matrix. */
export function dequantizeBlocks(arena: Arena, wasm: KernelExports, q: BlockQuantized): Float32Array {
  const { rows, cols, bits, block } = q;
  const blocks = Math.ceil(cols / block);
  const blockBytes = (block * bits) / 8;
  const zeros = unpackZeroPoints(q, blocks);
  const w = new Float32Array(rows * cols);
  const step = Math.max(1, Math.floor(TILE / block));
  for (let first = 0; first < rows * blocks; first += step) {
    const count = Math.min(step, rows * blocks - first);
    arena.reset();
    const dst = arena.allocate(count * block * 4);
    wasm.dequantizeBlocks(
      arena.place(q.codes.subarray(first * blockBytes, (first + count) * blockBytes)),
      count,
      block,
      bits,
      arena.place(q.scales.subarray(first, first + count)),
      arena.place(zeros.subarray(first, first + count)),
      dst,
    );
    if (cols % block === 0) w.set(arena.floats(dst, count * block), first * block);
    else
      for (let b = 0; b < count; b++) {
        const row = Math.floor((first + b) / blocks);
        const col = ((first + b) % blocks) * block;
        w.set(arena.floats(dst + b * block * 4, Math.min(block, cols - col)), row * cols + col);
      }
  }
  return w;
}
