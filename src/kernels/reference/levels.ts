/** Quantization to any ascending levels in plain TypeScript: the oracle of the SIMD kernel. */
import { LEVEL_REFITS, MEAN_FACTOR, bordersOf, levelRatios, outermost } from "../level-grid.ts";
import { storedScale } from "../scalar.ts";
import type { LevelQuantized, LevelSpec } from "../types.ts";
import { RUN, finiteRange, replaceNotFinite } from "./arithmetic.ts";

const { fround } = Math;
const LARGEST = 2 ** 128 - 2 ** 104; // of single precision

interface Levels {
  readonly levels: Float32Array;
  readonly borders: Float32Array;
}

export function quantizeLevels(w: Float32Array, rows: number, spec: LevelSpec): LevelQuantized {
  const grid: Levels = { levels: spec.levels, borders: spec.borders ?? bordersOf(spec.levels) };
  const inner = w.length / rows;
  const codes = new Uint8Array(w.length);
  const scales = new Float32Array(rows);
  const error = { squaredError: 0, squaredNorm: 0, maxError: 0, notFinite: 0 };
  for (let row = 0; row < rows; row++) {
    const values = w.slice(row * inner, (row + 1) * inner);
    const range = finiteRange(values);
    replaceNotFinite(values, range);
    error.notFinite += range.notFinite;
    const peak = Math.max(range.high, -range.low);
    const found = scaleOf(values, grid, spec, peak, row);
    scales[row] = found.scale;
    for (let i = 0; i < inner; i++) {
      const x = values[i] as number;
      const code = codeOf(fround(x / found.codeScale), grid.borders);
      codes[row * inner + i] = code;
      const e = fround(fround((grid.levels[code] as number) * found.scale) - x);
      error.squaredError += e * e;
      error.squaredNorm += x * x;
      error.maxError = Math.max(error.maxError, Math.abs(e));
    }
  }
  return { codes, scales, ...error };
}

/** Levels below y, that is: borders that are smaller. */
export function codeOf(y: number, borders: Float32Array): number {
  let code = 0;
  for (const border of borders) if (y > border) code++;
  return code;
}

/** The scale, and the one that codes are chosen with. */
function scaleOf(
  w: Float32Array,
  grid: Levels,
  spec: LevelSpec,
  peak: number,
  row: number,
): { scale: number; codeScale: number } {
  const half = spec.scaleType === "float16";
  if (typeof spec.scale !== "string") {
    const scale = spec.scale[row] as number;
    return { scale, codeScale: scale };
  }
  if (spec.scale === "mean") {
    let sum = 0;
    for (const x of w) sum += Math.abs(x);
    const start = fround((MEAN_FACTOR * sum) / w.length);
    const codeScale = start === 0 ? 1 : start;
    return { scale: storedScale(refit(w, grid, codeScale) || codeScale, half), codeScale };
  }
  const plain = fround(peak / outermost(grid.levels));
  let best = storedScale(plain, half);
  if (spec.scale === "mse") {
    let least = searchError(w, grid, best);
    const consider = (scale: number): boolean => {
      const error = searchError(w, grid, scale);
      if (!(error < least)) return false;
      [least, best] = [error, scale];
      return true;
    };
    for (const ratio of levelRatios(grid.levels.length).subarray(1)) consider(storedScale(fround(plain * ratio), half));
    for (let count = 0; count < LEVEL_REFITS; count++) {
      const fitted = refit(w, grid, best);
      if (fitted === 0 || !consider(storedScale(fitted, half))) break;
    }
  }
  return { scale: best, codeScale: best };
}

/** Σ (v·s − w)² for the levels v that scale s gives: four float32 lanes, every {@link RUN} elements into a double. */
function searchError(w: Float32Array, { levels, borders }: Levels, s: number): number {
  return laneSums(w, (x) => {
    const e = fround(fround((levels[codeOf(fround(x / s), borders)] as number) * s) - x);
    return fround(e * e);
  });
}

/** Σ v·w / Σ v² for the levels v that scale s gives, in the same order; 0 where it is no positive number of single precision. */
function refit(w: Float32Array, { levels, borders }: Levels, s: number): number {
  const value = (x: number): number => levels[codeOf(fround(x / s), borders)] as number;
  const fitted = laneSums(w, (x) => fround(value(x) * x)) / laneSums(w, (x) => fround(value(x) * value(x)));
  return fitted > 0 && fitted <= LARGEST ? fitted : 0;
}

function laneSums(w: Float32Array, term: (x: number) => number): number {
  let total = 0;
  for (let start = 0; start < w.length; start += RUN) {
    const lanes = new Float32Array(4);
    for (let i = start; i < Math.min(start + RUN, w.length); i++)
      lanes[i & 3] = (lanes[i & 3] as number) + term(w[i] as number);
    const [a = 0, b = 0, c = 0, d = 0] = lanes;
    total += a + b + (c + d);
  }
  return total;
}
