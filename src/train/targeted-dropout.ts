/** Targeted dropout: while a network learns, the least of its weights are dropped at random, so that it learns not to need them. */
import { Builder } from "../ir/builder.ts";
import type { Graph, Value } from "../ir/graph.ts";
import { Tensor } from "../ir/tensor.ts";
import { scalar, scale } from "../ops/gradients/words.ts";
import type { NdArray, Resident } from "../run/session.ts";
import type { StepState } from "./step-state.ts";

export interface TargetedDropout {
  /** Names of the weights that it is on. */
  readonly weights: ReadonlySet<string>;
  /** Share of each weight's elements that may be dropped: those of the smallest |w|. */
  readonly share: number;
  /** How often each of them is, from 0 and below 1. */
  readonly rate: number;
}

/** Steps after which the sizes that are targeted are found anew: weights change places slowly, and sorting them costs as much as a step. */
const EVERY = 20;

/** τ, the size below which the smallest `share` of the weights lies. */
export function targetSize(weights: Float32Array, share: number): number {
  const count = Math.round(share * weights.length);
  return count === 0 ? -1 : (weights.map(Math.abs).sort()[count - 1] as number);
}

/**
 * Whatever reads one of these weights reads w·[|w| > τ or u ≥ α] instead, u uniform at each step and element (Gomez et al. 2019,
 * arXiv 1905.13678). Gradients pass where the weight did. `first`: τ at the beginning. Returns the state that holds τ, by weight.
 */
export function targetDropout(
  graph: Graph,
  opset: number,
  state: StepState,
  weights: readonly Value[],
  { rate }: TargetedDropout,
  first: ReadonlyMap<string, number>,
): Map<string, string> {
  const thresholds = new Map<string, string>();
  const [before] = graph.nodes;
  const s = { b: new Builder(graph, { prefix: "train/", ...(before ? { before } : {}) }), opset };
  for (const w of weights) {
    const size = first.get(w.name);
    if (size === undefined) continue;
    const uses = [...w.uses];
    const threshold = state.add(`${w.name}/threshold`, [], Tensor.float32([], [size]));
    const low = s.b.op("LessOrEqual", [s.b.op("Abs", [w]), threshold]);
    const dropped = s.b.op("Dropout", [
      w,
      scalar(s, "float32", rate),
      s.b.constant("on", Tensor.of("bool", [], Uint8Array.of(1))),
    ]);
    [dropped.dtype, dropped.shape] = ["float32", w.shape];
    const left = s.b.op("Where", [low, scale(s, dropped, 1 - Math.fround(rate), "float32"), w]); // Dropout divides by 1 − α
    [left.dtype, left.shape] = ["float32", w.shape];
    for (const { node, index } of uses) node.setInput(index, left);
    thresholds.set(w.name, threshold.name);
  }
  return thresholds;
}

/** Finds the sizes anew after every so many steps, in the engine's state. */
export async function retarget(
  resident: Resident,
  thresholds: ReadonlyMap<string, string>,
  { share }: TargetedDropout,
  step: number,
): Promise<void> {
  if (step % EVERY !== 0) return;
  for (const [name, threshold] of thresholds) {
    const weights = (await resident.read([name]))[name]?.data as Float32Array;
    const size: NdArray = { dtype: "float32", shape: [], data: Float32Array.of(targetSize(weights, share)) };
    await resident.write({ [threshold]: size });
  }
}
