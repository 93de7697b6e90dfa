/** Where the error enters: what a comparison of two models says, value by value, and how it is written as a table. */

/** How far one value of the candidate is from the reference's, over all samples. */
export interface ValueError {
  /** Signal to quantization noise ratio, 10·log10(Σy² / Σ(ŷ−y)²); Infinity when equal. */
  readonly sqnrDb: number;
  /** Cosine of the angle between both, Σyŷ / (‖y‖·‖ŷ‖). */
  readonly cosine: number;
  /** ‖ŷ − y‖ / ‖y‖. */
  readonly relativeError: number;
  readonly maxAbsError: number;
}

/** One value that both models compute. */
export interface ValueComparison {
  /** Place in the reference's order of computation, from 0. */
  readonly index: number;
  /** The value's name in the reference and, where it differs, in the candidate. */
  readonly name: string;
  readonly candidateName: string;
  /** The node that computes it in the reference; where several were folded into one, the first. */
  readonly node: string;
  /** Its operator; "Conv+BatchNormalization" where several were folded into one. */
  readonly op: string;
  /** How the two were paired. */
  readonly matchedBy: "name" | "node" | "position" | "fused";
  /** Everything before it compressed too. */
  readonly accumulated: ValueError;
  /** What this layer adds when it is fed the reference's values; undefined where it could not be cut out. */
  readonly local?: ValueError | undefined;
}

/** The answer of `compareModels`. */
export interface Comparison {
  readonly samples: number;
  readonly inputs: "data" | "synthetic";
  /** In the reference's order of computation. */
  readonly values: readonly ValueComparison[];
  /** The model's outputs, as a user sees them. */
  readonly outputs: readonly (ValueError & { readonly name: string })[];
  /** Values of the reference that the candidate does not have, with the reason. */
  readonly unmatched: readonly { readonly name: string; readonly op: string; readonly why: string }[];
}

/** Sums from which a {@link ValueError} follows; batches are added one by one, in double precision. */
export class ErrorSums {
  #reference = 0;
  #candidate = 0;
  #product = 0;
  #difference = 0;
  #max = 0;

  /** Adds the elements of one batch. NaN or infinite elements make the error infinite, never silent. */
  add(reference: ArrayLike<number>, candidate: ArrayLike<number>): void {
    let y2 = 0;
    let z2 = 0;
    let yz = 0;
    let d2 = 0;
    let max = this.#max;
    for (let i = 0; i < reference.length; i++) {
      const y = reference[i] as number;
      const z = candidate[i] as number;
      const d = z - y;
      y2 += y * y;
      z2 += z * z;
      yz += y * z;
      d2 += d * d;
      const size = Math.abs(d);
      if (size > max || Number.isNaN(size)) max = size;
    }
    this.#reference += y2;
    this.#candidate += z2;
    this.#product += yz;
    this.#difference += d2;
    this.#max = max;
  }

  /** ‖ŷ − y‖ / ‖y‖; Infinity when the reference is zero and the candidate is not, or either is not finite. */
  get relativeError(): number {
    if (this.#difference === 0) return 0;
    const ratio = Math.sqrt(this.#difference / this.#reference);
    return Number.isNaN(ratio) ? Number.POSITIVE_INFINITY : ratio;
  }

  get result(): ValueError {
    const relativeError = this.relativeError;
    const norms = Math.sqrt(this.#reference * this.#candidate);
    const cosine = this.#difference === 0 ? 1 : norms > 0 ? this.#product / norms : 0;
    return {
      sqnrDb: relativeError === 0 ? Number.POSITIVE_INFINITY : -20 * Math.log10(relativeError),
      cosine: Number.isFinite(cosine) ? Math.max(-1, Math.min(1, cosine)) : 0,
      relativeError,
      maxAbsError: Number.isNaN(this.#max) ? Number.POSITIVE_INFINITY : this.#max,
    };
  }
}

/** Values by error, worst first: by what each layer adds where that is known, else by what has come together there. */
export function worstFirst(comparison: Comparison): ValueComparison[] {
  const score = (value: ValueComparison): number => (value.local ?? value.accumulated).relativeError;
  return [...comparison.values].sort((a, b) => score(b) - score(a) || a.index - b.index);
}

/** The comparison as an aligned text table. `order`: "worst" first (default) or "graph" order; `top`: only so many rows. */
export function comparisonTable(
  comparison: Comparison,
  options: { readonly order?: "worst" | "graph"; readonly top?: number } = {},
): string {
  const ordered = options.order === "graph" ? [...comparison.values] : worstFirst(comparison);
  const shown = ordered.slice(0, options.top ?? ordered.length);
  const rows = [
    ["layer", "op", "added", "so far", "SQNR dB", "cosine"],
    ...shown.map((value) => [
      value.node,
      value.op,
      value.local ? percent(value.local.relativeError) : "-",
      percent(value.accumulated.relativeError),
      decibels(value.accumulated.sqnrDb),
      value.accumulated.cosine.toFixed(5),
    ]),
  ];
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) => (column < 2 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join("  ")
      .trimEnd(),
  );
  const hidden = ordered.length - shown.length;
  if (hidden > 0) lines.push(`… ${hidden} more`);
  for (const output of comparison.outputs)
    lines.push(
      `output ${output.name}: relative error ${percent(output.relativeError)}, SQNR ${decibels(output.sqnrDb)} dB, ` +
        `cosine ${output.cosine.toFixed(5)}, largest difference ${output.maxAbsError.toPrecision(3)}`,
    );
  const kind = comparison.inputs === "data" ? "samples" : "synthetic samples";
  lines.push(
    `${comparison.values.length} values compared on ${comparison.samples} ${kind}` +
      (comparison.unmatched.length > 0 ? `, ${comparison.unmatched.length} without a counterpart` : ""),
  );
  return lines.join("\n");
}

/** The comparison as JSON; infinities, which JSON lacks, become null. */
export function comparisonJson(comparison: Comparison): string {
  return JSON.stringify(
    comparison,
    (_, value: unknown) => (typeof value === "number" && !Number.isFinite(value) ? null : value),
    2,
  );
}

function percent(share: number): string {
  if (share === 0) return "0";
  if (!Number.isFinite(share)) return "inf";
  const value = share * 100;
  return `${value >= 9.95 ? value.toFixed(1) : value >= 0.01 ? value.toPrecision(2) : value.toExponential(1)} %`;
}

function decibels(value: number): string {
  return Number.isFinite(value) ? value.toFixed(1) : value > 0 ? "exact" : "-inf";
}
