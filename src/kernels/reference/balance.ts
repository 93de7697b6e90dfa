/** Rounding whose errors cancel, in plain TypeScript: the oracle of the kernel. */

/**
 * Moves integers q (in place; all in [low, high]) by one step so that the errors e = q − w/s of every run of `kernel`
 * elements, and then of all, add up to within half a step: of the elements whose error has the sum's sign, the ⌊|Σ e|⌉ with
 * the largest errors go one step the other way. The least change of Σ e² that does so; an operator whose inputs have a mean
 * far from zero keeps its mean output. SQuant's kernel-wise and channel-wise flips (Guo et al. 2022, arXiv 2202.07471).
 */
export function balanceCodes(
  w: Float32Array,
  q: Float32Array,
  s: number,
  low: number,
  high: number,
  kernel: number,
): void {
  const errors = q.map((code, i) => code - Math.fround((w[i] as number) / s));
  const balanceRun = (from: number, to: number): void => {
    let total = 0;
    for (let i = from; i < to; i++) total += errors[i] as number;
    const sign = total > 0 ? 1 : -1;
    for (let flips = roundHalfEven(Math.abs(total)); flips > 0; flips--) {
      let best = -1;
      let largest = 0;
      for (let i = from; i < to; i++) {
        const e = (errors[i] as number) * sign;
        const moved = (q[i] as number) - sign;
        if (e <= largest || moved < low || moved > high) continue;
        [best, largest] = [i, e];
      }
      if (best < 0) return;
      q[best] = (q[best] as number) - sign;
      errors[best] = (q[best] as number) - Math.fround((w[best] as number) / s);
    }
  };
  if (kernel > 1 && kernel < q.length)
    for (let from = 0; from < q.length; from += kernel) balanceRun(from, Math.min(from + kernel, q.length));
  balanceRun(0, q.length);
}

function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  return x - down === 0.5 ? down + (down % 2) : Math.round(x);
}
