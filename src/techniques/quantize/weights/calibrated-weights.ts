/** Chooses the codes of weights by what their layers' outputs lose on samples: GPTQ, AWQ and both, layer after layer; HQQ, and rounding to nearest, without samples. */
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { toFloat32 } from "../../../base/to-float32.ts";
import type { Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import type { Kernels } from "../../../kernels/types.ts";
import type { Gram } from "../../../run/gram.ts";
import { type Matrix, MatrixEngine } from "../../../run/matrix-engine.ts";
import { divideInput } from "../../../transform/scale-input.ts";
import type { WeightSite, WeightUse } from "../../../transform/weight-sites.ts";
import { calibrationOf, type CalibrationOptions } from "../../calibration.ts";
import { engine } from "../../engine.ts";
import type { Context } from "../../technique.ts";
import { layerDepths } from "../../tune/frontier.ts";
import { awqScales, clippedGrid, normalizedGram, outputError, scaleInputs, scaledGram } from "./awq.ts";
import { type CountedLayer, PassCounter, byInput, momentsOf, whyNoInputs } from "./calibration-passes.ts";
import { gptq } from "./gptq.ts";
import { HalfQuadratic } from "./hqq.ts";
import { lowRank } from "./low-rank.ts";
import { type GroupSolution, type Solved, packSolution, unpackSolution } from "./solved-codes.ts";
import { type Grid, type GridSpec, type Rounded, type Weights, gridOf, roundToGrid } from "./weight-grid.ts";
import { type Plan, type PlanOptions, bytesOfPlan } from "./weight-plan.ts";

export type SolverMethod = "rtn" | "mse" | "hqq" | "gptq" | "awq" | "awq-gptq";

export interface SolverOptions extends CalibrationOptions {
  readonly method: SolverMethod;
  readonly actOrder: boolean;
  readonly damping: number;
  /** Clip scales by the outputs' error. */
  readonly clip: boolean;
  /** Passes of the samples through the model at most. */
  readonly passes: number;
  /** Rank of the factors that give back what codes lack; undefined: none. */
  readonly compensate?: number | undefined;
}

/** Methods that look at weights alone. */
const WITHOUT_SAMPLES: ReadonlySet<SolverMethod> = new Set(["rtn", "mse", "hqq"]);

/** A weight whose codes are to be chosen. */
export interface SolverSite {
  readonly site: WeightSite;
  readonly plan: Plan;
  readonly options: PlanOptions;
}

/** Called once for each site, in the order in which they are solved; `how` says what was won. */
export type Apply = (site: SolverSite, solved: Solved, how: string) => Promise<void>;

interface Layer extends SolverSite, CountedLayer {
  /** Outputs of each group. */
  readonly n: number;
  /** True where the inputs of an output lie side by side in the stored weight. */
  readonly rowsFirst: boolean;
  readonly spec: GridSpec;
}

/** Why a weight's codes cannot be chosen this way; undefined if they can. */
export function whyNotSolved({ site, plan, options }: SolverSite, method: SolverMethod): string | undefined {
  const { format } = options;
  if (format.kind !== "int" || format.bits === 16) return `${format.name} is not a grid of few integers`;
  const shape = matricesOf(site, plan);
  if (shape.k % groupOf(site, plan) !== 0 && plan.kind !== "packed") return "neighbouring outputs share its scales";
  return WITHOUT_SAMPLES.has(method) ? undefined : whyNoInputs(site);
}

/** Chooses the codes of all sites and applies them. */
export async function solveWeights(
  model: Model,
  kernels: Kernels,
  sites: readonly SolverSite[],
  options: SolverOptions,
  context: Context,
  apply: Apply,
): Promise<void> {
  const depths = layerDepths(model);
  const layers = sites.map((site): Layer => {
    const { uses } = site.site;
    return {
      ...site,
      ...matricesOf(site.site, site.plan),
      spec: specFor(site),
      uses,
      level: Math.max(0, ...uses.map(({ node }) => (node.outputs[0] && depths.get(node.outputs[0])) ?? 0)),
    };
  });
  const solver = new Solver(model, kernels, options, context, apply);
  if (WITHOUT_SAMPLES.has(options.method)) return solver.withoutSamples(layers);
  for (const { uses } of layers) for (const { node } of uses) node.name ||= node.outputs[0]?.name ?? node.opType;
  await solver.calibrated(layers);
}

/** Why no factors are stored beside the codes of a weight; undefined if they are. */
export function whyNotCompensated({ site, plan, options }: SolverSite, rank: number): string | undefined {
  const { groups, k, n } = matricesOf(site, plan);
  if (groups > 1) return "its kernels stand in groups";
  if (bytesOfPlan(plan, site.tensor, options) + 2 * Math.min(rank, k, n) * (k + n) >= site.tensor.byteLength)
    return `factors of ${rank} columns and the codes would take more than it has`;
  if (plan.kind === "dequantize") return "form=dequantize would add factors at every run";
  if (plan.kind === "packed" && site.uses.some(({ spec }) => spec.traits?.lookup)) return "rows of it are looked up";
  return undefined;
}

/** Matrices of a weight, inputs in the order of XᵀX. */
function matricesOf({ tensor, uses }: WeightSite, plan: Plan): Pick<Layer, "groups" | "k" | "n" | "rowsFirst"> {
  const use = uses[0] as WeightUse;
  const { shape, elements } = tensor;
  if (use.spec.traits?.linear === "conv") {
    const groups = use.node.int("group", 1);
    const outputs = shape[0] ?? 1;
    return { groups, k: elements / outputs, n: outputs / groups, rowsFirst: true };
  }
  const rowsFirst = !plan.transpose;
  const k = shape.length === 2 && plan.transpose ? (shape[0] ?? 1) : (shape.at(-1) ?? 1);
  return { groups: 1, k, n: elements / k, rowsFirst };
}

function groupOf({ tensor }: WeightSite, plan: Plan): number {
  if (plan.kind === "packed") return plan.block;
  return plan.kind === "folded" ? tensor.elements / plan.rows : plan.group;
}

function specFor({ site, plan, options }: SolverSite): GridSpec {
  const { symmetric, scale, format } = options;
  const { bits } = format;
  const half = plan.kind === "dequantize" || (plan.kind === "packed" && site.tensor.dtype === "float16");
  const scaleType = half ? (site.tensor.dtype === "float16" ? "float16" : "float32") : options.scaleType;
  const rule = plan.kind === "packed" ? "blocks" : "rows";
  return { bits, group: groupOf(site, plan), symmetric, scale, scaleType, rule };
}

/** The weights of a group of layers, in a key of what is kept. */
function keyOfGroup(readers: readonly Layer[]): string {
  return readers.map(({ site }) => site.value.name).join("\n");
}

/** One matrix of a layer with what is known of its inputs. */
interface Problem {
  readonly layer: Layer;
  readonly weights: Weights;
  readonly gram: Matrix;
}

class Solver {
  readonly #model: Model;
  readonly #kernels: Kernels;
  readonly #options: SolverOptions;
  readonly #context: Context;
  readonly #apply: Apply;

  constructor(model: Model, kernels: Kernels, options: SolverOptions, context: Context, apply: Apply) {
    this.#model = model;
    this.#kernels = kernels;
    this.#options = options;
    this.#context = context;
    this.#apply = apply;
  }

  get #session(): { threads: number; provider: Context["provider"]; signal: AbortSignal | undefined } {
    const { threads, provider, signal } = this.#context;
    return { threads, provider, signal };
  }

  async withoutSamples(layers: readonly Layer[]): Promise<void> {
    const { openSession } = await engine();
    const { method, compensate } = this.#options;
    const solvers = new Map<string, HalfQuadratic>();
    const matrices = compensate ? await MatrixEngine.open(openSession, this.#kernels, this.#session) : undefined;
    try {
      for (const [done, layer] of layers.entries()) {
        throwIfAborted(this.#context.signal);
        this.#context.onProgress({ stage: method, done, total: layers.length });
        const { spec } = layer;
        const kept = await this.#kept([layer]);
        if (kept) {
          await this.#finish([layer], kept);
          continue;
        }
        const key = `${spec.bits} ${spec.symmetric} ${spec.scaleType}`;
        const solver =
          method === "hqq"
            ? (solvers.get(key) ?? (await HalfQuadratic.open(openSession, spec, this.#session)))
            : undefined;
        if (solver) solvers.set(key, solver);
        const found: { rounded: Rounded; grid: Grid }[] = [];
        let [before, after] = [0, 0];
        const all = await this.#weightsOf(layer);
        for (const weights of all) {
          const start = gridOf(this.#kernels, weights, spec);
          const better = await solver?.solve(weights, start, spec.group);
          const grid = better ?? start;
          found.push({ rounded: roundToGrid(this.#kernels, weights, grid, spec), grid });
          before += better?.before ?? 0;
          after += better?.after ?? 0;
        }
        const how = solver
          ? `hqq: sum of |w - ŵ|^0.7 ${before.toPrecision(3)} -> ${after.toPrecision(3)}`
          : method === "mse"
            ? "scales clipped for the least squared error"
            : "rounded to nearest";
        await this.#keep([layer], { layers: [await this.#compensated(matrices, layer, all, found, how)] });
      }
    } finally {
      for (const solver of solvers.values()) await solver.close();
      await matrices?.close();
    }
  }

  /** The codes of a layer, with factors of what they lack where they were asked for. */
  async #compensated(
    matrices: MatrixEngine | undefined,
    layer: Layer,
    weights: readonly Weights[],
    found: readonly { readonly rounded: Rounded; readonly grid: Grid }[],
    how: string,
    gram?: Matrix,
  ): Promise<GroupSolution["layers"][number]> {
    const solved = this.#solved(layer, weights, found);
    const { compensate } = this.#options;
    const [first] = found;
    if (!matrices || !compensate || !first || whyNotCompensated(layer, compensate)) return { solved, how };
    const kernels = this.#kernels;
    const error = { rows: layer.k, cols: layer.n, data: first.rounded.errors };
    const { a, b } = await lowRank(matrices, kernels, error, compensate, gram);
    const half = ({ data }: Matrix): Uint16Array => kernels.toFloat16(data, true).bits;
    const factors = { rank: a.cols, a: half(a), b: half(b) };
    const stored = ({ rows, cols }: Matrix, bits: Uint16Array): Matrix => ({
      rows,
      cols,
      data: kernels.fromFloat16(bits),
    });
    const back = await matrices.product(stored(a, factors.a), stored(b, factors.b));
    const { squaredDifference, squaredNormA } = kernels.compare(error.data, back.data);
    const left = squaredNormA > 0 ? Math.sqrt(squaredDifference / squaredNormA) : 0;
    return {
      solved: { ...solved, error: solved.error * left, factors },
      how: `${how}, rank ${factors.rank} leaves ${(100 * left).toPrecision(3)} % of the weight's error`,
    };
  }

  /** Level by level, so that each layer's inputs are those of the quantized layers before it. */
  async calibrated(layers: readonly Layer[]): Promise<void> {
    const { openSession } = await engine();
    const calibration = await calibrationOf(this.#model, this.#options, this.#context);
    this.#context.journal.note(calibration.note);
    const counter = new PassCounter(this.#model, calibration, layers, {
      samples: this.#options.samples,
      passes: this.#options.passes,
      scales: this.#options.method !== "gptq",
      session: this.#session,
    });
    const { passes } = counter;
    const levels = new Set(layers.map(({ level }) => level)).size;
    if (passes.length < levels)
      this.#context.journal.note(
        `${passes.length} passes over the samples for ${levels} levels of layers: layers of one pass do not see each other's errors.`,
      );
    const matrices = await MatrixEngine.open(openSession, this.#kernels, this.#session);
    try {
      let done = 0;
      for (const together of passes) {
        throwIfAborted(this.#context.signal);
        const groups = byInput(together);
        const kept = await Promise.all(groups.map((readers) => this.#kept(readers)));
        const grams = kept.every((one) => one !== undefined) ? counter.skip() : await counter.next();
        for (const [index, readers] of groups.entries()) {
          throwIfAborted(this.#context.signal);
          this.#context.onProgress({ stage: this.#options.method, done, total: layers.length });
          const known = kept[index];
          if (known) await this.#finish(readers, known);
          else await this.#keep(readers, await this.#solveReaders(matrices, readers, grams));
          done += readers.length;
        }
      }
    } finally {
      await matrices.close();
    }
  }

  /** Solves layers that read the same input; AWQ scales it for all of them. */
  async #solveReaders(
    matrices: MatrixEngine,
    readers: readonly Layer[],
    grams: ReadonlyMap<string, Gram>,
  ): Promise<GroupSolution> {
    const { method } = this.#options;
    const problems = await Promise.all(
      readers.map(async (layer) => {
        const weights = await this.#weightsOf(layer);
        const moments = momentsOf(layer, grams);
        return weights.map(
          (own, g): Problem => ({ layer, weights: own, gram: normalizedGram(moments[g] as Float64Array, layer.k) }),
        );
      }),
    );
    const scalable = method !== "gptq" && readers.every(isScalable);
    const first = problems[0]?.[0] as Problem;
    let scales: Float32Array | undefined;
    let scaling = "";
    if (scalable) {
      const all = problems.flat().map(({ layer, weights }) => ({ weights, spec: layer.spec }));
      const found = await awqScales(matrices, this.#kernels, all, first.gram);
      if (found.exponent > 0) [scales, scaling] = [found.scales, `, inputs scaled with exponent ${found.exponent}`];
    }
    const layers: GroupSolution["layers"][number][] = [];
    for (const [index, layer] of readers.entries()) {
      const found: { rounded: Rounded; grid: Grid }[] = [];
      const sums = { nearest: 0, solved: 0, energy: 0 };
      const own = problems[index] ?? [];
      for (const problem of own) found.push(await this.#solveOne(matrices, problem, scales, sums));
      const percent = (error: number): string => `${(100 * Math.sqrt(error / (sums.energy || 1))).toPrecision(3)} %`;
      const how = `${method}: output error ${percent(sums.nearest)} -> ${percent(sums.solved)}${scaling}`;
      const weights = own.map((problem) => (scales ? scaleInputs(problem.weights, scales) : problem.weights));
      const seen = own[0] && (scales ? scaledGram(own[0].gram, scales) : own[0].gram);
      layers.push(await this.#compensated(matrices, layer, weights, found, how, seen));
    }
    return { scales, layers };
  }

  /** What an earlier run of the same recipe found for layers that read the same input. */
  async #kept(readers: readonly Layer[]): Promise<GroupSolution | undefined> {
    const bytes = await this.#context.finished?.get(keyOfGroup(readers));
    return bytes && unpackSolution(bytes);
  }

  /** Keeps a solution beside the output, then applies it. */
  async #keep(readers: readonly Layer[], solution: GroupSolution): Promise<void> {
    await this.#context.finished?.put(keyOfGroup(readers), packSolution(solution));
    await this.#finish(readers, solution);
  }

  async #finish(readers: readonly Layer[], { scales, layers }: GroupSolution): Promise<void> {
    let where = "";
    if (scales) {
      const nodes = readers.map(({ uses }) => (uses[0] as WeightUse).node);
      const { folded } = await divideInput(this.#model, nodes[0]?.inputs[0] as Value, nodes, scales);
      where = folded === undefined ? " (by a Mul)" : ` (in ${folded})`;
    }
    for (const [index, layer] of readers.entries()) {
      const own = layers[index];
      if (own) await this.#apply(layer, own.solved, `${own.how}${where}`);
    }
  }

  /** Codes of one matrix: the best of what the method finds and rounding to nearest, on the layer's own inputs. */
  async #solveOne(
    matrices: MatrixEngine,
    { layer, weights, gram: moments }: Problem,
    scales: Float32Array | undefined,
    sums: { nearest: number; solved: number; energy: number },
  ): Promise<{ rounded: Rounded; grid: Grid }> {
    const { method, clip, actOrder, damping } = this.#options;
    const { spec } = layer;
    const kernels = this.#kernels;
    const scaled = scales ? scaleInputs(weights, scales) : weights;
    const seen = scales ? scaledGram(moments, scales) : moments;
    const errorOf = (errors: Float32Array): Promise<number> => outputError(matrices, kernels, seen, errors);
    const plain = gridOf(kernels, scaled, spec);
    const nearest = { rounded: roundToGrid(kernels, scaled, plain, spec), grid: plain };
    const unscaledError = scales
      ? outputError(
          matrices,
          kernels,
          moments,
          roundToGrid(kernels, weights, gridOf(kernels, weights, spec), spec).errors,
        )
      : errorOf(nearest.rounded.errors);
    const [before, energy] = [await unscaledError, await outputError(matrices, kernels, moments, weights.data)];
    let best = nearest;
    let least = scales ? await errorOf(nearest.rounded.errors) : before;
    const consider = async (grid: Grid, rounded: Rounded): Promise<void> => {
      const error = await errorOf(rounded.errors);
      if (error < least) [least, best] = [error, { grid, rounded }];
    };
    const clipped = clip ? await clippedGrid(matrices, kernels, scaled, seen, spec) : undefined;
    if (clipped) await consider(clipped, roundToGrid(kernels, scaled, clipped, spec));
    if (method !== "awq") {
      const data = Float64Array.from(seen.data);
      const found = await gptq(matrices, kernels, scaled, data, { ...spec, actOrder, damping, grid: clipped });
      if (found.damping > damping)
        this.#context.journal.note(
          `${layer.site.value.name}: damping raised to ${found.damping}, its inputs span few directions.`,
        );
      await consider(found.grid, found);
    }
    sums.nearest += before;
    sums.solved += least;
    sums.energy += energy;
    return best;
  }

  /** The weight's matrices, input by input. */
  async #weightsOf({ site, groups, k, n, rowsFirst }: Layer): Promise<Weights[]> {
    const data = toFloat32(site.tensor.dtype, await site.tensor.bytes());
    if (!data.every(Number.isFinite))
      throw new PareError("bad-data", `The weight '${site.value.name}' has elements that are not finite`, {
        help: "Name it with --keep, or use method rtn",
      });
    return Array.from({ length: groups }, (_, group) => {
      const own = data.subarray(group * k * n, (group + 1) * k * n);
      return { k, n, data: rowsFirst ? this.#kernels.transpose(own, n, k) : own };
    });
  }

  /** The codes of all matrices of a layer, output by output. */
  #solved(
    { groups, k, n, spec }: Layer,
    weights: readonly Weights[],
    found: readonly { readonly rounded: Rounded; readonly grid: Grid }[],
  ): Solved {
    const scaleRows = Math.ceil(k / spec.group);
    const codes = new Uint8Array(groups * n * k);
    const scales = new Float32Array(groups * n * scaleRows);
    const zeroPoints = new Uint8Array(groups * n * scaleRows);
    let [squaredError, squaredNorm] = [0, 0];
    for (const [group, { rounded, grid }] of found.entries()) {
      transposeInto(codes, rounded.codes, k, n, group * n * k);
      transposeInto(scales, grid.scales, scaleRows, n, group * n * scaleRows);
      transposeInto(zeroPoints, grid.zeroPoints, scaleRows, n, group * n * scaleRows);
      squaredError += this.#kernels.summarize(rounded.errors).sumSquares;
      squaredNorm += this.#kernels.summarize(weights[group]?.data as Float32Array).sumSquares;
    }
    const error = squaredNorm > 0 ? Math.sqrt(squaredError / squaredNorm) : 0;
    return { rows: groups * n, cols: k, group: spec.group, codes, scales, zeroPoints, error };
  }
}

/** (rows, cols) to (cols, rows) from `at` on. */
function transposeInto(
  into: Uint8Array | Float32Array,
  from: Uint8Array | Float32Array,
  rows: number,
  cols: number,
  at: number,
): void {
  for (let col = 0; col < cols; col++)
    for (let row = 0; row < rows; row++) into[at + col * rows + row] = from[row * cols + col] as number;
}

/** True where the input of the weight's only product can be scaled. */
function isScalable({ uses, spec }: Layer): boolean {
  const kind = uses[0]?.spec.traits?.linear;
  return uses.length === 1 && (kind === "matmul" || kind === "gemm") && spec.bits < 8;
}
