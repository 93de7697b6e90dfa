/** Formats that hold on the real metric: solutions are built and judged, and where errors do not add up the worst layers move up. */
import { costOf as costOfModel } from "../../analyse/cost.ts";
import type { Probe } from "../../evaluate/probe.ts";
import type { Model } from "../../ir/model.ts";
import {
  type Allowed,
  type Assignment,
  type Problem,
  type Resource,
  type Solution,
  leastCost,
  leastDamage,
  uniform,
  worstOf,
} from "./assign.ts";
import { type Cell, damageOf } from "./sensitivity.ts";
import { type CellFormat, type VariantMaker, bitsOf, encodedBytes } from "./variant.ts";

/** A solution that was built and judged. */
export interface Trial extends Solution {
  /** Damage of all layers together. */
  readonly measured: number;
  /** What it really takes of the resource. */
  readonly used: number;
}

export interface SearchParts {
  readonly problem: Problem;
  /** Measure by which solutions are judged. */
  readonly measure: string;
  readonly resource: Resource;
  readonly maker: VariantMaker;
  readonly probe: Probe;
  /** Solutions that may be judged beyond the first. */
  readonly repairs: number;
  /** Times that all layers may be measured again among the others. */
  readonly rounds: number;
  onTrial(done: number): void;
}

/** Recipe, version and fingerprint that the runner writes into the file. */
export const STAMP_BYTES = 1024;
/** Seconds of timing for one variant. */
export const TIMING_SECONDS = 0.4;
/** Sums of single damages that miss the measured one by less are good enough. */
const AGREES = 1.1;
/** Rounds in which the budget is corrected by what single costs leave out. */
const FITTING_ROUNDS = 5;

/** What was found within a budget. */
export interface Fitted {
  readonly best: Trial;
  /** The first solution, before repairs. */
  readonly first: Trial;
  /** The best one with the same format everywhere that keeps the limit too. */
  readonly uniform: (Trial & { readonly format: CellFormat }) | undefined;
  readonly repairs: number;
}

export class FormatSearch {
  readonly #parts: SearchParts;
  readonly #trials = new Map<string, Trial>();

  constructor(parts: SearchParts) {
    this.#parts = parts;
  }

  /** The least damage with at most `limit` of the resource (in its own unit); undefined when no choice of formats keeps it. */
  async withinBudget(limit: number, formats: readonly CellFormat[]): Promise<Fitted | undefined> {
    const { problem, repairs, rounds } = this.#parts;
    const solution = await this.#fit(limit);
    if (!solution) return undefined;
    const first = await this.judge(solution);
    let best = first;
    let plain: Fitted["uniform"];
    for (const format of formats) {
      const same = uniform(problem, format);
      const built = await this.#build(same);
      if (!built || built.used > limit) continue;
      const trial = await this.judge(same);
      if (trial.measured < (plain?.measured ?? Number.POSITIVE_INFINITY)) plain = { ...trial, format };
    }
    if (plain && plain.measured < best.measured) best = plain;
    let done = 0;
    let seen = problem;
    for (let round = 0; round < rounds && best.measured > AGREES * best.damage; round++) {
      seen = await this.#amongOthers(best);
      const next = await this.#fit(limit, undefined, seen);
      if (!next || this.#trials.has(keyOf(next.assignment))) break;
      done++;
      const trial = await this.judge(next);
      if (trial.measured >= best.measured) break;
      best = trial;
    }
    const least = new Map<string, number>();
    const tried = new Set<string>();
    while (done < repairs && best.measured > AGREES * best.damage) {
      const worst = worstOf(seen, best.assignment).find(({ layer }) => !tried.has(layer));
      if (!worst) break;
      tried.add(worst.layer);
      const floor = new Map(least).set(worst.layer, bitsOf(worst.format) + 1);
      const isHigh: Allowed = (layer, format) => bitsOf(format) >= (floor.get(layer) ?? 0);
      const next = await this.#fit(limit, isHigh, seen);
      if (!next || this.#trials.has(keyOf(next.assignment))) continue;
      done++;
      const trial = await this.judge(next);
      if (trial.measured >= best.measured) continue;
      best = trial;
      least.set(worst.layer, bitsOf(worst.format) + 1);
      tried.clear();
    }
    return { best, first, uniform: plain, repairs: done };
  }

  /** The least cost at a measured damage of at most `drop`; undefined when nothing but floating point keeps it. */
  async withinDrop(drop: number): Promise<Fitted | undefined> {
    const { problem, repairs } = this.#parts;
    let [below, above] = [0, Number.POSITIVE_INFINITY];
    let room = drop;
    let best: Trial | undefined;
    let first: Trial | undefined;
    for (let done = 0; done <= repairs; done++) {
      const solution = leastCost(problem, room);
      if (!solution) break;
      const known = this.#trials.has(keyOf(solution.assignment));
      const trial = await this.judge(solution);
      first ??= trial;
      const holds = trial.measured <= drop;
      if (holds && trial.cost < (best?.cost ?? 0)) best = trial;
      if (holds) below = Math.max(below, room);
      else above = Math.min(above, room);
      if (known && below > 0 && above / below < AGREES) break;
      // Where errors add up otherwise than they should, so does the room that single damages may take.
      const scaled = room * Math.min(4, Math.max(0.1, drop / Math.max(trial.measured, 1e-12)));
      if (above === Number.POSITIVE_INFINITY) {
        if (scaled < AGREES * room) break;
        room = scaled;
      } else room = below > 0 ? Math.sqrt(below * above) : Math.min(scaled, 0.7 * room);
    }
    return best && first && { best, first, uniform: undefined, repairs: this.#trials.size - 1 };
  }

  /** Builds a solution, if that was not done, and judges it. */
  async judge(solution: Solution): Promise<Trial> {
    const key = keyOf(solution.assignment);
    const known = this.#trials.get(key);
    if (known) return known;
    const built = await this.#build(solution);
    const { probe, measure } = this.#parts;
    const score = built && (await probe.judge(built.model));
    const trial: Trial = {
      ...solution,
      measured: score?.damages[measure]?.value ?? Number.POSITIVE_INFINITY,
      used: built?.used ?? Number.POSITIVE_INFINITY,
    };
    this.#trials.set(key, trial);
    this.#parts.onTrial(this.#trials.size);
    return trial;
  }

  /**
   * The problem as it looks from a solution: what layer i loses among the others is the damage of the solution less its damage with
   * layer i in floating point; in another format so much more or less as the noise of that format alone.
   */
  async #amongOthers(trial: Trial): Promise<Problem> {
    const { problem } = this.#parts;
    const factors = new Map<string, number>();
    for (const cell of problem.cells) {
      if (trial.assignment.get(cell.layer) !== cell.format) continue;
      const without = new Map(trial.assignment).set(cell.layer, "float");
      const { measured } = await this.judge({ assignment: without, cost: 0, damage: 0 });
      factors.set(cell.layer, Math.max(0, trial.measured - measured) / Math.max(noiseOf(cell), Number.MIN_VALUE));
    }
    const damage = (cell: Cell): number => {
      const factor = factors.get(cell.layer);
      return factor === undefined ? problem.damage(cell) : factor * noiseOf(cell);
    };
    return { ...problem, damage };
  }

  /** The best solution that really keeps the limit: what layers share is known only when the model is built. */
  async #fit(limit: number, allowed?: Allowed, problem = this.#parts.problem): Promise<Solution | undefined> {
    const { maker, resource } = this.#parts;
    const origin = originOf(resource, maker);
    let room = limit - origin;
    let best: Solution | undefined;
    const seen = new Set<number>();
    for (let round = 0; round < FITTING_ROUNDS && !seen.has(room); round++) {
      seen.add(room);
      const solution = leastDamage(problem, room, allowed);
      const built = solution && (await this.#build(solution));
      if (!solution || !built) break;
      if (built.used <= limit && solution.damage < (best?.damage ?? Number.POSITIVE_INFINITY)) best = solution;
      // The sum of single costs leaves out so much.
      const extra = built.used - origin - solution.cost;
      room = limit - origin - extra;
    }
    return best;
  }

  /** The model of a solution and what it takes; undefined where a layer cannot be stored as chosen beside the others. */
  async #build({ assignment }: Solution): Promise<{ readonly model: Model; readonly used: number } | undefined> {
    const { maker, resource, problem, probe } = this.#parts;
    const made = await maker.make(assignment);
    if (typeof made === "string") return undefined;
    const { model } = made;
    switch (resource) {
      case "bytes":
        return { model, used: encodedBytes(model) + STAMP_BYTES };
      case "bops":
        return { model, used: costOfModel(model).bops };
      case "averageBits":
        return { model, used: averageBits(problem, assignment) };
      case "latency":
        return { model, used: await probe.timeRatio(model, TIMING_SECONDS) };
    }
  }
}

/** Bits of a weight on average over the layers, without scales. */
export function averageBits({ layers }: Pick<Problem, "layers">, assignment: Assignment): number {
  const total = layers.reduce((sum, { elements }) => sum + elements, 0);
  return (
    layers.reduce((sum, { name, elements }) => sum + elements * bitsOf(assignment.get(name) ?? "float"), 0) / total
  );
}

/** What the original takes of a resource, in the unit of costs. */
function originOf(resource: Resource, maker: VariantMaker): number {
  switch (resource) {
    case "bytes":
      return maker.baseBytes + STAMP_BYTES;
    case "bops":
      return maker.baseBops;
    case "averageBits":
      return bitsOf("float");
    case "latency":
      return 1;
  }
}

function noiseOf(cell: Cell): number {
  return damageOf(cell, "noise");
}

function keyOf(assignment: Assignment): string {
  return [...assignment].map(([layer, format]) => `${layer}=${format}`).join("\n");
}
