/** Which elements of a weight stay, given their importance: freely, n of every m, or in blocks; for each output, layer or all layers. */
import { PareError } from "../../../base/error.ts";
import type { AxisLayout, Kernels } from "../../../kernels/types.ts";
import type { WeightSite, WeightUse } from "../../../transform/weight-sites.ts";

export type Pattern =
  | { readonly kind: "free" }
  /** `keep` of every `of` neighbours along the summed axis. */
  | { readonly kind: "group"; readonly keep: number; readonly of: number }
  /** Blocks of so many rows and columns of the stored weight, whose first axis has the rows. */
  | { readonly kind: "block"; readonly rows: number; readonly cols: number };

/** "2:4" or "4x4"; free where there is none. */
export function parsePattern(text: string | undefined): Pattern {
  if (text === undefined) return { kind: "free" };
  const [first = 1, second = 1] = text.split(/[:x]/).map(Number);
  if (text.includes("x")) return { kind: "block", rows: first, cols: second };
  if (first > second)
    throw new PareError("bad-option", "A pattern n:m cannot keep more than it has", {
      where: "prune-weights option 'pattern'",
      found: text,
      expected: "n:m with n at most m, for example 2:4",
    });
  return { kind: "group", keep: first, of: second };
}

/** The matrices that a weight consists of. */
export interface MatrixLayout {
  /** Groups of a convolution. */
  readonly groups: number;
  /** Inputs of each output, and outputs of each group. */
  readonly k: number;
  readonly n: number;
  /** True where the inputs of an output lie side by side. */
  readonly rowsFirst: boolean;
}

/** Outputs and inputs of a weight; undefined where it is no matrix and no convolution. */
export function matrixOf({ tensor, uses }: WeightSite): MatrixLayout | undefined {
  const use = uses[0] as WeightUse;
  const { shape, elements } = tensor;
  const kind = use.spec.traits?.linear;
  if (kind === "conv") {
    const groups = use.node.int("group", 1);
    const outputs = shape[0] ?? 1;
    return { groups, k: elements / outputs, n: outputs / groups, rowsFirst: true };
  }
  const axis = summedAxis(uses);
  if ((kind !== "matmul" && kind !== "gemm") || shape.length !== 2 || axis === undefined) return undefined;
  return { groups: 1, k: shape[axis] as number, n: shape[1 - axis] as number, rowsFirst: axis === 1 };
}

function summedAxis([use]: readonly WeightUse[]): number | undefined {
  const axis = use?.weight.reductionAxis;
  return axis === undefined ? undefined : use?.transpose ? 1 - axis : axis;
}

/** Why the pattern does not fit the weight, or undefined. */
export function reasonAgainst({ tensor, uses }: WeightSite, pattern: Pattern): string | undefined {
  const { shape, elements } = tensor;
  if (pattern.kind === "free") return undefined;
  if (pattern.kind === "group") {
    const axis = summedAxis(uses);
    if (axis === undefined) return "it has no summed axis";
    const size = shape[axis] ?? 1;
    return size % pattern.of === 0
      ? undefined
      : `its summed axis has ${size} elements, which ${pattern.keep}:${pattern.of} does not divide`;
  }
  const rows = shape[0] ?? 1;
  return shape.length >= 2 && rows % pattern.rows === 0 && (elements / rows) % pattern.cols === 0
    ? undefined
    : `its ${rows} x ${elements / rows} elements are not whole blocks of ${pattern.rows} x ${pattern.cols}`;
}

/** Where n:m patterns lie in the weight. */
export function groupLayout({ tensor, uses }: WeightSite): AxisLayout {
  const axis = summedAxis(uses) ?? 0;
  const product = (sizes: readonly number[]): number => sizes.reduce((total, size) => total * size, 1);
  const { shape } = tensor;
  return { outer: product(shape.slice(0, axis)), channels: shape[axis] ?? 1, inner: product(shape.slice(axis + 1)) };
}

type Block = Extract<Pattern, { kind: "block" }>;

/** Importance of each block of a matrix with so many columns: the sum over its elements. */
export function blockSums(scores: Float32Array, cols: number, block: Block): Float32Array {
  const across = cols / block.cols;
  const sums = new Float32Array(scores.length / block.rows / block.cols);
  for (let at = 0; at < scores.length; at++) {
    const to = blockAt(at, cols, across, block);
    sums[to] = (sums[to] as number) + Math.abs(scores[at] as number);
  }
  return sums;
}

/** The mask of elements from that of blocks. */
export function expandBlocks(mask: Uint8Array, elements: number, cols: number, block: Block): Uint8Array {
  const across = cols / block.cols;
  return new Uint8Array(elements).map((_, at) => mask[blockAt(at, cols, across, block)] as number);
}

function blockAt(at: number, cols: number, across: number, block: Block): number {
  return Math.floor(Math.floor(at / cols) / block.rows) * across + Math.floor((at % cols) / block.cols);
}

/** 1 for the most important elements of each output, as many of each; the first of equals. */
export function outputMask(kernels: Kernels, scores: Float32Array, layout: MatrixLayout, ratio: number): Uint8Array {
  const { groups, k, n, rowsFirst } = layout;
  const rows = rowsFirst ? scores : kernels.transpose(scores, k, n);
  const keep = k - Math.round(ratio * k);
  const mask = new Uint8Array(rows.length);
  for (let output = 0; output < groups * n && keep > 0; output++) {
    const own = rows.subarray(output * k, (output + 1) * k);
    const sorted = own.slice().sort();
    const least = sorted[k - keep] as number;
    let ties = 0;
    for (let i = k - keep; i < k && sorted[i] === least; i++) ties++;
    for (let i = 0; i < k; i++) {
      const score = own[i] as number;
      if (score > least || (score === least && ties-- > 0)) mask[output * k + i] = 1;
    }
  }
  if (rowsFirst) return mask;
  const stored = new Uint8Array(mask.length);
  for (let output = 0, at = 0; output < n; output++)
    for (let i = 0; i < k; i++) stored[i * n + output] = mask[at++] as number;
  return stored;
}
