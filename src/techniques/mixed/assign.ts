/** From sensitivities to a format for each layer: the least damage within a budget, or the least cost at a tolerated damage. */
import { type Choice, solveKnapsack } from "./knapsack.ts";
import type { Cell } from "./sensitivity.ts";
import { type CellFormat, type MixLayer, bitsOf } from "./variant.ts";

/** Format of each layer by name. */
export type Assignment = ReadonlyMap<string, CellFormat>;

/** What is limited: bytes of the file, bits of a weight on average, bit operations, or time of a run. */
export type Resource = "bytes" | "averageBits" | "bops" | "latency";

export interface Problem {
  readonly layers: readonly MixLayer[];
  readonly cells: readonly Cell[];
  /** What a layer in a format loses. */
  damage(cell: Cell): number;
  /** What a layer in a format costs more than in floating point (mostly less: negative). */
  cost(cell: Cell): number;
}

export interface Solution {
  readonly assignment: Assignment;
  /** Against the original. */
  readonly cost: number;
  /** Sum of the damages that each layer does alone. */
  readonly damage: number;
}

/** Differences in cost by cell for a resource; `times` are those of each cell's model, as a part of the original's. */
export function costOf(
  resource: Resource,
  layers: readonly MixLayer[],
  times: ReadonlyMap<Cell, number>,
): (cell: Cell) => number {
  const elements = new Map(layers.map((layer) => [layer.name, layer.elements]));
  const total = layers.reduce((sum, layer) => sum + layer.elements, 0);
  switch (resource) {
    case "bytes":
      return ({ cost }) => cost.bytes;
    case "bops":
      return ({ cost }) => cost.bops;
    case "averageBits":
      return ({ layer, format }) => (bitsOf(format) - bitsOf("float")) * ((elements.get(layer) ?? 0) / total);
    case "latency":
      return (cell) => (times.get(cell) ?? 1) - 1;
  }
}

/** Which formats a layer may get; default all. */
export type Allowed = (layer: string, format: CellFormat) => boolean;

/** Least damage at a cost of at most `budget`; undefined when nothing fits. */
export function leastDamage(problem: Problem, budget: number, allowed?: Allowed): Solution | undefined {
  return solve(problem, budget, false, allowed);
}

/** Least cost at a damage of at most `drop`. */
export function leastCost(problem: Problem, drop: number, allowed?: Allowed): Solution | undefined {
  return solve(problem, drop, true, allowed);
}

/** Every layer in the same format, those that cannot be stored so in floating point. */
export function uniform({ layers, cells, damage, cost }: Problem, format: CellFormat): Solution {
  const own = new Map(cells.filter((cell) => cell.format === format).map((cell) => [cell.layer, cell]));
  const chosen = layers.flatMap(({ name }) => own.get(name) ?? []);
  return {
    assignment: new Map(layers.map(({ name }) => [name, own.has(name) ? format : "float"])),
    cost: chosen.reduce((sum, cell) => sum + cost(cell), 0),
    damage: chosen.reduce((sum, cell) => sum + damage(cell), 0),
  };
}

/** Cells of a solution that lose something there, the worst first. */
export function worstOf({ cells, damage }: Pick<Problem, "cells" | "damage">, assignment: Assignment): Cell[] {
  return cells
    .filter((cell) => assignment.get(cell.layer) === cell.format && damage(cell) > 0)
    .sort((a, b) => damage(b) - damage(a));
}

function solve(problem: Problem, limit: number, swapped: boolean, allowed: Allowed = () => true): Solution | undefined {
  const { layers } = problem;
  const byLayer = new Map<string, Cell[]>();
  for (const cell of problem.cells) byLayer.set(cell.layer, [...(byLayer.get(cell.layer) ?? []), cell]);
  const classes = layers.map(({ name }) => {
    const cells = (byLayer.get(name) ?? []).filter(({ format }) => allowed(name, format));
    const choices = cells.map((cell) => ({
      format: cell.format,
      cost: problem.cost(cell),
      loss: problem.damage(cell),
    }));
    const float = { format: "float" as CellFormat, cost: 0, loss: 0 };
    return allowed(name, "float") || choices.length === 0 ? [float, ...choices] : choices;
  });
  const turned = (choice: Choice): Choice => (swapped ? { cost: choice.loss, loss: choice.cost } : choice);
  const found = solveKnapsack(
    classes.map((choices) => choices.map(turned)),
    limit,
  );
  if (!found) return undefined;
  const assignment = new Map(
    layers.map(({ name }, index) => [name, classes[index]?.[found.chosen[index] ?? 0]?.format ?? "float"]),
  );
  const [cost, damage] = swapped ? [found.loss, found.cost] : [found.cost, found.loss];
  return { assignment, cost, damage };
}
