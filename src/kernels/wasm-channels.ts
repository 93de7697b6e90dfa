/** Per-channel quantization through the SIMD kernels: channels of any length, in tiles. */
import type { Arena } from "./arena.ts";
import { CHANNEL_TILE, type ChannelCodes, channelCodes } from "./channel-grid.ts";
import type { KernelExports } from "./exports.ts";
import { rangeScale, roundClamped, storedScale } from "./scalar.ts";
import { REFITS } from "./search-grid.ts";
import type { AxisLayout, ChannelQuantized, ChannelSpec } from "./types.ts";

type Codes = Int8Array | Uint8Array;

interface Totals {
  squaredError: number;
  squaredNorm: number;
  maxError: number;
  notFinite: number;
}

export function quantizeChannels(
  arena: Arena,
  wasm: KernelExports,
  w: Float32Array,
  layout: AxisLayout,
  spec: ChannelSpec,
): ChannelQuantized {
  const chosen = channelCodes(spec);
  const { outer, channels, inner } = layout;
  const length = outer * inner; // of a channel
  const gathered = outer === 1 || channels === 1 ? w : channelsFirst(arena, wasm, w, layout);
  const codes = chosen.low < 0 ? new Int8Array(w.length) : new Uint8Array(w.length);
  const scales = new Float32Array(channels);
  const zeroPoints = new Int32Array(channels);
  const totals: Totals = { squaredError: 0, squaredNorm: 0, maxError: 0, notFinite: 0 };
  for (let channel = 0; channel < channels; channel++) {
    const from = channel * length;
    const one = new OneChannel(arena, wasm, gathered.subarray(from, from + length), chosen, totals);
    scales[channel] = one.scale;
    zeroPoints[channel] = one.zeroPoint;
    one.encode(codes, from);
  }
  const placed = gathered === w ? codes : channelsBack(arena, wasm, codes, layout);
  return { codes: placed, scales, zeroPoints, ...totals };
}

/** One channel: its range, its scale, its codes. A channel of one tile stays in the arena from step to step. */
class OneChannel {
  readonly scale: number;
  readonly zeroPoint: number;
  readonly #arena: Arena;
  readonly #wasm: KernelExports;
  readonly #w: Float32Array;
  readonly #codes: ChannelCodes;
  readonly #totals: Totals;
  readonly #low: number;
  readonly #high: number;
  readonly #notFinite: number;
  readonly #tiles: number; // top of the arena before the first tile
  #resident = -1; // address of the only tile, once placed

  constructor(arena: Arena, wasm: KernelExports, w: Float32Array, codes: ChannelCodes, totals: Totals) {
    this.#arena = arena;
    this.#wasm = wasm;
    this.#w = w;
    this.#codes = codes;
    this.#totals = totals;
    arena.reset();
    const range = arena.zeros(8);
    this.#tiles = arena.mark();
    let bad = 0;
    this.#eachTile(false, (at, n) => {
      bad += wasm.mergeRange(at, n, range);
    });
    const [low = 0, high = 0] = arena.floats(range, 2);
    this.#low = low;
    this.#high = high;
    this.#notFinite = bad;
    totals.notFinite += bad;
    if (bad > 0) this.#resident = -1; // to be placed again, repaired

    // s = max|w|/levels, or (max − min)/levels with z = low − min/s
    const { symmetric, middle, levels, half } = codes;
    const plain = symmetric ? Math.fround(Math.max(high, -low) / levels) : rangeScale(low, high, levels);
    const first = storedScale(plain, half);
    this.zeroPoint = symmetric
      ? middle
      : roundClamped(Math.fround(codes.low - Math.fround(low / first)), codes.low, codes.high);
    this.scale = codes.search ? this.#search(plain, first) : first;
  }

  /** Calls `use` with the address and length of each tile; not-finite elements replaced if `finite`. */
  #eachTile(finite: boolean, use: (at: number, n: number, start: number) => void): void {
    const arena = this.#arena;
    const w = this.#w;
    for (let start = 0; start < w.length; start += CHANNEL_TILE) {
      const piece = w.subarray(start, start + CHANNEL_TILE);
      let at = this.#resident;
      if (at < 0) {
        arena.release(this.#tiles);
        at = finite && this.#notFinite > 0 ? arena.copy(piece) : arena.place(piece);
        if (finite && this.#notFinite > 0) this.#wasm.replaceNotFinite(at, piece.length, this.#low, this.#high);
        if (piece.length === w.length) this.#resident = at;
      }
      const mark = arena.mark();
      use(at, piece.length, start);
      arena.release(mark);
    }
  }

  /** Squared errors of several scales. */
  #errors(scales: Float32Array): Float64Array {
    const { low, high } = this.#codes;
    const errors = new Float64Array(scales.length);
    this.#eachTile(true, (at, n) => {
      const out = this.#arena.copy(errors);
      const candidates = this.#arena.copy(scales);
      this.#wasm.searchErrors(at, n, candidates, scales.length, low - this.zeroPoint, high - this.zeroPoint, out);
      errors.set(this.#arena.doubles(out, scales.length));
    });
    return errors;
  }

  /** The best clipping ratio and its least-squares refits. */
  #search(plain: number, first: number): number {
    const { ratios, half, low, high } = this.#codes;
    const candidates = ratios.map((ratio) => storedScale(Math.fround(plain * ratio), half));
    candidates[0] = first;
    const errors = this.#errors(candidates);
    let best = first;
    let least = errors[0] as number;
    for (let i = 1; i < errors.length; i++)
      if ((errors[i] as number) < least) {
        least = errors[i] as number;
        best = candidates[i] as number;
      }
    for (let refit = 0; refit < REFITS; refit++) {
      const sums = new Float64Array(2);
      this.#eachTile(true, (at, n) => {
        const out = this.#arena.copy(sums);
        this.#wasm.addRefit(at, n, best, low - this.zeroPoint, high - this.zeroPoint, out);
        sums.set(this.#arena.doubles(out, 2));
      });
      const [qw = 0, qq = 0] = sums;
      if (!(qq > 0)) break;
      const s = storedScale(Math.fround(qw / qq), half);
      const error = this.#errors(Float32Array.of(s))[0] as number;
      if (!(error < least)) break;
      least = error;
      best = s;
    }
    return best;
  }

  /** Writes the codes to `codes` from `offset` on, and adds to the totals. */
  encode(codes: Codes, offset: number): void {
    const { low, high, balance } = this.#codes;
    const z = this.zeroPoint;
    this.#eachTile(true, (at, n, start) => {
      const dst = this.#arena.allocate(n);
      const sums = this.#arena.zeros(24);
      this.#wasm.quantizeBytes(at, n, this.scale, low - z, high - z, z, dst, sums);
      if (balance > 0) {
        const temp = this.#arena.allocate(n * 4);
        this.#wasm.balanceBytes(at, n, this.scale, low - z, high - z, z, balance, dst, temp, sums);
      }
      codes.set(viewLike(codes, this.#arena.memory.buffer, dst, n), offset + start);
      const [squaredError = 0, squaredNorm = 0, maxError = 0] = this.#arena.doubles(sums, 3);
      this.#totals.squaredError += squaredError;
      this.#totals.squaredNorm += squaredNorm;
      this.#totals.maxError = Math.max(this.#totals.maxError, maxError);
    });
  }
}

function viewLike(codes: Codes, buffer: ArrayBuffer, at: number, length: number): Codes {
  return codes instanceof Int8Array ? new Int8Array(buffer, at, length) : new Uint8Array(buffer, at, length);
}

/** (rows, cols) floats → (cols, rows), tile by tile. */
export function transposeFloats(
  arena: Arena,
  wasm: KernelExports,
  x: Float32Array,
  rows: number,
  cols: number,
): Float32Array {
  const y = new Float32Array(rows * cols);
  eachSquare(rows, cols, (row, col, height, width) => {
    arena.reset();
    const src = arena.allocate(height * width * 4);
    const tile = arena.floats(src, height * width);
    for (let i = 0; i < height; i++)
      tile.set(x.subarray((row + i) * cols + col, (row + i) * cols + col + width), i * width);
    const dst = arena.allocate(height * width * 4);
    wasm.transposeFloats(src, height, width, width, dst, height);
    for (let j = 0; j < width; j++) y.set(arena.floats(dst + j * height * 4, height), (col + j) * rows + row);
  });
  return y;
}

/** Walks a matrix in squares of 1 MiB; their side is no power of two, so that a column's rows spread over the cache's sets. */
function eachSquare(rows: number, cols: number, use: (row: number, col: number, h: number, w: number) => void): void {
  const [tall, wide] = [528, 528];
  for (let row = 0; row < rows; row += tall)
    for (let col = 0; col < cols; col += wide) use(row, col, Math.min(tall, rows - row), Math.min(wide, cols - col));
}

/** (outer, channels, inner) floats → (channels, outer, inner). */
function channelsFirst(arena: Arena, wasm: KernelExports, w: Float32Array, layout: AxisLayout): Float32Array {
  const { outer, channels, inner } = layout;
  if (inner === 1) return transposeFloats(arena, wasm, w, outer, channels);
  const y = new Float32Array(w.length);
  for (let o = 0; o < outer; o++)
    for (let c = 0; c < channels; c++) {
      const from = (o * channels + c) * inner;
      y.set(w.subarray(from, from + inner), (c * outer + o) * inner);
    }
  return y;
}

/** (channels, outer, inner) codes → (outer, channels, inner). */
function channelsBack(arena: Arena, wasm: KernelExports, codes: Codes, layout: AxisLayout): Codes {
  const { outer, channels, inner } = layout;
  const back = codes instanceof Int8Array ? new Int8Array(codes.length) : new Uint8Array(codes.length);
  if (inner > 1) {
    for (let o = 0; o < outer; o++)
      for (let c = 0; c < channels; c++) {
        const from = (c * outer + o) * inner;
        back.set(codes.subarray(from, from + inner), (o * channels + c) * inner);
      }
    return back;
  }
  eachSquare(channels, outer, (row, col, height, width) => {
    arena.reset();
    const src = arena.allocate(height * width);
    for (let i = 0; i < height; i++) {
      const from = (row + i) * outer + col;
      viewLike(codes, arena.memory.buffer, src + i * width, width).set(codes.subarray(from, from + width));
    }
    const dst = arena.allocate(height * width);
    wasm.transposeBytes(src, height, width, dst, height);
    for (let j = 0; j < width; j++)
      back.set(viewLike(codes, arena.memory.buffer, dst + j * height, height), (col + j) * channels + row);
  });
  return back;
}
