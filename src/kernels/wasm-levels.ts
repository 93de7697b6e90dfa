/** Quantization to levels through the SIMD kernel: many short rows at a time, long rows whole, longer ones in pieces. */
import type { Arena } from "./arena.ts";
import type { KernelExports } from "./exports.ts";
import { LEVEL_REFITS, LEVEL_RULES, MEAN_FACTOR, bordersOf, levelRatios, outermost } from "./level-grid.ts";
import type { LevelQuantized, LevelSpec } from "./types.ts";

/** Floats of a tile of rows. */
const TILE = 65536;
/** Floats of the longest row whose scale is found from all of them: what the kernels' memory holds beside the codes. */
const WHOLE_ROW = 4 << 20;

export function quantizeLevels(
  arena: Arena,
  wasm: KernelExports,
  w: Float32Array,
  rows: number,
  spec: LevelSpec,
): LevelQuantized {
  const inner = w.length / rows;
  const codes = new Uint8Array(w.length);
  const scales = typeof spec.scale === "string" ? new Float32Array(rows) : spec.scale.slice();
  const rule = typeof spec.scale === "string" ? LEVEL_RULES[spec.scale] : 0;
  const ratios = levelRatios(spec.levels.length);
  const totals = { squaredError: 0, squaredNorm: 0, maxError: 0, notFinite: 0 };
  /** Scales of the rows x, whose first is `row`; their codes go to `offset` on, if given. */
  const run = (x: Float32Array, row: number, count: number, by: number, offset?: number): void => {
    arena.reset();
    const dst = arena.allocate(x.length);
    const own = arena.copy(scales.subarray(row, row + count));
    const sums = arena.zeros(24);
    const notFinite = wasm.quantizeLevels(
      arena.copy(x),
      count,
      x.length / count,
      arena.copy(spec.levels),
      arena.copy(spec.borders ?? bordersOf(spec.levels)),
      spec.levels.length,
      outermost(spec.levels),
      by,
      spec.scaleType === "float16" ? 1 : 0,
      arena.copy(ratios),
      ratios.length,
      LEVEL_REFITS,
      MEAN_FACTOR,
      dst,
      own,
      sums,
    );
    scales.set(arena.floats(own, count), row);
    if (offset === undefined) return;
    codes.set(arena.bytes.subarray(dst, dst + x.length), offset);
    const [squaredError = 0, squaredNorm = 0, maxError = 0] = arena.doubles(sums, 3);
    totals.squaredError += squaredError;
    totals.squaredNorm += squaredNorm;
    totals.maxError = Math.max(totals.maxError, maxError);
    totals.notFinite += notFinite;
  };
  const step = Math.max(1, Math.floor(TILE / inner));
  for (let row = 0; row < rows; row += step) {
    const count = Math.min(step, rows - row);
    const own = w.subarray(row * inner, (row + count) * inner);
    if (inner <= WHOLE_ROW) {
      run(own, row, count, rule, row * inner);
      continue;
    }
    if (rule) run(evenly(own, WHOLE_ROW), row, 1, rule);
    for (let from = 0; from < inner; from += WHOLE_ROW)
      run(own.subarray(from, from + WHOLE_ROW), row, 1, 0, row * inner + from);
  }
  return { codes, scales, ...totals };
}

/** At most `most` elements, evenly drawn, and the largest magnitude. */
function evenly(x: Float32Array, most: number): Float32Array {
  const step = Math.ceil(x.length / (most - 1));
  let [peak, at] = [0, 0];
  for (const [i, value] of x.entries())
    if (Math.abs(value) > peak && Number.isFinite(value)) [peak, at] = [Math.abs(value), i];
  const drawn = Float32Array.from(
    { length: Math.ceil(x.length / step) + 1 },
    (_, i) => x[Math.min(i * step, x.length - 1)] as number,
  );
  drawn[drawn.length - 1] = x[at] as number;
  return drawn;
}
