/** Learning-rate schedules: the rate of each step as a function of how far training has come. */

export const SCHEDULES = ["constant", "step", "cosine", "linear", "one-cycle"] as const;
export type ScheduleName = (typeof SCHEDULES)[number];

export interface ScheduleOptions {
  /**
   * constant; step: times `decay` after each of `milestones`; cosine: half a cosine down to the lowest rate; linear: a
   * straight line down to it; one-cycle: up from a 25th of the rate and down to a 10,000th, both along half a cosine.
   * Default "cosine".
   */
  readonly schedule?: ScheduleName | undefined;
  /** Share of all steps during which the rate rises (linearly from near zero); default 0, of one-cycle 0.3. */
  readonly warmup?: number | undefined;
  /** Shares of all steps after which a step schedule drops; default [0.5, 0.75]. */
  readonly milestones?: readonly number[] | undefined;
  /** Factor of each drop; default 0.1. */
  readonly decay?: number | undefined;
  /** Lowest rate after the warm-up, as a share of the highest; default 0. */
  readonly minimumRate?: number | undefined;
}

const ONE_CYCLE = { first: 1 / 25, last: 1e-4, rising: 0.3 }; // Smith and Topin 2018, as PyTorch has it

/** From a to b along half a cosine, t in 0..1. */
function swing(a: number, b: number, t: number): number {
  return b + 0.5 * (a - b) * (1 + Math.cos(Math.PI * t));
}

/**
 * Learning rate of step `step` (from 0) of `steps`. With t = share done after the warm-up and m the lowest rate:
 * cosine m + ½(base − m)(1 + cos πt) (Loshchilov and Hutter 2017), linear base − t(base − m),
 * step base·decay^(milestones passed), never below m.
 */
export function learningRateAt(step: number, steps: number, base: number, options: ScheduleOptions = {}): number {
  const { schedule = "cosine", milestones = [0.5, 0.75], decay = 0.1 } = options;
  const cycle = schedule === "one-cycle";
  const rising = Math.round((options.warmup ?? (cycle ? ONE_CYCLE.rising : 0)) * steps);
  if (step < rising) return cycle ? swing(base * ONE_CYCLE.first, base, step / rising) : (base * (step + 1)) / rising;
  const t = (step - rising) / Math.max(1, steps - rising);
  const lowest = base * (options.minimumRate ?? 0);
  switch (schedule) {
    case "constant":
      return base;
    case "cosine":
      return swing(base, lowest, t);
    case "linear":
      return base - t * (base - lowest);
    case "one-cycle":
      return swing(base, Math.max(lowest, base * ONE_CYCLE.last), t);
    case "step":
      return Math.max(lowest, base * decay ** milestones.filter((milestone) => step / steps >= milestone).length);
  }
}
