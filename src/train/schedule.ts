/** Learning-rate schedules: the rate of each step as a function of how far training has come. */

export const SCHEDULES = ["constant", "step", "cosine"] as const;
export type ScheduleName = (typeof SCHEDULES)[number];

export interface ScheduleOptions {
  /** constant; step: times `decay` after each of `milestones`; cosine: half a cosine down to zero. Default "cosine". */
  readonly schedule?: ScheduleName | undefined;
  /** Share of all steps during which the rate rises linearly from near zero; default 0. */
  readonly warmup?: number | undefined;
  /** Shares of all steps after which a step schedule drops; default [0.5, 0.75]. */
  readonly milestones?: readonly number[] | undefined;
  /** Factor of each drop; default 0.1. */
  readonly decay?: number | undefined;
}

/**
 * Learning rate of step `step` (from 0) of `steps`. With t = share done after the warm-up:
 * cosine ½·base·(1 + cos πt) (Loshchilov and Hutter 2017), step base·decay^(milestones passed).
 */
export function learningRateAt(step: number, steps: number, base: number, options: ScheduleOptions = {}): number {
  const { schedule = "cosine", warmup = 0, milestones = [0.5, 0.75], decay = 0.1 } = options;
  const rising = Math.round(warmup * steps);
  if (step < rising) return (base * (step + 1)) / rising;
  const t = (step - rising) / Math.max(1, steps - rising);
  switch (schedule) {
    case "constant":
      return base;
    case "cosine":
      return 0.5 * base * (1 + Math.cos(Math.PI * t));
    case "step":
      return base * decay ** milestones.filter((milestone) => step / steps >= milestone).length;
  }
}
