/** Which layers keep computing in floating point so that the activations that 8 bits hurt most stay whole. */
import { costOf } from "../../../analyse/cost.ts";
import type { Node } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import type { ChosenGrid } from "./effect-ranges.ts";
import { planQdq, type QdqPlan, type QdqPlanOptions } from "./qdq-plan.ts";

/** Activations with the largest effect that are looked at in each step. */
const WORST = 10;
/** A step must take this share of the error that is left, else what follows is not worth its time. */
const LEAST_GAIN = 0.02;
/** Share of the multiply-accumulates below which a layer counts as free of cost. */
const FREE = 1e-3;

/** Why a layer is not quantized. */
export const FLOAT = "the activations around it lose most by 8 bits";

/** By what a node is known in copies of a model: the name of its first output. */
export function nodeKey(node: Node): string {
  return node.outputs[0]?.name ?? node.name;
}

/** The plan without the nodes of the given keys. */
export function planWithout(model: Model, planning: QdqPlanOptions, floats: ReadonlySet<string>): QdqPlan {
  return planQdq(model, {
    ...planning,
    reasonToKeep: (node) => planning.reasonToKeep(node) ?? (floats.has(nodeKey(node)) ? FLOAT : undefined),
  });
}

/**
 * Keys of nodes to be left out of the plan, at most `share` of the model's multiply-accumulates in layers. An activation stays
 * whole where the node that makes it and those that read it do. Step by step one of the ten activations with the largest
 * effect on the outputs is taken, the one whose nodes save most of the error for their multiply-accumulates; effects add
 * up, so that what a set of nodes saves is known without trying it.
 */
export function floatLayers(
  model: Model,
  planning: QdqPlanOptions,
  effects: ReadonlyMap<string, ChosenGrid>,
  share: number,
): ReadonlySet<string> {
  const layers = costOf(model).layers;
  const total = layers.reduce((sum, { macs }) => sum + macs, 0);
  const macs = new Map(layers.map((layer) => [nodeKey(layer.node), layer.macs / Math.max(1, total)]));
  const all = planQdq(model, planning).linear.map(({ node }) => nodeKey(node));
  const stateOf = (floats: ReadonlySet<string>): State => {
    const plan = planWithout(model, planning, floats);
    const groups = new Set(
      Array.from(plan.groups.keys(), ({ name }) => effects.get(name)).filter((one) => one !== undefined),
    );
    const linear = new Set(plan.linear.map(({ node }) => nodeKey(node)));
    const cost = all.reduce((sum, key) => sum + (linear.has(key) ? 0 : (macs.get(key) ?? 0)), 0);
    return { floats, plan, groups, cost, error: [...groups].reduce((sum, { effect }) => sum + effect, 0) };
  };
  for (let now = stateOf(new Set()); ; ) {
    const worst = [...now.groups].sort((a, b) => b.effect - a.effect).slice(0, WORST);
    let best: { state: State; gain: number } | undefined;
    for (const group of worst) {
      const state = stateOf(new Set([...now.floats, ...around(now.plan, (name) => effects.get(name) === group)]));
      const saved = now.error - state.error;
      const gain = saved / Math.max(FREE, state.cost - now.cost);
      if (state.cost <= share && saved > LEAST_GAIN * now.error && gain > (best?.gain ?? 0)) best = { state, gain };
    }
    if (!best) return now.floats;
    now = best.state;
  }
}

interface State {
  readonly floats: ReadonlySet<string>;
  readonly plan: QdqPlan;
  readonly groups: ReadonlySet<ChosenGrid>;
  /** Share of the multiply-accumulates that is not quantized. */
  readonly cost: number;
  readonly error: number;
}

/** The planned nodes that make or read values of a group, through clamps that they absorb. */
function around(plan: QdqPlan, isOwn: (name: string) => boolean): string[] {
  return [...plan.nodes]
    .filter((node) => {
      const [output] = node.outputs;
      const absorbed = (output?.uses ?? []).flatMap(({ node: clamp }) => (plan.nodes.has(clamp) ? [] : clamp.outputs));
      const makes = [output, ...absorbed].some((value) => value && plan.results.has(value) && isOwn(value.name));
      return makes || node.inputs.some((input) => input && isOwn(input.name));
    })
    .map(nodeKey);
}
