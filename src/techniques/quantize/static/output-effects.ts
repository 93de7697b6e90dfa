/** What rounding each activation does to the model's outputs, to first order, from gradients of the outputs. */
import { inferShapes } from "../../../analyse/shapes.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { Rng } from "../../../base/rng.ts";
import { elementCount, formatShape, isConcrete } from "../../../base/shape.ts";
import type { Dataset } from "../../../data/dataset.ts";
import { Builder } from "../../../ir/builder.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Model } from "../../../ir/model.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { mul, type Site } from "../../../ops/gradients/words.ts";
import { asFloat32, rowsOf } from "../../../run/arrays.ts";
import type { NdArray } from "../../../run/session.ts";
import { bindBatch } from "../../../train/bind-batch.ts";
import { grad, gradientName } from "../../../train/grad.ts";
import { convertOpset } from "../../../transform/opset.ts";
import { engine } from "../../engine.ts";
import { dataFeeds } from "../../samples.ts";
import type { Context } from "../../technique.ts";
import type { Grid } from "./range-search.ts";

/** Values that share a grid, and the grids that are compared for them. */
export interface GridQuestion {
  readonly values: readonly string[];
  readonly grids: readonly Grid[];
}

export interface OutputEffects {
  /** Of each question's grids: E‖J δ‖², the squared change of the outputs of one sample, with its standard error. */
  readonly grids: readonly { readonly mean: Float64Array; readonly error: Float64Array }[];
  /** E‖y − mean y‖² of the outputs of one sample: what the effects are relative to. */
  readonly spread: number;
}

/** Gradients are written in operators of this opset. */
const GRADIENT_OPSET = 17;
/** Bytes of values and gradients that are fetched in one run. */
const RUN_BYTES = 128 * 2 ** 20;
const MOST_ROWS = 8;

/**
 * With y(x) the outputs, δ the error that a grid makes in an activation and J the derivative of the outputs by it, the outputs
 * change by J δ and their squared error is ‖J δ‖² = E_u (uᵀJ δ)² over directions u of independent standard normal numbers; uᵀJ
 * is one gradient. One direction is drawn for each sample. Errors of different places add up, since they are as good as
 * independent: what is least for each is least for all. Rounding and cutting off are both counted, with what cancels.
 * Throws `not-differentiable` or `unsupported` where the model has no gradient.
 */
export async function outputEffects(
  model: Model,
  data: Dataset,
  questions: readonly GridQuestion[],
  kernels: Kernels,
  samples: number,
  context: Context,
): Promise<OutputEffects> {
  const { signal, threads, seed } = context;
  const { openSession } = await engine();
  const activations = [...new Set(questions.flatMap(({ values }) => values))];
  const differentiated = differentiate(model, activations, Math.min(samples, data.size));
  const { rows, directions, outputs } = differentiated;
  const tables = questions.map(({ grids }) =>
    Float32Array.from(
      grids.flatMap(({ scale, zeroPoint, lowest, highest }) => [scale, lowest - zeroPoint, highest - zeroPoint]),
    ),
  );
  const grids = tables.map((table) => new Moments(table.length / 3));
  let [spread, seen] = [0, 0];
  const rng = new Rng(seed).fork("directions");
  const session = await openSession(differentiated.model, { threads, signal });
  const limit = Math.max(rows, Math.min(samples, data.size) - (Math.min(samples, data.size) % rows));
  try {
    for await (const feeds of dataFeeds(model, data, { limit, size: rows, seed, signal })) {
      throwIfAborted(signal);
      context.onProgress({ stage: "quantize: effects on the outputs", done: seen, total: limit });
      const drawn = directions.map(({ name, shape }): [string, NdArray] => [
        name,
        { dtype: "float32", shape, data: Float32Array.from({ length: elementCount(shape) }, () => rng.normal()) },
      ]);
      const results: Record<string, NdArray> = await session.run({ ...feeds, ...Object.fromEntries(drawn) });
      const found = (name: string): NdArray => (results[name] ?? feeds[name]) as NdArray;
      for (const [i, { values }] of questions.entries())
        addSquares(grids[i] as Moments, values, tables[i] as Float32Array, { found, rows, kernels });
      for (const name of outputs) {
        const { count, sum, sumSquares } = kernels.summarize(asFloat32(found(name)));
        spread += Math.max(0, sumSquares - (sum * sum) / Math.max(1, count));
      }
      seen += rows;
    }
  } finally {
    await session.close();
  }
  if (seen === 0) throw new PareError("bad-data", "There is not one sample to run through the model");
  return {
    grids: grids.map((each) => each.over(seen)),
    spread: spread / seen,
  };
}

/** Adds (Σ over the values g·δ)² of each grid and sample; where a value's first axis is not the samples', of all samples at once. */
function addSquares(
  sums: Moments,
  values: readonly string[],
  grids: Float32Array,
  run: { readonly found: (name: string) => NdArray; readonly rows: number; readonly kernels: Kernels },
): void {
  const { found, rows, kernels } = run;
  const parts = values.every((name) => found(name).shape[0] === rows) ? rows : 1;
  for (let row = 0; row < parts; row++) {
    const total = new Float64Array(grids.length / 3);
    for (const name of values) {
      const [x, g] = [found(name), found(gradientName(name))].map((array) =>
        asFloat32(parts === 1 ? array : rowsOf(array, row, row + 1)),
      );
      for (const [c, effect] of kernels.gridEffects(x as Float32Array, g as Float32Array, grids).entries())
        total[c] = (total[c] as number) + effect;
    }
    sums.add(total);
  }
}

/** Squares of effects, over runs. */
class Moments {
  readonly #sums: Float64Array;
  readonly #squares: Float64Array;
  #count = 0;

  constructor(size: number) {
    this.#sums = new Float64Array(size);
    this.#squares = new Float64Array(size);
  }

  add(effects: Float64Array): void {
    for (const [c, effect] of effects.entries()) {
      this.#sums[c] = (this.#sums[c] as number) + effect ** 2;
      this.#squares[c] = (this.#squares[c] as number) + effect ** 4;
    }
    this.#count++;
  }

  /** Mean of one sample's square and its standard error, from sums over `samples`. */
  over(samples: number): { readonly mean: Float64Array; readonly error: Float64Array } {
    const n = this.#count;
    const error = this.#sums.map((sum, c) => {
      const variance = Math.max(0, (this.#squares[c] as number) / n - (sum / n) ** 2) / Math.max(1, n - 1);
      return (Math.sqrt(variance) * n) / samples;
    });
    return { mean: this.#sums.map((sum) => sum / samples), error };
  }
}

interface Differentiated {
  readonly model: Model;
  /** Samples in a run. */
  readonly rows: number;
  /** Inputs that take the directions. */
  readonly directions: readonly { readonly name: string; readonly shape: readonly number[] }[];
  readonly outputs: readonly string[];
}

/** The model with the activations, and the gradients of Σ u·y by them, as outputs. */
function differentiate(model: Model, activations: readonly string[], samples: number): Differentiated {
  const copy = cloneModel(model);
  if (copy.opset < GRADIENT_OPSET) convertOpset(copy, GRADIENT_OPSET);
  const { graph } = copy;
  const own = graph.inputs.find(({ tensor }) => !tensor)?.shape?.[0];
  const bind = (batch: number): void => {
    bindBatch(graph, batch);
    inferShapes(copy);
  };
  bind(typeof own === "number" ? own : 1);
  let rows = typeof own === "number" ? own : 1;
  if (typeof own !== "number") {
    const known = new Map([...graph.values()].map(({ name, shape }) => [name, shape]));
    const bytes = activations.reduce((sum, name) => sum + 8 * elementsOf(known.get(name)), 0);
    rows = Math.max(1, Math.min(MOST_ROWS, samples, Math.floor(RUN_BYTES / Math.max(1, bytes))));
    if (rows > 1) bind(rows);
  }
  const site: Site = { b: new Builder(graph, { prefix: "effect/" }), opset: copy.opset };
  const outputs = graph.outputs.filter(({ dtype }) => dtype === "float32");
  const directions = outputs.map(({ name, shape }) => {
    if (!shape || !isConcrete(shape))
      throw new PareError("unsupported", "The shape of an output is not known before it is computed", {
        where: `output '${name}'`,
        found: formatShape(shape),
      });
    return { input: site.b.input("direction", "float32", shape), shape };
  });
  const parts = outputs.map((output, i) =>
    site.b.op("ReduceSum", [mul(site, output, (directions[i] as (typeof directions)[number]).input)], {
      attributes: { keepdims: 0 },
    }),
  );
  const objective = parts.length === 1 ? parts[0] : site.b.op("Sum", parts);
  if (!objective) throw new PareError("unsupported", "The model has no float32 output");
  [objective.dtype, objective.shape] = ["float32", []];
  const names = outputs.map(({ name }) => name);
  graph.outputs.splice(0, graph.outputs.length, objective);
  const result = grad(copy, { of: objective.name, wrt: activations });
  const byName = new Map([...result.graph.values()].map((value) => [value.name, value]));
  for (const name of new Set([...activations, ...names])) {
    const value = byName.get(name);
    if (value?.producer && !result.graph.isOutput(value)) result.graph.outputs.push(value);
  }
  return {
    model: result,
    rows,
    directions: directions.map(({ input, shape }) => ({ name: input.name, shape })),
    outputs: names,
  };
}

function elementsOf(shape: readonly unknown[] | undefined): number {
  return (shape ?? []).reduce<number>((product, dim) => product * (typeof dim === "number" ? dim : 1), 1);
}
