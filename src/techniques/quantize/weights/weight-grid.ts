/** Grids of a weight matrix that is stored input by input: scales and zero points of each output's groups, and rounding to them. */
import { unpackUnsigned } from "../../../base/packed.ts";
import type { Kernels } from "../../../kernels/types.ts";
import type { Bits } from "./formats.ts";

/** A matrix with one row for each input: (k, n), as `MatMul` stores its weight. */
export interface Weights {
  readonly k: number;
  readonly n: number;
  readonly data: Float32Array; // (k, n)
}

/** ŵ = (code − z)·s; row ⌊i/group⌋ belongs to input i. */
export interface Grid {
  readonly scales: Float32Array; // (⌈k/group⌉, n)
  /** Integers from 0 to the largest code. */
  readonly zeroPoints: Float32Array; // (⌈k/group⌉, n)
}

export interface GridSpec {
  readonly bits: Bits;
  /** Inputs of an output that share a scale. */
  readonly group: number;
  readonly symmetric: boolean;
  readonly scale: "range" | "mse";
  readonly scaleType: "float32" | "float16";
  /** The rule of which kernel: that of packed blocks, or that of rows with one scale each. */
  readonly rule: "blocks" | "rows";
}

export interface Rounded {
  readonly codes: Uint8Array; // (k, n)
  /** w − ŵ. */
  readonly errors: Float32Array; // (k, n)
}

/** Inputs rounded in one call where there is no feedback between them. */
const STEP = 16;

export function topOf(bits: Bits): number {
  return 2 ** bits - 1;
}

/** The grid that rounding to nearest would use, its scales covering the range or clipped for the least squared error. */
export function gridOf(kernels: Kernels, { k, n, data }: Weights, spec: GridSpec): Grid {
  const { bits, group, symmetric, scale, scaleType } = spec;
  const groups = Math.ceil(k / group);
  if (spec.rule === "blocks" && (bits === 2 || bits === 4 || bits === 8)) {
    const q = kernels.quantizeBlocksTransposed(data, k, n, { bits, block: group, symmetric, scale, scaleType });
    const zeros = new Float32Array(n * groups).fill(2 ** (bits - 1));
    const rowBytes = (q.zeroPoints?.length ?? 0) / n;
    for (let row = 0; q.zeroPoints && row < n; row++) {
      const packed = q.zeroPoints.subarray(row * rowBytes, (row + 1) * rowBytes);
      zeros.set(bits === 8 ? packed : unpackUnsigned(packed, bits, groups), row * groups);
    }
    return {
      scales: kernels.transpose(q.scales, n, groups),
      zeroPoints: kernels.transpose(zeros, n, groups),
    };
  }
  const padded = new Float32Array(groups * group * n);
  padded.set(data);
  const q = kernels.quantizeChannels(
    kernels.transpose(padded, groups * group, n),
    { outer: 1, channels: n * groups, inner: group },
    { low: 0, high: topOf(bits), symmetric, scale, scaleType },
  );
  return {
    scales: kernels.transpose(q.scales, n, groups),
    zeroPoints: kernels.transpose(Float32Array.from(q.zeroPoints), n, groups),
  };
}

/** The nearest codes of a grid. */
export function roundToGrid(kernels: Kernels, { k, n, data }: Weights, grid: Grid, spec: GridSpec): Rounded {
  const codes = new Uint8Array(k * n);
  const errors = new Float32Array(k * n);
  for (let from = 0; from < k; from += STEP) {
    const count = Math.min(STEP, k - from);
    const groups = Int32Array.from({ length: count }, (_, j) => Math.floor((from + j) / spec.group));
    const result = kernels.roundWithFeedback({
      w: data.subarray(from * n, (from + count) * n),
      base: new Float32Array(count * n),
      count,
      n,
      feedback: new Float32Array(count * count),
      importance: new Float32Array(count),
      top: topOf(spec.bits),
      ...gridRows(grid, groups, n),
    });
    codes.set(result.codes, from * n);
    errors.set(result.errors, from * n);
  }
  return { codes, errors };
}

/** Only those rows of a grid that are used, and the rows' new numbers. */
export function gridRows(
  grid: Grid,
  groups: Int32Array,
  n: number,
): { groups: Int32Array; scales: Float32Array; zeroPoints: Float32Array } {
  const used = [...new Set(groups)];
  const scales = new Float32Array(used.length * n);
  const zeroPoints = new Float32Array(used.length * n);
  for (const [row, group] of used.entries()) {
    scales.set(grid.scales.subarray(group * n, (group + 1) * n), row * n);
    zeroPoints.set(grid.zeroPoints.subarray(group * n, (group + 1) * n), row * n);
  }
  const rowOf = new Map(used.map((group, row) => [group, row]));
  return { groups: groups.map((group) => rowOf.get(group) ?? 0), scales, zeroPoints };
}
