/**
 * The multiple-choice knapsack, solved exactly: one choice from each class, least loss within a budget of cost.
 *
 * min Σ_i loss(i, c_i)  subject to  Σ_i cost(i, c_i) ≤ budget
 *
 * Classes are added one by one to a list of partial solutions of which none is both dearer and worse than another (Nemhauser and
 * Ullmann 1969). A partial solution is dropped when even the linear relaxation of the classes that are left (their convex hulls,
 * steepest steps first; Sinha and Zoltners 1979) does not bring it below the best solution known. Costs and losses are any numbers.
 */
import { PareError } from "../../base/error.ts";

export interface Choice {
  readonly cost: number;
  readonly loss: number;
}

export interface KnapsackSolution {
  /** Index of the chosen one in each class. */
  readonly chosen: readonly number[];
  readonly cost: number;
  readonly loss: number;
}

/** Partial solutions held at once; more than any real model has needed. */
const MOST_STATES = 4_000_000;
/** Rounding of sums: states that differ by less are equal. */
const TOLERANCE = 1e-12;

interface Item extends Choice {
  readonly index: number;
}

interface State {
  readonly cost: number;
  readonly loss: number;
  readonly item: number;
  readonly before: State | undefined;
}

/** One step down the hull of a class: so much loss less for so much cost more. */
interface Increment {
  readonly cost: number;
  readonly gain: number;
}

/** The choice of each class; undefined when even the cheapest do not fit. Throws `bad-option` for a class without choices. */
export function solveKnapsack(classes: readonly (readonly Choice[])[], budget: number): KnapsackSolution | undefined {
  const fronts = classes.map((choices) => frontOf(choices));
  // Those whose choices differ most come first: the bound is sharp where little is left to choose.
  const order = fronts
    .map((front, index) => ({ index, spread: (front.at(-1)?.cost ?? 0) - (front[0]?.cost ?? 0) }))
    .sort((a, b) => b.spread - a.spread || a.index - b.index)
    .map(({ index }) => index);
  const relaxed = suffixBounds(order.map((index) => fronts[index] as readonly Item[]));
  const slack = TOLERANCE * (Math.abs(budget) + 1);
  const start = relaxed[0] as Relaxation;
  if (start.cost > budget + slack) return undefined;
  let best = start.greedy(budget + slack);
  let states: State[] = [{ cost: 0, loss: 0, item: 0, before: undefined }];
  for (const [step, index] of order.entries()) {
    const rest = relaxed[step + 1] as Relaxation;
    states = extended(states, fronts[index] as readonly Item[]).filter((state) => {
      const left = budget + slack - state.cost;
      if (left < rest.cost) return false;
      best = Math.min(best, state.loss + rest.greedy(left));
      return state.loss + rest.bound(left) <= best + TOLERANCE * (Math.abs(best) + 1);
    });
    if (states.length > MOST_STATES)
      throw new PareError("unsupported", "Too many choices to be solved exactly", {
        found: `${states.length} partial solutions`,
        help: "Try fewer formats",
      });
  }
  // The cheapest of the best.
  const found = states.reduce<State | undefined>(
    (least, state) => (!least || state.loss < least.loss - TOLERANCE * (Math.abs(least.loss) + 1) ? state : least),
    undefined,
  );
  if (!found) return undefined;
  const chosen = classes.map(() => 0);
  let state: State | undefined = found;
  for (const index of order.toReversed()) {
    chosen[index] = state?.item ?? 0;
    state = state?.before;
  }
  const sum = (pick: (choice: Choice) => number): number =>
    classes.reduce((total, choices, index) => total + pick(choices[chosen[index] as number] as Choice), 0);
  return { chosen, cost: sum(({ cost }) => cost), loss: sum(({ loss }) => loss) };
}

/** Choices of which none is both dearer and worse than another, cheapest first; those without a finite loss are left out. */
function frontOf(choices: readonly Choice[]): Item[] {
  const items = choices
    .map((choice, index) => ({ ...choice, index }))
    .filter(({ cost, loss }) => Number.isFinite(cost) && Number.isFinite(loss))
    .sort((a, b) => a.cost - b.cost || a.loss - b.loss);
  if (items.length === 0)
    throw new PareError("bad-option", "A layer has no format that works", { help: "Allow 'float' among the formats" });
  const front: Item[] = [];
  for (const item of items) if (item.loss < (front.at(-1)?.loss ?? Number.POSITIVE_INFINITY)) front.push(item);
  return front;
}

/** Every state with every item, merged by cost, without those that are dearer and no better. Both lists are sorted by cost. */
function extended(states: readonly State[], items: readonly Item[]): State[] {
  const all = items.flatMap((item) =>
    states.map((before) => ({
      cost: before.cost + item.cost,
      loss: before.loss + item.loss,
      item: item.index,
      before,
    })),
  );
  all.sort((a, b) => a.cost - b.cost || a.loss - b.loss);
  const kept: State[] = [];
  let least = Number.POSITIVE_INFINITY;
  for (const state of all) {
    if (state.loss >= least) continue;
    least = state.loss;
    kept.push(state);
  }
  return kept;
}

/** The linear relaxation of some classes, for any budget. */
class Relaxation {
  /** Of the cheapest choices. */
  readonly cost: number;
  readonly #loss: number;
  /** Costs and gains of the first k increments, steepest first. */
  readonly #costs: Float64Array;
  readonly #gains: Float64Array;

  constructor(fronts: readonly (readonly Item[])[], increments: readonly Increment[]) {
    this.cost = fronts.reduce((sum, front) => sum + (front[0]?.cost ?? 0), 0);
    this.#loss = fronts.reduce((sum, front) => sum + (front[0]?.loss ?? 0), 0);
    this.#costs = new Float64Array(increments.length + 1);
    this.#gains = new Float64Array(increments.length + 1);
    for (const [k, { cost, gain }] of increments.entries()) {
      this.#costs[k + 1] = (this.#costs[k] as number) + cost;
      this.#gains[k + 1] = (this.#gains[k] as number) + gain;
    }
  }

  /** No choice within the budget has less loss: steps are taken until it is used up, the last one in part. */
  bound(budget: number): number {
    const k = this.#whole(budget);
    const left = budget - this.cost - (this.#costs[k] as number);
    const next = k + 1 < this.#costs.length ? k + 1 : undefined;
    const part = next === undefined ? 0 : left / ((this.#costs[next] as number) - (this.#costs[k] as number));
    const gain = next === undefined ? 0 : (this.#gains[next] as number) - (this.#gains[k] as number);
    return this.#loss - (this.#gains[k] as number) - part * gain;
  }

  /** The loss of a choice within the budget: whole steps only. A step follows those of its class, which are steeper. */
  greedy(budget: number): number {
    return this.#loss - (this.#gains[this.#whole(budget)] as number);
  }

  /** Number of whole steps that the budget pays for. */
  #whole(budget: number): number {
    let [low, high] = [0, this.#costs.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.cost + (this.#costs[middle] as number) <= budget) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** Relaxations of the classes from each place to the last; behind the last one of no class. */
function suffixBounds(fronts: readonly (readonly Item[])[]): Relaxation[] {
  const hulls = fronts.map(incrementsOf);
  return Array.from({ length: fronts.length + 1 }, (_, from) => {
    const increments = hulls.slice(from).flat();
    // Stable: equal steps of one class keep their order.
    increments.sort((a, b) => b.gain / b.cost - a.gain / a.cost);
    return new Relaxation(fronts.slice(from), increments);
  });
}

/** Steps along the lower convex hull of (cost, loss), steepest first. */
function incrementsOf(front: readonly Item[]): Increment[] {
  const hull: Item[] = [];
  const slope = (a: Item, b: Item): number => (a.loss - b.loss) / (b.cost - a.cost);
  for (const item of front) {
    for (;;) {
      const [before, last] = [hull.at(-2), hull.at(-1)];
      if (!before || !last || slope(before, last) > slope(last, item)) break;
      hull.pop();
    }
    hull.push(item);
  }
  return hull.slice(1).map((item, k) => {
    const before = hull[k] as Item;
    return { cost: item.cost - before.cost, gain: before.loss - item.loss };
  });
}
