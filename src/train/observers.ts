/** Observers: ranges of simulated activations that follow the data for the first steps of a training, and then stay. */
import type { Graph, Node, Value } from "../ir/graph.ts";
import { add, div, mul, scalar, scale as scaled, type Site, sub } from "../ops/gradients/words.ts";
import { SIMULATED_DOMAIN } from "../ops/simulated.ts";
import type { StepState } from "./step-state.ts";

/** Share of the old range that each step keeps (Jacob et al. 2018 average over thousands of steps; here there are hundreds). */
const KEPT = 0.95;

/** A simulated activation whose scale, and offset where it has one, are found by watching. */
interface Observer {
  readonly node: Node;
  readonly scale: Value;
  readonly offset: Value | undefined;
}

export interface Observers {
  /** State that they change. */
  readonly state: readonly Value[];
  /** Adds what they do: `watching` (bool, fed) says whether ranges still move. */
  watch(s: Site, watching: Value): void;
}

/** Makes state of the ranges of every node that asks for it (`observed` 1); undefined where there is none. */
export function useObservers(graph: Graph, state: StepState): Observers | undefined {
  const found = new Map<Value, Observer[]>();
  for (const node of graph.nodes) {
    const [, scale, offset] = node.inputs;
    if (node.domain !== SIMULATED_DOMAIN || node.int("observed", 0) === 0 || !scale) continue;
    found.set(scale, [...(found.get(scale) ?? []), { node, scale, offset }]);
  }
  if (found.size === 0) return undefined;
  const values = [...found.values()].flatMap(([first]) => (first ? [first.scale, first.offset] : []));
  const owned = values.filter((value): value is Value => value !== undefined);
  for (const value of owned) state.adopt(value);
  return {
    state: owned,
    watch(s, watching) {
      for (const group of found.values()) follow(s, group, watching, state);
    },
  };
}

// [l, h] ← k·[l, h] + (1 − k)·[min(x, 0), max(x, 0)] over all data that shares the grid; s = (h − l)/n, z = −l/s
function follow(s: Site, group: readonly Observer[], watching: Value, state: StepState): void {
  const { node, scale, offset } = group[0] as Observer;
  const steps = node.int("high", 0) - node.int("low", 0);
  const zero = scalar(s, "float32", 0);
  const extreme = (kind: "Max" | "Min"): Value => {
    const ends = group.map((each) => s.b.op(`Reduce${kind}`, [each.node.inputs[0]], { attributes: { keepdims: 0 } }));
    return s.b.op(kind, [...ends, zero]);
  };
  const low = offset ? extreme("Min") : zero;
  const range = sub(s, extreme("Max"), low);
  const mix = (old: Value, now: Value): Value =>
    add(s, scaled(s, old, KEPT, "float32"), scaled(s, now, 1 - KEPT, "float32"));
  const least = scalar(s, "float32", 1e-8);
  const nextScale = s.b.op("Max", [mix(scale, scaled(s, range, 1 / steps, "float32")), least]);
  const where = (next: Value, old: Value): Value => s.b.op("Where", [watching, next, old]);
  state.link(scale, where(nextScale, scale));
  if (!offset) return;
  const nextLow = mix(mul(s, offset, scale), s.b.op("Neg", [low])); // −l
  const nextOffset = s.b.op("Clip", [div(s, nextLow, nextScale), zero, scalar(s, "float32", steps)]);
  state.link(offset, where(nextOffset, offset));
}
