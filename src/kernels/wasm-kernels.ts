/** The kernels' interface over the compiled SIMD code: copies tiles in, runs, copies results out. */
import { Arena } from "./arena.ts";
import { type KernelExports, instantiate } from "./exports.ts";
import { binsPerUnit } from "./scalar.ts";
import type {
  AxisLayout,
  BlockQuantized,
  BlockQuantizer,
  BlockSpec,
  ChannelQuantized,
  ChannelSpec,
  ChannelSummary,
  Comparison,
  FeedbackRounded,
  FeedbackRounding,
  HalfConverted,
  Extent,
  HistogramRest,
  Kernels,
  LevelQuantized,
  LevelSpec,
  Summary,
} from "./types.ts";
import { WasmBlockQuantizer, dequantizeBlocks } from "./wasm-blocks.ts";
import { quantizeChannels, transposeFloats } from "./wasm-channels.ts";
import { quantizeLevels } from "./wasm-levels.ts";
import { addProduct, choleskyUpper, invertUpper, roundWithFeedback } from "./wasm-solve.ts";

/** Floats of a tile: 256 KiB stay in the second-level cache between the copy and the kernel. */
const TILE = 65536;

export class WasmKernels implements Kernels {
  readonly #arena: Arena;
  readonly #wasm: KernelExports;

  private constructor(arena: Arena, wasm: KernelExports) {
    this.#arena = arena;
    this.#wasm = wasm;
  }

  static async create(): Promise<WasmKernels> {
    const arena = new Arena();
    return new WasmKernels(arena, await instantiate(arena));
  }

  scratch(bytes: number): Uint8Array {
    return this.#arena.scratch(bytes);
  }

  /** Places tile after tile of x above `mark` and calls `use` with its address. */
  #tiles(x: Float32Array, use: (at: number, n: number, start: number) => void): void {
    const mark = this.#arena.mark();
    for (let start = 0; start < x.length; start += TILE) {
      this.#arena.release(mark);
      const piece = x.subarray(start, start + TILE);
      use(this.#arena.place(piece), piece.length, start);
    }
  }

  quantizeBlocks(w: Float32Array, rows: number, cols: number, spec: BlockSpec): BlockQuantized {
    const quantizer = this.blockQuantizer({ rows, cols }, spec);
    quantizer.push(w);
    return quantizer.finish();
  }

  quantizeBlocksTransposed(w: Float32Array, k: number, n: number, spec: BlockSpec): BlockQuantized {
    const quantizer = this.blockQuantizer({ rows: k, cols: n, transpose: true }, spec);
    quantizer.push(w);
    return quantizer.finish();
  }

  blockQuantizer(stored: { rows: number; cols: number; transpose?: boolean }, spec: BlockSpec): BlockQuantizer {
    return new WasmBlockQuantizer(this.#arena, this.#wasm, stored, spec);
  }

  dequantizeBlocks(q: BlockQuantized): Float32Array {
    return dequantizeBlocks(this.#arena, this.#wasm, q);
  }

  quantizeChannels(w: Float32Array, layout: AxisLayout, spec: ChannelSpec = {}): ChannelQuantized {
    return quantizeChannels(this.#arena, this.#wasm, w, layout, spec);
  }

  dequantizeChannels(q: ChannelQuantized, { outer, channels, inner }: AxisLayout): Float32Array {
    const w = new Float32Array(q.codes.length);
    let at = 0;
    for (let o = 0; o < outer; o++)
      for (let c = 0; c < channels; c++) {
        const s = q.scales[c] as number;
        const z = q.zeroPoints[c] as number;
        for (const end = at + inner; at < end; at++) w[at] = ((q.codes[at] as number) - z) * s;
      }
    return w;
  }

  quantizeLevels(w: Float32Array, rows: number, spec: LevelSpec): LevelQuantized {
    return quantizeLevels(this.#arena, this.#wasm, w, rows, spec);
  }

  toFloat16(x: Float32Array, saturate = false): HalfConverted {
    return this.#toHalf(x, saturate, this.#wasm.toFloat16);
  }

  toBfloat16(x: Float32Array, saturate = false): HalfConverted {
    return this.#toHalf(x, saturate, this.#wasm.toBfloat16);
  }

  #toHalf(x: Float32Array, saturate: boolean, kernel: KernelExports["toFloat16"]): HalfConverted {
    const arena = this.#arena;
    const bits = new Uint16Array(x.length);
    const bytes = new Uint8Array(bits.buffer);
    arena.reset();
    const counts = arena.zeros(12);
    this.#tiles(x, (at, n, start) => {
      const dst = arena.allocate(n * 2);
      kernel(at, n, dst, saturate ? 1 : 0, counts);
      bytes.set(arena.bytes.subarray(dst, dst + n * 2), start * 2);
    });
    const [overflow = 0, underflow = 0, notFinite = 0] = arena.integers(counts, 3);
    return { bits, overflow, underflow, notFinite };
  }

  fromFloat16(bits: Uint16Array): Float32Array {
    return this.#fromHalf(bits, this.#wasm.fromFloat16);
  }

  fromBfloat16(bits: Uint16Array): Float32Array {
    return this.#fromHalf(bits, this.#wasm.fromBfloat16);
  }

  #fromHalf(bits: Uint16Array, kernel: KernelExports["fromFloat16"]): Float32Array {
    const arena = this.#arena;
    const x = new Float32Array(bits.length);
    for (let start = 0; start < bits.length; start += TILE) {
      arena.reset();
      const piece = bits.subarray(start, start + TILE);
      const dst = arena.allocate(piece.length * 4);
      kernel(arena.place(piece), piece.length, dst);
      x.set(arena.floats(dst, piece.length), start);
    }
    return x;
  }

  extent(x: Float32Array): Extent | undefined {
    this.#arena.reset();
    const out = this.#arena.copy(Float32Array.of(Infinity, -Infinity));
    this.#tiles(x, (at, n) => this.#wasm.extent(at, n, out));
    const [min = 0, max = 0] = this.#arena.floats(out, 2);
    return min <= max ? { min, max } : undefined; // NaN is no less than NaN
  }

  summarize(x: Float32Array): Summary {
    this.#arena.reset();
    const out = this.#arena.copy(Float64Array.of(Infinity, -Infinity, 0, 0, 0, 0, 0, 0));
    this.#tiles(x, (at, n) => this.#wasm.summarize(at, n, out));
    const [min = 0, max = 0, sum = 0, sumSquares = 0, sumAbs = 0, zeros = 0, nan = 0, infinite = 0] =
      this.#arena.doubles(out, 8);
    return { count: x.length - nan - infinite, min, max, sum, sumSquares, sumAbs, zeros, nan, infinite };
  }

  summarizeChannels(x: Float32Array, { outer, channels, inner }: AxisLayout): ChannelSummary {
    const min = new Float32Array(channels).fill(Infinity);
    const max = new Float32Array(channels).fill(-Infinity);
    const sum = new Float64Array(channels);
    const sumSquares = new Float64Array(channels);
    // A tile is several channels × inner of several outer indices, or a piece of one channel.
    const someChannels = Math.max(1, Math.min(channels, Math.floor(TILE / Math.max(1, inner))));
    const wholeOuter = someChannels === channels ? Math.max(1, Math.floor(TILE / Math.max(1, channels * inner))) : 1;
    for (let o = 0; o < outer; o += wholeOuter)
      for (let c = 0; c < channels; c += someChannels) {
        const outers = Math.min(wholeOuter, outer - o);
        const count = Math.min(someChannels, channels - c);
        this.#arena.reset();
        const minima = this.#arena.copy(min.subarray(c, c + count));
        const maxima = this.#arena.copy(max.subarray(c, c + count));
        const sums = this.#arena.copy(sum.subarray(c, c + count));
        const squares = this.#arena.copy(sumSquares.subarray(c, c + count));
        const from = (o * channels + c) * inner;
        const part = x.subarray(from, from + outers * count * inner);
        this.#tiles(part, (at, n) => {
          const whole = n === part.length; // else a piece of one channel's inner elements
          this.#wasm.summarizeChannels(at, whole ? outers : 1, count, whole ? inner : n, minima, maxima, sums, squares);
        });
        min.set(this.#arena.floats(minima, count), c);
        max.set(this.#arena.floats(maxima, count), c);
        sum.set(this.#arena.doubles(sums, count), c);
        sumSquares.set(this.#arena.doubles(squares, count), c);
      }
    return { min, max, sum, sumSquares };
  }

  maxAbsPerChannel(x: Float32Array, layout: AxisLayout): Float32Array {
    const { min, max } = this.summarizeChannels(x, layout);
    return min.map((low, channel) => (low === Infinity ? 0 : Math.max(-low, max[channel] as number)));
  }

  histogram(x: Float32Array, low: number, high: number, counts: Float64Array): HistogramRest {
    return this.#histogram(x, Math.fround(low), Math.fround(high), counts, false);
  }

  histogramAbs(x: Float32Array, high: number, counts: Float64Array): HistogramRest {
    return this.#histogram(x, 0, Math.fround(high), counts, true);
  }

  #histogram(x: Float32Array, low: number, high: number, counts: Float64Array, absolute: boolean): HistogramRest {
    const arena = this.#arena;
    const bins = counts.length;
    arena.reset();
    const outside = arena.zeros(12);
    const tables = arena.zeros(4 * (bins + 1) * 4);
    const perUnit = binsPerUnit(low, high, bins);
    this.#tiles(x, (at, n) => this.#wasm.histogram(at, n, low, high, perUnit, bins, absolute ? 1 : 0, tables, outside));
    this.#addTables(tables, bins + 1, counts);
    const [below = 0, above = 0, notFinite = 0] = arena.integers(outside, 3);
    return { below, above, notFinite };
  }

  /** Adds four tables of `stride` counts to `counts`, as far as it reaches. */
  #addTables(tables: number, stride: number, counts: Float64Array): void {
    const all = this.#arena.counts(tables, 4 * stride);
    for (let i = 0; i < counts.length; i++)
      for (let lane = 0; lane < 4; lane++) counts[i] = (counts[i] as number) + (all[lane * stride + i] as number);
  }

  countNonZero(x: Float32Array): number {
    this.#arena.reset();
    let count = 0;
    this.#tiles(x, (at, n) => {
      count += this.#wasm.countNonZero(at, n);
    });
    return count;
  }

  compare(a: Float32Array, b: Float32Array): Comparison {
    const arena = this.#arena;
    arena.reset();
    const out = arena.zeros(56);
    this.#tiles(a, (at, n, start) => this.#wasm.compare(at, arena.place(b.subarray(start, start + n)), n, out));
    const [squaredDifference = 0, dot = 0, squaredNormA = 0, squaredNormB = 0, sumAbs = 0, maxAbs = 0, bad = 0] =
      arena.doubles(out, 7);
    return {
      count: a.length - bad,
      squaredDifference,
      dot,
      squaredNormA,
      squaredNormB,
      maxAbsDifference: maxAbs,
      sumAbsDifference: sumAbs,
      notFinite: bad,
    };
  }

  gridEffects(x: Float32Array, g: Float32Array, grids: Float32Array): Float64Array {
    const arena = this.#arena;
    const count = grids.length / 3;
    arena.reset();
    const table = arena.copy(grids);
    const out = arena.zeros(count * 8);
    this.#tiles(x, (at, n, start) =>
      this.#wasm.gridEffects(at, arena.place(g.subarray(start, start + n)), n, table, count, out),
    );
    return arena.doubles(out, count).slice();
  }

  countMagnitudes(x: Float32Array, shift: number, prefix: number, counts: Float64Array): void {
    this.#arena.reset();
    const tables = this.#arena.zeros(4 * counts.length * 4);
    const width = Math.log2(counts.length);
    this.#tiles(x, (at, n) => this.#wasm.countMagnitudes(at, n, shift, width, prefix, tables));
    this.#addTables(tables, counts.length, counts);
  }

  magnitudeMask(x: Float32Array, threshold: number, ties: number): { mask: Uint8Array; ties: number } {
    const arena = this.#arena;
    const mask = new Uint8Array(x.length);
    const given = Math.min(ties, 2 ** 31 - 1);
    let left = given;
    arena.reset();
    this.#tiles(x, (at, n, start) => {
      const dst = arena.allocate(n);
      left = this.#wasm.magnitudeMask(at, n, threshold, left, dst);
      mask.set(arena.bytes.subarray(dst, dst + n), start);
    });
    return { mask, ties: given - left };
  }

  groupMask(x: Float32Array, { outer, channels, inner }: AxisLayout, keep: number, group: number): Uint8Array {
    const arena = this.#arena;
    const mask = new Uint8Array(x.length);
    const run = (from: number, outers: number, count: number, width: number): void => {
      arena.reset();
      const n = outers * count * width;
      const dst = arena.allocate(n);
      this.#wasm.groupMask(arena.place(x.subarray(from, from + n)), outers, count, width, keep, group, dst);
      mask.set(arena.bytes.subarray(dst, dst + n), from);
    };
    const slab = channels * inner;
    if (slab <= TILE) {
      const step = Math.max(1, Math.floor(TILE / Math.max(1, slab)));
      for (let o = 0; o < outer; o += step) run(o * slab, Math.min(step, outer - o), channels, inner);
    } else {
      // Whole groups of one outer index: contiguous, since inner is the fastest axis
      const step = Math.max(1, Math.floor(TILE / (group * inner))) * group;
      for (let o = 0; o < outer; o++)
        for (let c = 0; c < channels; c += step) run(o * slab + c * inner, 1, Math.min(step, channels - c), inner);
    }
    return mask;
  }

  applyMask(x: Float32Array, mask: Uint8Array): Float32Array {
    const arena = this.#arena;
    const y = new Float32Array(x.length);
    arena.reset();
    this.#tiles(x, (at, n, start) => {
      const dst = arena.allocate(n * 4);
      this.#wasm.applyMask(at, arena.place(mask.subarray(start, start + n)), n, dst);
      y.set(arena.floats(dst, n), start);
    });
    return y;
  }

  addProduct(
    c: Float32Array,
    a: Float32Array,
    b: Float32Array,
    sizes: { readonly m: number; readonly p: number; readonly n: number },
  ): Float32Array {
    return addProduct(this.#arena, this.#wasm, c, a, b, sizes);
  }

  choleskyUpper(a: Float32Array, n: number): Float32Array | undefined {
    return choleskyUpper(this.#arena, this.#wasm, a, n);
  }

  invertUpper(u: Float32Array, n: number): Float32Array {
    return invertUpper(this.#arena, this.#wasm, u, n);
  }

  roundWithFeedback(problem: FeedbackRounding): FeedbackRounded {
    return roundWithFeedback(this.#arena, this.#wasm, problem);
  }

  transpose(x: Float32Array, rows: number, cols: number): Float32Array {
    return transposeFloats(this.#arena, this.#wasm, x, rows, cols);
  }
}
