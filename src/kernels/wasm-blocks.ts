/** Block-wise quantization through the SIMD kernels, tile by tile, of matrices that may arrive in pieces. */
import { PareError } from "../base/error.ts";
import { packBits, unpackUnsigned } from "../base/packed.ts";
import type { Arena } from "./arena.ts";
import type { KernelExports } from "./exports.ts";
import { blockRatios } from "./search-grid.ts";
import type { BlockQuantized, BlockQuantizer, BlockSpec } from "./types.ts";

/** Floats of a tile: 256 KiB stay in the second-level cache between the copy and the kernel. */
const TILE = 65536;
/** Bytes of a tile of a transposed matrix: whole stored rows, a few blocks of them, that the next cache holds. */
const COLUMNS_TILE_BYTES = 2 ** 20;
/** The most that such a tile takes where one block of rows is wider; then it is cut into columns. */
const WIDEST_TILE_BYTES = 2 ** 23;
/** Bytes of results of a transposed matrix gathered before they go to their places. */
const GATHERED_BYTES = 2 ** 24;

/** Where a piece of a matrix lies: in this memory already, or wherever `read` copies it from. Offsets in bytes. */
type Piece = { readonly address: number } | { read(target: Uint8Array, offset: number): void };

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
    const bytes = new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength);
    this.#take(
      rows.length,
      rows.buffer === this.#arena.memory.buffer
        ? { address: rows.byteOffset }
        : { read: (target, offset) => target.set(bytes.subarray(offset, offset + target.length)) },
    );
  }

  pull(rows: number, read: (target: Uint8Array, offset: number) => void): void {
    this.#take(rows * (this.#transposed ? this.#rows : this.#cols), { read });
  }

  #take(length: number, piece: Piece): void {
    const width = this.#transposed ? this.#rows : this.#cols; // floats in a stored row
    const total = this.#rows * this.#cols;
    if (this.#filled + length > total || (length !== 0 && length % width !== 0))
      throw new PareError("internal", "A piece of a matrix is not whole rows of it", {
        found: `${length} elements`,
        expected: `a multiple of ${width}, at most ${total - this.#filled}`,
      });
    if (length === 0) return;
    if (this.#transposed) this.#takeTransposed(piece, length / width, width);
    else this.#takeStraight(piece, length, width);
    this.#filled += length;
  }

  #takeStraight(piece: Piece, length: number, cols: number): void {
    const { block } = this.#spec;
    const blocksBefore = (this.#filled / cols) * this.#blocks;
    const step = Math.floor(TILE / block) * block;
    if (cols % block === 0) {
      for (let at = 0; at < length; at += step)
        this.#run(piece, at, 1, Math.min(step, length - at), blocksBefore + at / block);
    } else if (cols <= TILE) {
      const rows = length / cols;
      const rowStep = Math.floor(TILE / cols);
      for (let row = 0; row < rows; row += rowStep)
        this.#run(piece, row * cols, Math.min(rowStep, rows - row), cols, blocksBefore + row * this.#blocks);
    } else
      for (let row = 0; row * cols < length; row++)
        for (let col = 0; col < cols; col += step) {
          const firstBlock = blocksBefore + row * this.#blocks + col / block;
          this.#run(piece, row * cols + col, 1, Math.min(step, cols - col), firstBlock);
        }
  }

  /** Quantizes consecutive rows, from element `at` of the piece on, whose blocks are consecutive in the result, from `firstBlock` on. */
  #run(piece: Piece, at: number, rows: number, cols: number, firstBlock: number): void {
    const { bits, block, symmetric, scaleType } = this.#spec;
    this.#arena.reset();
    const src = this.#load(piece, at, rows * cols);
    const count = rows * Math.ceil(cols / block);
    const room = this.#room(count);
    this.#notFinite += this.#wasm.quantizeBlocks(
      src,
      rows,
      cols,
      block,
      bits,
      symmetric ? 1 : 0,
      scaleType === "float16" ? 1 : 0,
      room.ratios,
      this.#ratios.length,
      room.codes,
      room.scales,
      room.zeros,
      this.#arena.allocate(block * 4),
      room.sums,
    );
    this.#addSums(room.sums);
    this.#keep(room, 0, count, firstBlock);
  }

  #takeTransposed(piece: Piece, k: number, n: number): void {
    const { block, bits } = this.#spec;
    const start = this.#filled / n; // of k
    if (start % block !== 0 || (k % block !== 0 && start + k !== this.#cols))
      throw new PareError("internal", "A piece of a transposed matrix is not whole blocks of rows", {
        found: `rows ${start} to ${start + k}`,
      });
    const widest = Math.max(16, Math.floor(WIDEST_TILE_BYTES / (block * 64)) * 16);
    for (let n0 = 0; n0 < n; n0 += widest) {
      const nt = Math.min(widest, n - n0);
      const tileRows = Math.max(1, Math.floor(COLUMNS_TILE_BYTES / (nt * block * 4))) * block;
      const tiles = Math.max(1, Math.floor(GATHERED_BYTES / (nt * (tileRows / block) * ((block * bits) / 8 + 5))));
      for (let k0 = 0; k0 < k; k0 += tiles * tileRows)
        this.#gather(piece, [k0, Math.min(k, k0 + tiles * tileRows)], [n0, n0 + nt], n, tileRows, start);
    }
  }

  /** Quantizes part of a transposed piece in tiles of so many rows, then puts the results of its columns in their places. */
  #gather(
    piece: Piece,
    [k0, k1]: readonly [number, number],
    [n0, n1]: readonly [number, number],
    n: number,
    tileRows: number,
    start: number,
  ): void {
    const { bits, block, symmetric, scaleType } = this.#spec;
    const arena = this.#arena;
    arena.reset();
    const nt = n1 - n0;
    const here = Math.ceil((k1 - k0) / block);
    const room = this.#room(nt * here); // (nt, here)
    const temp = arena.allocate(block * 68 + 256);
    const mark = arena.mark();
    for (let row = k0; row < k1; row += tileRows) {
      arena.release(mark);
      const kt = Math.min(tileRows, k1 - row);
      const { src, stride } = this.#loadColumns(piece, row, kt, n0, nt, n);
      const place = (row - k0) / block;
      this.#notFinite += this.#wasm.quantizeColumns(
        src,
        kt,
        nt,
        stride,
        block,
        bits,
        symmetric ? 1 : 0,
        scaleType === "float16" ? 1 : 0,
        room.ratios,
        this.#ratios.length,
        room.codes + (place * block * bits) / 8,
        room.scales + place * 4,
        room.zeros + place,
        here,
        temp,
        room.sums,
      );
    }
    this.#addSums(room.sums);
    const firstBlock = (start + k0) / block;
    if (here === this.#blocks) this.#keep(room, 0, nt * here, n0 * here);
    else for (let c = 0; c < nt; c++) this.#keep(room, c * here, here, (n0 + c) * this.#blocks + firstBlock);
  }

  /** Address of so many floats of a piece, from element `at` on. */
  #load(piece: Piece, at: number, length: number): number {
    if ("address" in piece) return piece.address + at * 4;
    const to = this.#arena.allocate(length * 4);
    piece.read(this.#arena.bytes.subarray(to, to + length * 4), at * 4);
    return to;
  }

  /** Address and stride of (kt, nt) floats of a piece whose rows are n long. */
  #loadColumns(
    piece: Piece,
    row: number,
    kt: number,
    n0: number,
    nt: number,
    n: number,
  ): { src: number; stride: number } {
    if ("address" in piece || nt === n) return { src: this.#load(piece, row * n + n0, kt * nt), stride: n };
    const to = this.#arena.allocate(kt * nt * 4);
    for (let i = 0; i < kt; i++) {
      const at = to + i * nt * 4;
      piece.read(this.#arena.bytes.subarray(at, at + nt * 4), ((row + i) * n + n0) * 4);
    }
    return { src: to, stride: nt };
  }

  /** Memory for the results of so many blocks. */
  #room(count: number): Room {
    const { bits, block } = this.#spec;
    const arena = this.#arena;
    return {
      codes: arena.allocate((count * block * bits) / 8),
      scales: arena.allocate(count * 4),
      zeros: arena.allocate(count),
      ratios: arena.copy(this.#ratios),
      sums: arena.zeros(24),
    };
  }

  /** Copies `count` blocks of results to their places, from block `to` on. */
  #keep({ codes, scales, zeros }: Room, from: number, count: number, to: number): void {
    const { block, bits, symmetric } = this.#spec;
    const arena = this.#arena;
    const blockBytes = (block * bits) / 8;
    const start = codes + from * blockBytes;
    this.#codes.set(arena.bytes.subarray(start, start + count * blockBytes), to * blockBytes);
    this.#scales.set(arena.floats(scales + from * 4, count), to);
    if (!symmetric) this.#zeros.set(arena.bytes.subarray(zeros + from, zeros + from + count), to);
  }

  #addSums(sums: number): void {
    const [squaredError = 0, squaredNorm = 0, maxError = 0] = this.#arena.doubles(sums, 3);
    const total = this.#sums;
    total[0] = (total[0] as number) + squaredError;
    total[1] = (total[1] as number) + squaredNorm;
    total[2] = Math.max(total[2] as number, maxError);
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

/** Addresses of what a kernel writes. */
interface Room {
  readonly codes: number;
  readonly scales: number;
  readonly zeros: number;
  readonly ratios: number;
  readonly sums: number;
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
