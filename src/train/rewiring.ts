/** Dynamic sparse training: between steps, the least of the weights that a layer has give their places to others. */
import { Rng } from "../base/rng.ts";
import type { NdArray, Resident } from "../run/session.ts";

export interface Rewiring {
  /** What tells where weights appear: the size of the gradient (RigL), or chance (SET). */
  readonly grow: "gradient" | "random";
  /** Share of a layer's weights that move at first; it falls to 0 along half a cosine. */
  readonly share: number;
  /** Steps between two moves. */
  readonly every: number;
  /** Share of all steps after which nothing moves any more. */
  readonly until: number;
}

/** States of a weight whose zeros move, by their names. */
export interface RewiredState {
  /** 1 where the weight may be, 0 where it is held at zero. */
  readonly mask: string;
  /** Gradient of the last step, zeros included. */
  readonly gradient: string;
  /** The optimizer's. */
  readonly slots: readonly string[];
}

/** α/2·(1 + cos(πt/T)) at step t of T = `until`·`steps`, 0 from there on (Evci et al. 2020, arXiv 1911.11134, section 3). */
export function movedShare({ share, until }: Rewiring, step: number, steps: number): number {
  const end = until * steps;
  return step >= end ? 0 : (share / 2) * (1 + Math.cos((Math.PI * step) / end));
}

/**
 * The mask after `count` of the places that are taken were given up, those of the smallest |w|, and as many were taken, those of
 * the largest score among all that were free then (of equal ones the first). What was given up may be taken again.
 */
export function moved(weights: Float32Array, mask: Float32Array, scores: Float32Array, count: number): Float32Array {
  const next = mask.slice();
  const taken = (i: number): boolean => mask[i] === 1;
  for (const i of smallest(weights.map(Math.abs), taken, count)) next[i] = 0;
  const kept = next.slice();
  const free = (i: number): boolean => kept[i] === 0;
  for (const i of smallest(
    scores.map((score) => -score),
    free,
    count,
  ))
    next[i] = 1;
  return next;
}

/** Positions of the `count` smallest values among those that are eligible; ties in order. */
function smallest(values: Float32Array, eligible: (i: number) => boolean, count: number): number[] {
  const candidates = values.filter((_, i) => eligible(i)).sort();
  const most = Math.min(count, candidates.length);
  if (most === 0) return [];
  const threshold = candidates[most - 1] as number;
  let ties = most - candidates.findIndex((value) => value === threshold);
  const found: number[] = [];
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (!eligible(i) || value > threshold) continue;
    if (value < threshold || ties-- > 0) found.push(i);
  }
  return found;
}

/**
 * Moves weights of every layer after a step, in the engine's state: masks change, weights that appear or go are zero, and what
 * the optimizer remembers of them is forgotten. Does nothing between two moves. The same seed and step move the same.
 */
export async function rewire(
  resident: Resident,
  layers: ReadonlyMap<string, RewiredState>,
  rewiring: Rewiring,
  at: { readonly step: number; readonly steps: number; readonly seed: number },
): Promise<void> {
  const share = movedShare(rewiring, at.step, at.steps);
  if (at.step % rewiring.every !== 0 || share === 0) return;
  for (const [name, { mask, gradient, slots }] of layers) {
    const state = await resident.read([name, mask, gradient, ...slots]);
    const data = (key: string): Float32Array => state[key]?.data as Float32Array;
    const old = data(mask);
    const count = Math.round(share * old.reduce((sum, each) => sum + each, 0));
    const rng = new Rng(at.seed).fork(`rewire ${at.step} ${name}`);
    const scores = data(gradient).map((g) => (rewiring.grow === "gradient" ? Math.abs(g) : rng.uniform()));
    const next = moved(data(name), old, scores, count);
    const changed = (values: Float32Array): Float32Array =>
      values.map((w, i) => (old[i] === 1 && next[i] === 1 ? w : 0));
    const put = (key: string, values: Float32Array): [string, NdArray] => [
      key,
      { ...(state[key] as NdArray), data: values },
    ];
    await resident.write(
      Object.fromEntries([put(mask, next), ...[name, ...slots].map((key) => put(key, changed(data(key))))]),
    );
  }
}
