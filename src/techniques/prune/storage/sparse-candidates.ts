/** In which sparse forms a tensor could be stored, read off where its elements are not the fill. */
import { elementCount } from "../../../base/shape.ts";
import { type SparseForm, reordered } from "../../../ir/sparse/sparse-form.ts";
import { type SparseIndex, groupsPerByte, surveyMarks, unitMarks } from "../../../ir/sparse/sparse-index.ts";

export interface Candidate extends Pick<SparseForm, "index" | "order" | "unit" | "entries"> {
  /** Elements of the index' codes. */
  readonly codes: number;
  /** Units whose values are stored, fillers and padding included. */
  readonly stored: number;
}

/** Patterns worth a table: those whose groups share a byte. */
const PATTERNS = [
  [1, 2],
  [1, 4],
  [2, 4],
  [3, 4],
  [1, 8],
  [1, 16],
] as const;

/** Lengths of runs, and heights of columns, that are tried as blocks. */
const BLOCKS = [4, 8, 16, 32, 64];

/** By how much more often than by chance (0) a neighbour of a stored element must be stored, 1 being always, before blocks are tried. */
const CLUSTERED = 0.4;

/** All forms that hold the marked elements; `marks` are of the tensor's elements in their own order. */
export function candidatesOf(marks: Uint8Array, shape: readonly number[]): Candidate[] {
  const { stored, gaps8, gaps16, nibbles } = surveyMarks(marks);
  const elements = marks.length;
  const found: Candidate[] = [
    { index: { kind: "mask" }, unit: 1, entries: elements, codes: Math.ceil(elements / 8), stored },
    { index: { kind: "gaps", bits: 8 }, unit: 1, entries: gaps8, codes: gaps8, stored: gaps8 },
    { index: { kind: "gaps", bits: 16 }, unit: 1, entries: gaps16, codes: gaps16, stored: gaps16 },
    { index: { kind: "nibbles" }, unit: 1, entries: nibbles, codes: Math.ceil(nibbles / 2), stored },
  ];
  const pattern = patternOf(marks, shape, stored);
  if (pattern) found.push(pattern);
  return [...found, ...blocksOf(marks, shape, stored)].filter(({ codes }) => codes > 0);
}

/** The pattern with the fewest stored units that holds along some axis. */
function patternOf(marks: Uint8Array, shape: readonly number[], stored: number): Candidate | undefined {
  let best: Candidate | undefined;
  for (const [keep, of] of PATTERNS) {
    // Far fewer are stored than the pattern allows: other forms do not store the rest
    if (stored > (marks.length * keep) / of || stored < (0.7 * marks.length * keep) / of) continue;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const layout = layoutOf(shape, axis);
      if (layout.size % of !== 0 || !holds(marks, layout, keep, of)) continue;
      const index: SparseIndex = { kind: "pattern", keep, of };
      const perByte = groupsPerByte(keep, of);
      const codes = Math.ceil(marks.length / of / perByte);
      const found = { index, unit: 1, entries: codes, codes, stored: codes * perByte * keep, order: axisLast(layout) };
      if (!best || found.stored < best.stored) best = found;
      break;
    }
  }
  return best;
}

interface Layout {
  readonly outer: number;
  readonly size: number;
  readonly inner: number;
}

function layoutOf(shape: readonly number[], axis: number): Layout {
  return {
    outer: elementCount(shape.slice(0, axis)),
    size: shape[axis] as number,
    inner: elementCount(shape.slice(axis + 1)),
  };
}

function axisLast({ outer, size, inner }: Layout): Candidate["order"] {
  if (inner === 1) return undefined;
  return outer === 1 ? { split: [size, inner], perm: [1, 0] } : { split: [outer, size, inner], perm: [0, 2, 1] };
}

function holds(marks: Uint8Array, { outer, size, inner }: Layout, keep: number, of: number): boolean {
  for (let o = 0; o < outer; o++)
    for (let start = 0; start < size; start += of)
      for (let i = 0; i < inner; i++) {
        let count = 0;
        for (let c = 0, at = (o * size + start) * inner + i; c < of; c++, at += inner) count += marks[at] as number;
        if (count > keep) return false;
      }
  return true;
}

/** Runs along the last axis, columns along the first, and squares, where stored elements keep together. */
function blocksOf(marks: Uint8Array, shape: readonly number[], stored: number): Candidate[] {
  const elements = marks.length;
  if (stored === 0 || elements < 64) return [];
  const rows = shape[0] ?? 1;
  const cols = elements / rows;
  const density = stored / elements;
  const clustered = (distance: number): boolean => {
    let both = 0;
    for (let i = distance; i < elements; i++) both += (marks[i] as number) & (marks[i - distance] as number);
    return both / stored > density + CLUSTERED * (1 - density);
  };
  const along = clustered(1);
  const across = cols > 1 && clustered(cols);
  const found: Candidate[] = [];
  const kernel = elementCount(shape.slice(2));
  const runs = new Set(along ? [...BLOCKS, cols, ...(kernel > 1 ? [kernel] : [])] : []);
  for (const run of runs) if (elements % run === 0) found.push(blockOf(marks, run, undefined));
  for (const size of BLOCKS) {
    if (rows % size !== 0) continue;
    if (across) found.push(blockOf(marks, size, { split: [rows / size, size, cols], perm: [0, 2, 1] }));
    if (across && along && cols % size === 0)
      found.push(blockOf(marks, size * size, { split: [rows / size, size, cols / size, size], perm: [0, 2, 1, 3] }));
  }
  return found;
}

function blockOf(marks: Uint8Array, unit: number, order: Candidate["order"]): Candidate {
  const moved = order ? reordered(marks, order, 1, "there") : marks;
  const stored = unitMarks(moved, unit).reduce((count, mark) => count + mark, 0);
  const entries = marks.length / unit;
  return { index: { kind: "mask" }, unit, entries, codes: Math.ceil(entries / 8), stored, order };
}
