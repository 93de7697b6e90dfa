/** Block-wise quantization in plain TypeScript: the oracle of the SIMD kernel. */
import { packBits, unpackUnsigned } from "../../base/packed.ts";
import { REFITS, blockRatios } from "../search-grid.ts";
import type { BlockQuantized, BlockSpec } from "../types.ts";
import { rangeScale, roundClamped, storedScale } from "../scalar.ts";
import { finiteRange, refitSums, replaceNotFinite, searchError } from "./arithmetic.ts";

/** Quantizes a (rows, cols) matrix along cols. */
export function quantizeBlocks(w: Float32Array, rows: number, cols: number, spec: BlockSpec): BlockQuantized {
  const { bits, block = 32, symmetric = true } = spec;
  const half = spec.scaleType === "float16";
  const blocks = Math.ceil(cols / block);
  const codes = new Uint8Array(rows * blocks * block);
  const scales = new Float32Array(rows * blocks);
  const zeroPoints = new Uint8Array(rows * blocks);
  const top = 2 ** bits - 1;
  const middle = 2 ** (bits - 1);
  const ratios = blockRatios(bits, symmetric);
  const error = { squaredError: 0, squaredNorm: 0, maxError: 0, notFinite: 0 };
  const values = new Float32Array(block);
  for (let row = 0; row < rows; row++)
    for (let b = 0; b < blocks; b++) {
      values.fill(0);
      values.set(w.subarray(row * cols + b * block, row * cols + Math.min(cols, (b + 1) * block)));
      const range = finiteRange(values);
      replaceNotFinite(values, range);
      error.notFinite += range.notFinite;

      // s = peak / −2^(b−1), or (max − min)/(2^b − 1)
      const peak = range.high > -range.low ? range.high : range.low;
      const plain = symmetric ? Math.fround(peak / -middle) : rangeScale(range.low, range.high, top);
      let s = storedScale(plain, half);
      const z = symmetric ? middle : roundClamped(Math.fround(-range.low / s), 0, top);
      if (spec.scale === "mse") s = bestScale(values, plain, s, -z, top - z, ratios, half);

      const at = row * blocks + b;
      scales[at] = s;
      zeroPoints[at] = z;
      for (let i = 0; i < block; i++) {
        const x = values[i] as number;
        const q = roundClamped(Math.fround(x / s), -z, top - z);
        codes[at * block + i] = q + z;
        const e = Math.fround(Math.fround(q * s) - x);
        error.squaredError += e * e;
        error.squaredNorm += x * x;
        error.maxError = Math.max(error.maxError, Math.abs(e));
      }
    }
  return {
    rows,
    cols,
    bits,
    block,
    codes: bits === 8 ? codes : packBits(codes, bits),
    scales,
    zeroPoints: symmetric ? undefined : packRows(zeroPoints, rows, blocks, bits),
    ...error,
  };
}

/** The best of `ratios` times the plain scale and its refits; ties go to the first. */
export function bestScale(
  w: Float32Array,
  plain: number,
  first: number,
  low: number,
  high: number,
  ratios: Float32Array,
  half: boolean,
): number {
  let best = first;
  let least = searchError(w, first, low, high);
  for (const ratio of ratios.subarray(1)) {
    const s = storedScale(Math.fround(plain * ratio), half);
    const error = searchError(w, s, low, high);
    if (error < least) [least, best] = [error, s];
  }
  for (let refit = 0; refit < REFITS; refit++) {
    const { qw, qq } = refitSums(w, best, low, high);
    if (!(qq > 0)) break;
    const s = storedScale(Math.fround(qw / qq), half);
    const error = searchError(w, s, low, high);
    if (!(error < least)) break;
    [least, best] = [error, s];
  }
  return best;
}

function packRows(values: Uint8Array, rows: number, cols: number, bits: 2 | 4 | 8): Uint8Array {
  if (bits === 8) return values;
  const rowBytes = Math.ceil((cols * bits) / 8);
  const packed = new Uint8Array(rows * rowBytes);
  for (let row = 0; row < rows; row++)
    packed.set(packBits(values.subarray(row * cols, (row + 1) * cols), bits), row * rowBytes);
  return packed;
}

/** Quantizes a stored (k, n) matrix along k. */
export function quantizeBlocksTransposed(w: Float32Array, k: number, n: number, spec: BlockSpec): BlockQuantized {
  return quantizeBlocks(transpose(w, k, n), n, k, spec);
}

/** (rows, cols) → (cols, rows). */
export function transpose(x: Float32Array, rows: number, cols: number): Float32Array {
  const y = new Float32Array(x.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) y[j * rows + i] = x[i * cols + j] as number;
  return y;
}

/** ŵ = (code − z)·s. */
export function dequantizeBlocks(q: BlockQuantized): Float32Array {
  const { rows, cols, bits, block } = q;
  const blocks = Math.ceil(cols / block);
  const zeroRowBytes = Math.ceil((blocks * bits) / 8);
  const codes = bits === 8 ? q.codes : unpackUnsigned(q.codes, bits, rows * blocks * block);
  const w = new Float32Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    const packed = q.zeroPoints?.subarray(row * zeroRowBytes, (row + 1) * zeroRowBytes);
    const zeros = packed && bits !== 8 ? unpackUnsigned(packed, bits, blocks) : packed;
    for (let col = 0; col < cols; col++) {
      const b = Math.floor(col / block);
      const z = zeros ? (zeros[b] as number) : 2 ** (bits - 1);
      const code = codes[row * blocks * block + col] as number;
      w[row * cols + col] = (code - z) * (q.scales[row * blocks + b] as number);
    }
  }
  return w;
}
