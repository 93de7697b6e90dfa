/** Constant linear maps along one axis, applied backwards: repeated, mirrored and interpolated elements. */
import type { Value } from "../../ir/graph.ts";
import type { DType } from "../../base/dtype.ts";
import { type Dim, isConcrete } from "../../base/shape.ts";
import { add, constantArray, ints, pad, reduceSum, reshape, shapeOf, type Site, slice } from "./words.ts";

/** What is known of a value that need not be in the graph. */
export interface Typed {
  readonly dtype: DType | undefined;
  readonly shape: readonly Dim[] | undefined;
}

/** A row for each output element along the axis: which input elements it takes, and with which weight. */
export type Taps = readonly (readonly (readonly [source: number, weight: number])[])[];

/** Places that follow one another in the source with a constant step of 1, −1 or 0. */
interface Run {
  readonly start: number;
  readonly source: number;
  readonly step: -1 | 0 | 1;
  length: number;
}

/** More pieces than this cost more than one matrix product. */
const MAX_RUNS = 8;

function runsOf(sources: readonly number[]): Run[] {
  const runs: Run[] = [];
  for (const [i, source] of sources.entries()) {
    const last = runs.at(-1);
    if (last) {
      const step = source - (sources[i - 1] ?? 0);
      if (last.length === 1 && Math.abs(step) <= 1) {
        runs[runs.length - 1] = { ...last, step: step as Run["step"], length: 2 };
        continue;
      }
      if (last.length > 1 && step === last.step) {
        last.length++;
        continue;
      }
    }
    runs.push({ start: i, source, step: 1, length: 1 });
  }
  return runs;
}

/**
 * y = x[sources] along an axis, so that ∂x[j] = Σ { g[i] : sources[i] = j }. `g` has the output's shape; `x` says dtype and shape of what is
 * returned, whose size along the axis must be known.
 */
export function gatherBack(s: Site, g: Value, axis: number, sources: readonly number[], x: Typed): Value {
  const rank = x.shape?.length ?? 0;
  const size = x.shape?.[axis] as number;
  const runs = runsOf(sources);
  const lone = runs.length === 1 ? runs[0] : undefined;
  if (lone?.step === 1 && lone.length === size) return g;
  if (runs.length > MAX_RUNS)
    return mapBack(
      s,
      g,
      axis,
      sources.map((source) => [[source, 1]]),
      x,
    );
  const pieces = runs.map((run) => {
    let piece = runs.length === 1 ? g : slice(s, g, [axis], [run.start], [run.start + run.length]);
    if (run.step < 0) piece = slice(s, piece, [axis], [-1], [-(2 ** 31)], [-1]);
    if (run.step === 0) piece = reduceSum(s, piece, [axis], true);
    const low = run.step < 0 ? run.source - run.length + 1 : run.source;
    const width = run.step === 0 ? 1 : run.length;
    const pads = Array.from({ length: 2 * rank }, () => 0);
    [pads[axis], pads[axis + rank]] = [low, size - low - width];
    return pad(s, piece, pads);
  });
  return pieces.reduce((sum, piece) => add(s, sum, piece));
}

/** y[i] = Σ weight·x[source] over the taps of i along an axis: ∂x = Mᵀg, one matrix product on (before, axis, after). */
export function mapBack(s: Site, g: Value, axis: number, taps: Taps, x: Typed): Value {
  const shape = x.shape ?? [];
  const inside = shape[axis] as number;
  const outside = taps.length;
  const before = shape.slice(0, axis);
  const after = shape.slice(axis + 1);
  const product = (dims: readonly unknown[]): number => dims.reduce<number>((n, dim) => n * Number(dim), 1);
  const last = isConcrete(after) && product(after) === 1;
  const back = new Float64Array(inside * outside); // (inside, outside), or its transpose for the last axis
  for (const [i, row] of taps.entries())
    for (const [source, weight] of row) {
      const at = last ? i * inside + source : source * outside + i;
      back[at] = (back[at] ?? 0) + weight;
    }
  const rows = isConcrete(before) ? product(before) : -1;
  const columns = isConcrete(after) ? product(after) : -1;
  const matrix = constantArray(s, x.dtype, last ? [outside, inside] : [inside, outside], back);
  let result: Value;
  if (last) result = s.b.op("MatMul", [reshape(s, g, [-1, outside]), matrix]);
  else if (rows === -1 && columns === -1) {
    const lead = slice(s, shapeOf(s, g), [0], [0], [axis]);
    const rest = s.b.op("Concat", [lead, ints(s, [outside, -1])], { attributes: { axis: 0 } });
    result = s.b.op("MatMul", [matrix, s.b.op("Reshape", [g, rest])]);
  } else result = s.b.op("MatMul", [matrix, reshape(s, g, [rows, outside, columns])]); // (before, inside, after)
  const open = shape.flatMap((dim, i) => (typeof dim === "number" ? [] : [i]));
  if (open.length <= 1)
    return reshape(
      s,
      result,
      shape.map((dim) => (typeof dim === "number" ? dim : -1)),
    );
  // Other axes are as in g.
  const own = shapeOf(s, g);
  const parts = shape.map((dim, i) => (typeof dim === "number" ? ints(s, [dim]) : slice(s, own, [0], [i], [i + 1])));
  return s.b.op("Reshape", [result, s.b.op("Concat", parts, { attributes: { axis: 0 } })]);
}
