/** What kernels take and return: shared by the WebAssembly kernels, their plain references and the worker pool. */

/** Squared error of an approximation ŵ of w, summed in double precision over finite elements. */
export interface ErrorSums {
  /** ‖ŵ − w‖². */
  readonly squaredError: number;
  /** ‖w‖². */
  readonly squaredNorm: number;
  /** max |ŵ − w|. */
  readonly maxError: number;
  /** NaN and infinite elements: NaN counts as 0, an infinity as the largest finite value of its sign in the group. */
  readonly notFinite: number;
}

/** A matrix quantized block-wise along its last axis, in the layout of ONNX Runtime's `MatMulNBits`. */
export interface BlockSpec {
  readonly bits: 2 | 4 | 8;
  /** Elements that share a scale: a multiple of 16 (`MatMulNBits` wants a power of two). Default 32. */
  readonly block?: number;
  /** True (the default): zero point 2^(bits−1), not stored. False: one zero point per block. */
  readonly symmetric?: boolean;
  /**
   * How a block's scale s is found. "range" (the default) is ONNX Runtime's own rule:
   * symmetric s = peak / −2^(bits−1), where peak is the element of largest magnitude with its sign (so s may be negative
   * and the peak is exact); asymmetric s = (max − min)/(2^bits − 1) over a range widened to hold 0, z = round(−min/s).
   * "mse" searches clipping ratios of that scale for the least squared error, then refits s to the codes by least squares.
   */
  readonly scale?: "range" | "mse";
  /** "float16": scales are rounded to half precision before the codes are chosen. Default "float32". */
  readonly scaleType?: "float32" | "float16";
}

/** The result of block-wise quantization. ŵ = (code − z)·s. */
export interface BlockQuantized extends ErrorSums {
  readonly rows: number;
  readonly cols: number;
  readonly bits: 2 | 4 | 8;
  readonly block: number;
  /** Codes, low bits first, every row padded with the zero point to whole blocks. */
  readonly codes: Uint8Array; // (rows, ceil(cols/block), block·bits/8)
  readonly scales: Float32Array; // (rows, ceil(cols/block))
  /** Packed low bits first, each row padded to a byte; undefined when symmetric. */
  readonly zeroPoints: Uint8Array | undefined; // (rows, ceil(ceil(cols/block)·bits/8))
}

/** One axis of a row-major tensor: `outer` sizes before it multiplied, its own size, `inner` sizes after it multiplied. */
export interface AxisLayout {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
}

/** Quantization to one byte per element with a scale (and zero point) per channel; one channel is per-tensor. */
export interface ChannelSpec {
  /** Smallest and largest code: −127..127 (default, what `QuantizeLinear` weights use), −128..127, −64..64, 0..255, −8..7 … */
  readonly low?: number;
  readonly high?: number;
  /** True (the default): zero point is the middle code (low + high + 1 >> 1: 0 for signed, 128 for 0..255). */
  readonly symmetric?: boolean;
  /** "range": symmetric s = max|w| / min(high − z, z − low), asymmetric s = (max − min)/(high − low). "mse": as in {@link BlockSpec}. */
  readonly scale?: "range" | "mse";
  /** "float16": scales are rounded to half precision before the codes are chosen. Default "float32". */
  readonly scaleType?: "float32" | "float16";
  /**
   * Balanced rounding: codes go one step off where that makes the rounding errors of every run of so many elements of a
   * channel (the elements of a convolution's kernel; 1 for none), and then of the channel (in pieces of 65,536), cancel.
   * Default: round to nearest.
   */
  readonly balance?: number | undefined;
}

/** Quantization of rows to any levels: ŵ = levels[code]·s. */
export interface LevelSpec {
  /** Ascending, 2 to 256 of them. */
  readonly levels: Float32Array;
  /** An element goes to the level behind border i where w/s is larger. Default: midpoints of neighbouring levels. */
  readonly borders?: Float32Array | undefined;
  /**
   * How a row's scale is found. "peak": the largest magnitude goes to the outermost level. "mse": clipping ratios of that are
   * searched for the least squared error, then s is refitted to the codes. "mean": codes are chosen at 1.4·mean|w|, then s is
   * fitted to them (of levels −1, 0, 1: Ternary Weight Networks; of −1, 1: s = mean|w|). An array: the scales themselves.
   */
  readonly scale: "peak" | "mse" | "mean" | Float32Array;
  /** "float16": scales are rounded to half precision before the codes are chosen. Default "float32". */
  readonly scaleType?: "float32" | "float16";
}

export interface LevelQuantized extends ErrorSums {
  readonly codes: Uint8Array; // the tensor's own shape
  readonly scales: Float32Array; // (rows)
}

/** Codes as bytes: two's complement when `low` is negative (view as Int8Array), else unsigned. ŵ = (code − z)·s. */
export interface ChannelQuantized extends ErrorSums {
  readonly codes: Int8Array | Uint8Array; // the tensor's own shape
  readonly scales: Float32Array; // (channels)
  readonly zeroPoints: Int32Array; // (channels)
}

/** Conversion to a 16-bit float. */
export interface HalfConverted {
  /** Bit patterns. */
  readonly bits: Uint16Array;
  /** Finite elements beyond the largest finite value: they became infinity, or that value when saturating. */
  readonly overflow: number;
  /** Non-zero elements that became zero. */
  readonly underflow: number;
  /** NaN and infinite elements of the input. */
  readonly notFinite: number;
}

/** One pass over a tensor. NaN and infinities are counted and left out of everything else. */
export interface Summary {
  /** Finite elements. */
  readonly count: number;
  /** Infinity when no element is finite, as is −Infinity for `max`. */
  readonly min: number;
  readonly max: number;
  readonly sum: number;
  readonly sumSquares: number;
  readonly sumAbs: number;
  /** Elements equal to ±0. */
  readonly zeros: number;
  readonly nan: number;
  readonly infinite: number;
}

/** {@link Summary}'s essentials for each channel; not-finite elements are left out. */
export interface ChannelSummary {
  readonly min: Float32Array;
  readonly max: Float32Array;
  readonly sum: Float64Array;
  readonly sumSquares: Float64Array;
}

/** How two tensors differ. Pairs in which either element is not finite are counted and left out. */
export interface Comparison {
  readonly count: number;
  /** Σ (a − b)². */
  readonly squaredDifference: number;
  /** Σ a·b. */
  readonly dot: number;
  readonly squaredNormA: number;
  readonly squaredNormB: number;
  readonly maxAbsDifference: number;
  readonly sumAbsDifference: number;
  readonly notFinite: number;
}

/** Ends of finite numbers. */
export interface Extent {
  readonly min: number;
  readonly max: number;
}

/** Elements outside of a histogram's range, and those that are not finite. */
export interface HistogramRest {
  readonly below: number;
  readonly above: number;
  readonly notFinite: number;
}

/** A magnitude that separates the kept from the pruned: everything above it is kept, and the first `ties` elements equal to it. */
export interface MagnitudeThreshold {
  readonly threshold: number;
  readonly ties: number;
}

/**
 * Rounding with error feedback: rows of w (count, n) are rounded from the last to the first. Row j is rounded after the
 * errors of the rows below it were added: x_j = w_j + base_j + Σ_{i>j} f_ji·e_i, then e_j = w_j − ŵ_j with ŵ = (q − z)·s.
 */
export interface FeedbackRounding {
  readonly w: Float32Array; // (count, n)
  /** Errors of rows that were rounded earlier, already multiplied. */
  readonly base: Float32Array; // (count, n)
  readonly count: number;
  readonly n: number;
  /** f; read above the diagonal only. */
  readonly feedback: Float32Array; // (count, count)
  /** d_j, what a squared error of x_j costs. */
  readonly importance: Float32Array; // (count)
  /** Row of `scales` and `zeroPoints` that belongs to each row of w. */
  readonly groups: Int32Array; // (count)
  readonly scales: Float32Array; // (grids, n)
  /** Integers in [0, top]. */
  readonly zeroPoints: Float32Array; // (grids, n)
  /** Largest code. */
  readonly top: number;
  /** Where codes and errors go; default: new arrays. */
  readonly into?: { readonly codes: Uint8Array; readonly errors: Float32Array } | undefined; // (count, n)
}

export interface FeedbackRounded {
  readonly codes: Uint8Array; // (count, n)
  /** w − ŵ. */
  readonly errors: Float32Array; // (count, n)
  /** Σ_j d_j·‖x_j − ŵ_j‖². */
  readonly loss: number;
}

/** Block-wise quantization of a matrix that arrives in pieces. */
export interface BlockQuantizer {
  /** Takes the next stored rows: whole rows; of a transposed matrix a multiple of `block` rows, but for the last piece. */
  push(rows: Float32Array): void;
  /** As `push`, of so many stored rows that `read` delivers: it fills `target` with float32s from byte `offset` of them on. */
  pull(rows: number, read: (target: Uint8Array, offset: number) => void): void;
  /** The result, once every row was pushed. */
  finish(): BlockQuantized;
}

/** Every kernel. Inputs are never changed; a view from `scratch` is read in place, anything else is copied through in tiles. */
export interface Kernels {
  /** `bytes` of kernel memory to read a file directly into (at most 32 MiB). Valid until the next call of `scratch`. */
  scratch(bytes: number): Uint8Array;

  /** Quantizes a (rows, cols) matrix along cols. */
  quantizeBlocks(w: Float32Array, rows: number, cols: number, spec: BlockSpec): BlockQuantized;
  /** Quantizes a stored (k, n) matrix along k: the result has rows = n and cols = k, as `MatMulNBits` wants it. */
  quantizeBlocksTransposed(w: Float32Array, k: number, n: number, spec: BlockSpec): BlockQuantized;
  /** The streaming form of both: `stored` is the matrix as it arrives, row by row. */
  blockQuantizer(stored: { rows: number; cols: number; transpose?: boolean }, spec: BlockSpec): BlockQuantizer;
  /** (code − z)·s as a (rows, cols) matrix. */
  dequantizeBlocks(q: BlockQuantized): Float32Array;

  /** Quantizes to bytes with a scale per channel. */
  quantizeChannels(w: Float32Array, layout: AxisLayout, spec?: ChannelSpec): ChannelQuantized;
  dequantizeChannels(q: ChannelQuantized, layout: AxisLayout): Float32Array;

  /** Quantizes `rows` rows of equal length to levels; a scale of more than 4 Mi elements is found from that many of them. */
  quantizeLevels(w: Float32Array, rows: number, spec: LevelSpec): LevelQuantized;

  /** float32 to float16, round to nearest even; `saturate` turns overflow into ±65504. */
  toFloat16(x: Float32Array, saturate?: boolean): HalfConverted;
  /** float32 to bfloat16, round to nearest even; `saturate` turns overflow into the largest finite value. */
  toBfloat16(x: Float32Array, saturate?: boolean): HalfConverted;
  fromFloat16(bits: Uint16Array): Float32Array;
  fromBfloat16(bits: Uint16Array): Float32Array;

  /** Least and greatest element; undefined if one is NaN or infinite, or if there is none. More than twice as fast as {@link summarize}. */
  extent(x: Float32Array): Extent | undefined;
  /** Minimum, maximum, moments and counts in one pass. */
  summarize(x: Float32Array): Summary;
  /** Per channel: minimum, maximum, sum, sum of squares. */
  summarizeChannels(x: Float32Array, layout: AxisLayout): ChannelSummary;
  /** max |x| per channel. */
  maxAbsPerChannel(x: Float32Array, layout: AxisLayout): Float32Array;
  /** Adds x to `counts`, equal bins over [low, high]; bin = ⌊(x − low)·bins/(high − low)⌋ in float32, x = high in the last. */
  histogram(x: Float32Array, low: number, high: number, counts: Float64Array): HistogramRest;
  /** Adds |x| to `counts`, equal bins over [0, high]. */
  histogramAbs(x: Float32Array, high: number, counts: Float64Array): HistogramRest;
  countNonZero(x: Float32Array): number;

  /**
   * Σ g·(x̂ − x) for each of several grids, x̂ = s·clamp(round(x/s), low, high): what rounding x does to the number whose gradient
   * is g, to first order. `x` and `g` are finite; `grids` holds (s, low, high) of each, the codes counted from that of zero.
   */
  gridEffects(x: Float32Array, g: Float32Array, grids: Float32Array): Float64Array;
  /** Sums for SQNR, cosine and friends. */
  compare(a: Float32Array, b: Float32Array): Comparison;

  /**
   * One pass of a radix selection: m being the 31 bits of |x|, adds to `counts` (2^width long, width at most 11) the field
   * (m >> shift) mod 2^width of each element with m >> (shift + width) = prefix.
   */
  countMagnitudes(x: Float32Array, shift: number, prefix: number, counts: Float64Array): void;
  /** 1 where |x| > threshold, and for the first `ties` elements with |x| = threshold; NaN is kept. Says how many ties were used. */
  magnitudeMask(x: Float32Array, threshold: number, ties: number): { mask: Uint8Array; ties: number };
  /** 1 for the `keep` largest magnitudes of each `group` consecutive elements along the axis (the lower index wins ties). */
  groupMask(x: Float32Array, layout: AxisLayout, keep: number, group: number): Uint8Array;
  /** x where the mask is not 0, else +0. */
  applyMask(x: Float32Array, mask: Uint8Array): Float32Array;

  /** c + a·b in single precision, for a (m, p), b (p, n), c (m, n); p·m and a strip of b must fit (m, p up to 1024). */
  addProduct(
    c: Float32Array,
    a: Float32Array,
    b: Float32Array,
    sizes: { readonly m: number; readonly p: number; readonly n: number },
  ): Float32Array;
  /** U with A = UᵀU, zero below the diagonal, for n up to 1024; undefined where A is not positive definite. */
  choleskyUpper(a: Float32Array, n: number): Float32Array | undefined;
  /** The inverse of an upper triangle. */
  invertUpper(u: Float32Array, n: number): Float32Array;
  /** See {@link FeedbackRounding}. */
  roundWithFeedback(problem: FeedbackRounding): FeedbackRounded;

  /** The transpose of a (rows, cols) matrix. */
  transpose(x: Float32Array, rows: number, cols: number): Float32Array;
}
