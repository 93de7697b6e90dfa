/** Small dense linear algebra through the SIMD kernels: columns padded to whole strips, outputs in pieces that fit. */
import type { Arena } from "./arena.ts";
import type { KernelExports } from "./exports.ts";
import type { FeedbackRounded, FeedbackRounding } from "./types.ts";

/** Columns that the kernels handle together. */
const STRIP = 16;
/** Floats of one matrix in the arena. */
const PIECE = 2 ** 20;

/** Columns of a piece of a matrix of so many rows. */
function pieceOf(rows: number, n: number): number {
  return Math.min(n, Math.max(STRIP, Math.floor(PIECE / Math.max(1, rows) / STRIP) * STRIP));
}

/** Address of columns [from, from + width) of a (rows, n) matrix, padded with `fill` to whole strips. */
function placeColumns(
  arena: Arena,
  x: Float32Array,
  shape: { readonly rows: number; readonly n: number },
  from: number,
  width: number,
  fill = 0,
): number {
  const padded = Math.ceil(width / STRIP) * STRIP;
  if (width === shape.n && padded === width) return arena.copy(x.subarray(0, shape.rows * shape.n));
  const at = arena.allocate(shape.rows * padded * 4);
  const into = arena.floats(at, shape.rows * padded);
  if (padded !== width) into.fill(fill);
  for (let row = 0; row < shape.rows; row++)
    into.set(x.subarray(row * shape.n + from, row * shape.n + from + width), row * padded);
  return at;
}

/** Copies a piece's columns back. */
function takeColumns<T extends Float32Array | Uint8Array>(
  piece: T,
  into: T,
  n: number,
  from: number,
  width: number,
): void {
  const padded = Math.ceil(width / STRIP) * STRIP;
  const rows = piece.length / padded;
  if (width === n && padded === width) into.set(piece);
  else
    for (let row = 0; row < rows; row++) into.set(piece.subarray(row * padded, row * padded + width), row * n + from);
}

export function addProduct(
  arena: Arena,
  wasm: KernelExports,
  c: Float32Array,
  a: Float32Array,
  b: Float32Array,
  { m, p, n }: { readonly m: number; readonly p: number; readonly n: number },
): Float32Array {
  const result = new Float32Array(m * n);
  const step = pieceOf(Math.max(m, p), n);
  for (let from = 0; from < n; from += step) {
    const width = Math.min(step, n - from);
    const padded = Math.ceil(width / STRIP) * STRIP;
    arena.reset();
    const to = placeColumns(arena, c, { rows: m, n }, from, width);
    wasm.addProduct(arena.copy(a), placeColumns(arena, b, { rows: p, n }, from, width), to, m, p, padded);
    takeColumns(arena.floats(to, m * padded), result, n, from, width);
  }
  return result;
}

export function choleskyUpper(arena: Arena, wasm: KernelExports, a: Float32Array, n: number): Float32Array | undefined {
  arena.reset();
  const at = arena.copy(a);
  if (wasm.choleskyUpper(at, n) >= 0) return undefined;
  const u = arena.floats(at, n * n).slice();
  for (let i = 1; i < n; i++) u.fill(0, i * n, i * n + i);
  return u;
}

export function invertUpper(arena: Arena, wasm: KernelExports, u: Float32Array, n: number): Float32Array {
  arena.reset();
  const to = arena.zeros(n * n * 4);
  wasm.invertUpper(arena.copy(u), n, to);
  return arena.floats(to, n * n).slice();
}

export function roundWithFeedback(arena: Arena, wasm: KernelExports, problem: FeedbackRounding): FeedbackRounded {
  const { w, base, count, n, feedback, importance, groups, scales, zeroPoints, top } = problem;
  const { codes, errors } = problem.into ?? {
    codes: new Uint8Array(count * n),
    errors: new Float32Array(count * n),
  };
  const grids = scales.length / n;
  const step = pieceOf(Math.max(count, grids), n);
  let loss = 0;
  for (let from = 0; from < n; from += step) {
    const width = Math.min(step, n - from);
    const padded = Math.ceil(width / STRIP) * STRIP;
    arena.reset();
    const place = (x: Float32Array, rows: number, fill = 0): number =>
      placeColumns(arena, x, { rows, n }, from, width, fill);
    const [sum, codesAt, errorsAt] = [
      arena.zeros(8),
      arena.allocate(count * padded),
      arena.allocate(count * padded * 4),
    ];
    wasm.roundWithFeedback(
      place(w, count),
      place(base, count),
      count,
      padded,
      arena.copy(feedback),
      arena.copy(importance),
      arena.copy(groups),
      place(scales, grids, 1),
      place(zeroPoints, grids),
      top,
      codesAt,
      errorsAt,
      sum,
    );
    takeColumns(arena.bytes.subarray(codesAt, codesAt + count * padded), codes, n, from, width);
    takeColumns(arena.floats(errorsAt, count * padded), errors, n, from, width);
    loss += arena.doubles(sum, 1)[0] ?? 0;
  }
  return { codes, errors, loss };
}
