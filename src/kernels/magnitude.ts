/** Exact selection by magnitude over tensors of any total size: radix selection on the bits of |w|, three passes. */
import type { Kernels, MagnitudeThreshold } from "./types.ts";

/**
 * The threshold that keeps exactly `keep` of all elements, the largest in magnitude; among equals the first ones met.
 * `tensors` is walked three times, in the same order each time (only histograms are held: 11 + 11 + 9 bits of |w|'s 31).
 * keep = 0 gives an infinite threshold, keep ≥ all elements one below 0. NaN counts as
 * larger than everything (masks keep it).
 */
export async function magnitudeThreshold(
  kernels: Kernels,
  tensors: () => AsyncIterable<Float32Array> | Iterable<Float32Array>,
  keep: number,
): Promise<MagnitudeThreshold> {
  if (keep <= 0) return { threshold: Infinity, ties: 0 };
  let above = 0; // elements known to be larger than everything under the prefix
  let prefix = 0; // the leading bits of the threshold's 31
  let equal = 0;
  for (const [shift, width] of [
    [20, 11],
    [9, 11],
    [0, 9],
  ] as const) {
    const counts = new Float64Array(2 ** width);
    for await (const tensor of tensors()) kernels.countMagnitudes(tensor, shift, prefix, counts);
    let field = counts.length - 1;
    while (field > 0 && above + (counts[field] as number) < keep) {
      above += counts[field] as number;
      field--;
    }
    equal = counts[field] as number;
    prefix = prefix * counts.length + field;
  }
  const threshold = new Float32Array(Uint32Array.of(prefix).buffer)[0] as number;
  return above + equal < keep ? { threshold: -1, ties: 0 } : { threshold, ties: keep - above };
}
