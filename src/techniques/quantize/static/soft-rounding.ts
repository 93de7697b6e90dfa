/**
 * Rounding as something to learn: each code is ⌊W/s⌋ plus a share h(V) between 0 and 1, which a pull drives to one of both in the end
 * (AdaRound, Nagel et al. 2020, arXiv 2004.10568).
 */
import type { Value } from "../../../ir/graph.ts";
import { Tensor } from "../../../ir/tensor.ts";
import { add, mul, scalar, scale, type Site, sub } from "../../../ops/gradients/words.ts";
import { abs } from "../../../train/losses/words.ts";
import type { LinearCodes } from "./linear-weights.ts";
import type { StoredLayer } from "./stored-layer.ts";

/** Stretch of the sigmoid, so that h reaches 0 and 1: h = clip(σ(V)(ζ − γ) + γ, 0, 1), γ = −0.1, ζ = 1.1. */
const [GAMMA, ZETA] = [-0.1, 1.1];
/** Share of the steps without the pull towards 0 and 1; its exponent then falls from 20 to 2. */
const WARM_UP = 0.2;
const [FIRST_BETA, LAST_BETA] = [20, 2];
/**
 * Weight of the pull, relative to the unit's error before, spread over its weights: enough to settle all of them by the end. With 1,
 * a third of a depthwise layer's weights stayed between two codes, and its error was four times larger once they were rounded.
 */
const PULL = 1000;
/** Adam moves a number by about the rate in each step: V has this way to go, in whatever number of steps. */
const WAY = 15;
const MOST_RATE = 0.1;

/** β and the weight of the pull at a share of the steps. */
export function annealing(progress: number): { readonly beta: number; readonly pull: number } {
  const cold = Math.max(0, (progress - WARM_UP) / (1 - WARM_UP));
  const beta = LAST_BETA + (FIRST_BETA - LAST_BETA) * 0.5 * (1 + Math.cos(Math.PI * cold));
  return { beta, pull: progress < WARM_UP ? 0 : PULL };
}

/** Rate of V over so many steps. */
export function roundingRate(steps: number): number {
  return Math.min(MOST_RATE, WAY / steps);
}

/** 1 − |2h − 1|^β: 0 where a weight is settled. */
export function openness(s: Site, share: Value, beta: Value): Value {
  const distance = abs(s, sub(s, scale(s, share, 2, "float32"), scalar(s, "float32", 1)));
  return sub(s, scalar(s, "float32", 1), s.b.op("Pow", [distance, beta]));
}

export interface Soft {
  readonly weight: Value;
  readonly rounding: Value;
  /** h(V). */
  readonly share: Value;
}

/**
 * s·clip(⌊W/s⌋ + h(V), low, high), with V such that h is what W lies above ⌊W/s⌋, moved by the share `lean` towards
 * what the present codes lie above it. `scales` stands for s where that is learned too.
 */
export function softWeight(
  s: Site,
  stored: StoredLayer,
  { weights, low, high }: Pick<LinearCodes, "weights" | "low" | "high">,
  lean = 0,
  scales: Value = s.b.constant("scales", Tensor.float32(stored.scaleShape, stored.scales)),
): Soft {
  const { shape } = stored;
  const floors = weights.map((w, at) => Math.floor(w / stored.scaleAt(at)));
  const open = weights.map((w, at) => {
    const exact = w / stored.scaleAt(at) - (floors[at] as number);
    const chosen = Math.min(1, Math.max(0, (stored.codes[at] as number) - (floors[at] as number)));
    const rest = Math.min(0.999, Math.max(0.001, exact + lean * (chosen - exact)));
    const sigmoid = (rest - GAMMA) / (ZETA - GAMMA);
    return Math.log(sigmoid / (1 - sigmoid));
  });
  const rounding = s.b.constant("rounding", Tensor.float32(shape, open));
  const number = (value: number): Value => scalar(s, "float32", value);
  const stretched = add(s, scale(s, s.b.op("Sigmoid", [rounding]), ZETA - GAMMA, "float32"), number(GAMMA));
  const share = s.b.op("Clip", [stretched, number(0), number(1)]);
  const base = s.b.constant("floors", Tensor.float32(shape, floors));
  const codes = s.b.op("Clip", [add(s, base, share), number(low), number(high)]);
  return { weight: mul(s, codes, scales), rounding, share };
}

export function hardCodes(
  stored: StoredLayer,
  { weights, low, high }: Pick<LinearCodes, "weights" | "low" | "high">,
  rounding: Float32Array,
): Int8Array {
  return Int8Array.from(weights, (w, at) => {
    const up = 1 / (1 + Math.exp(-(rounding[at] ?? 0))) >= 0.5 ? 1 : 0; // σ ≥ ½ is h ≥ ½
    return Math.min(high, Math.max(low, Math.floor(w / stored.scaleAt(at)) + up));
  });
}
