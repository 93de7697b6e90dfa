/** Prunes the weights of a model by one criterion: scores, thresholds of layers, of outputs or of all layers, masks, and the journal of it. */
import { type DType, bytesOf, dtypeBits } from "../../../base/dtype.ts";
import { throwIfAborted } from "../../../base/error.ts";
import { elementCount } from "../../../base/shape.ts";
import { toFloat32 } from "../../../base/to-float32.ts";
import type { Model } from "../../../ir/model.ts";
import type { Tensor } from "../../../ir/tensor.ts";
import { magnitudeThreshold } from "../../../kernels/magnitude.ts";
import type { Kernels, MagnitudeThreshold } from "../../../kernels/types.ts";
import type { MatrixEngine } from "../../../run/matrix-engine.ts";
import { SharedParts } from "../../../transform/shared-source.ts";
import type { WeightSite } from "../../../transform/weight-sites.ts";
import { EagerBudget } from "../../eager.ts";
import type { Change } from "../../journal.ts";
import { whyNoInputs } from "../../quantize/weights/calibration-passes.ts";
import type { Context } from "../../technique.ts";
import { gradientScores } from "./gradient-scores.ts";
import {
  type CountedSite,
  type InputOptions,
  eachCounted,
  inputFactors,
  outputErrorOf,
  sparseGptWeights,
} from "./input-importance.ts";
import { type Pattern, blockSums, expandBlocks, groupLayout, matrixOf, outputMask } from "./mask-rules.ts";
import {
  GRADIENT_SCORES,
  type GradientScore,
  INPUT_SCORES,
  type InputScore,
  STEP_SCORES,
  type StepScore,
  WEIGHT_SCORES,
  type WeightScore,
  inputScores,
} from "./scores.ts";
import { stepScores } from "./step-scores.ts";
import { sensitiveShares } from "./sensitivity.ts";
import { erdosRenyi, lampScores, normalisedScores } from "./weight-allocation.ts";

export interface PruneOptions extends InputOptions {
  /** Share that goes; patterns of groups set their own. */
  readonly ratio: number;
  readonly score: "magnitude" | "random" | "sparsegpt" | InputScore | GradientScore | StepScore | WeightScore;
  /** movement: learning rate of the steps. */
  readonly learningRate: number;
  /** Default: output for wanda, global for snip, else local. */
  readonly scope?: "output" | "local" | "global" | "normalised" | undefined;
  readonly allocation: "uniform" | "erk" | "lamp" | "sensitivity";
}

/** Mask or elements of a pruned weight, from its elements. */
type Pruned = (weights: Float32Array) => Promise<Uint8Array | Float32Array>;

export class WeightPruner {
  readonly #model: Model;
  readonly #kernels: Kernels;
  readonly #sites: readonly WeightSite[];
  readonly #pattern: Pattern;
  readonly #options: PruneOptions;
  readonly #context: Context;
  readonly #eager = new EagerBudget();
  /** What scores are compared in. */
  readonly #scope: NonNullable<PruneOptions["scope"]> | "lamp";

  constructor(
    model: Model,
    kernels: Kernels,
    sites: readonly WeightSite[],
    pattern: Pattern,
    options: PruneOptions,
    context: Context,
  ) {
    this.#model = model;
    this.#kernels = kernels;
    this.#sites = sites;
    this.#pattern = pattern;
    this.#options = options;
    this.#context = context;
    const own = {
      wanda: pattern.kind === "free" ? "output" : "local",
      snip: options.allocation === "uniform" ? "global" : "local",
    } as const;
    const usual = own[options.score as keyof typeof own] ?? "local";
    this.#scope = options.allocation === "lamp" ? "lamp" : (options.scope ?? usual);
  }

  async run(): Promise<void> {
    const { score, allocation, ratio } = this.#options;
    const shares =
      allocation === "erk"
        ? erdosRenyi(this.#sites, ratio)
        : allocation === "sensitivity" && this.#pattern.kind !== "group"
          ? await sensitiveShares(this.#model, this.#sites, this.#options, this.#context)
          : undefined;
    const shareOf = (site: WeightSite): number => shares?.get(site) ?? ratio;
    if (typeof score !== "string") return this.#byScore(this.#sites, score, shareOf, score.name || "a function");
    if (score === "magnitude" || score === "random")
      return this.#byScore(this.#sites, WEIGHT_SCORES[score], shareOf, score);
    const gradient = GRADIENT_SCORES.find((name) => name === score);
    const steps = STEP_SCORES.find((name) => name === score);
    const known = gradient
      ? await gradientScores(this.#model, this.#sites, gradient, this.#options, this.#context)
      : steps && (await stepScores(this.#model, this.#sites, steps, this.#options, this.#context));
    if (known) return this.#byKnown(known, score, shareOf);
    const reasons = new Map(
      this.#sites.map((site) => [site, whyNoInputs(site) ?? (matrixOf(site) ? undefined : "it is not a matrix")]),
    );
    const counted = this.#sites.filter((site) => reasons.get(site) === undefined);
    const others = this.#sites.filter((site) => reasons.get(site) !== undefined);
    await this.#plainly(others, shareOf, score as string, (site) => reasons.get(site) as string);
    const input = INPUT_SCORES.find((name) => name === score);
    if (input && !this.#isLocal) return this.#byInputsTogether(counted, input);
    await eachCounted(this.#model, this.#kernels, counted, this.#options, this.#context, async (found, matrices) => {
      if (input) await this.#byInputs(found, matrices, input, shareOf(found.site));
      else await this.#bySparseGpt(found, matrices, shareOf(found.site));
    });
  }

  /** By scores of each weight by its name; what has none, by magnitude. */
  async #byKnown(
    scores: ReadonlyMap<string, Float32Array>,
    label: string,
    shareOf: (site: WeightSite) => number,
  ): Promise<void> {
    const missing = this.#sites.filter(({ value }) => !scores.has(value.name));
    await this.#plainly(missing, shareOf, label, () => "the loss does not depend on it");
    const known = this.#sites.filter(({ value }) => scores.has(value.name));
    await this.#byScore(known, (_, { name }) => scores.get(name) as Float32Array, shareOf, label);
  }

  /** True where each weight is pruned by itself. */
  get #isLocal(): boolean {
    return this.#pattern.kind === "group" || this.#scope === "local" || this.#scope === "output";
  }

  /** Weights that the criterion knows nothing of, by magnitude. */
  async #plainly(
    sites: readonly WeightSite[],
    shareOf: (site: WeightSite) => number,
    score: string,
    why: (site: WeightSite) => string,
  ): Promise<void> {
    for (const site of sites) {
      const mask = this.#maskBy(site, WEIGHT_SCORES.magnitude, () => shareOf(site), undefined, "local");
      await this.#apply(site, mask, `; by magnitude instead of ${score}: ${why(site)}`);
    }
  }

  async #byScore(
    sites: readonly WeightSite[],
    score: WeightScore,
    shareOf: (site: WeightSite) => number,
    label: string,
  ): Promise<void> {
    const { signal, onProgress } = this.#context;
    const thresholds = this.#isLocal ? undefined : await this.#thresholds(sites, score);
    for (const [done, site] of sites.entries()) {
      throwIfAborted(signal);
      onProgress({ stage: "prune-weights", done, total: sites.length });
      const mask = this.#maskBy(site, score, () => shareOf(site), thresholds?.get(site), this.#scope);
      await this.#apply(site, mask, label === "magnitude" ? "" : `; by ${label}`);
    }
  }

  /** Inputs of all layers are counted before anything is pruned. */
  async #byInputsTogether(sites: readonly WeightSite[], kind: InputScore): Promise<void> {
    const scores = new Map<string, (weights: Float32Array) => Float32Array>();
    await eachCounted(this.#model, this.#kernels, sites, this.#options, this.#context, async (found, matrices) => {
      const factors = await inputFactors(kind, found, matrices, this.#options.damping);
      scores.set(found.site.value.name, (weights) => inputScores(kind, weights, found.layout, factors));
    });
    const score: WeightScore = (weights, { name }) => scores.get(name)?.(weights) ?? weights;
    await this.#byScore(sites, score, () => this.#options.ratio, kind);
  }

  async #byInputs(found: CountedSite, matrices: MatrixEngine, kind: InputScore, share: number): Promise<void> {
    const { site, layout } = found;
    const factors = await inputFactors(kind, found, matrices, this.#options.damping);
    const score: WeightScore = (weights) => inputScores(kind, weights, layout, factors);
    const mask = this.#maskBy(site, score, () => share, undefined, this.#scope);
    const weights = toFloat32(site.tensor.dtype, await site.tensor.bytes());
    const after = this.#kernels.applyMask(weights, (await mask(weights)) as Uint8Array);
    const error = await outputErrorOf(found, matrices, this.#kernels, weights, after);
    await this.#apply(site, mask, `; by ${kind}: output error ${(100 * error).toPrecision(3)} %`);
  }

  async #bySparseGpt(found: CountedSite, matrices: MatrixEngine, ratio: number): Promise<void> {
    const { site } = found;
    const { damping } = this.#options;
    const solved = await sparseGptWeights(found, matrices, this.#kernels, { ratio, pattern: this.#pattern, damping });
    const weights = toFloat32(site.tensor.dtype, await site.tensor.bytes());
    const error = await outputErrorOf(found, matrices, this.#kernels, weights, solved.data);
    if (solved.damping > damping)
      this.#context.journal.note(
        `${site.value.name}: damping raised to ${solved.damping}, its inputs span few directions.`,
      );
    await this.#apply(
      site,
      () => Promise.resolve(solved.data),
      `; by sparsegpt: output error ${(100 * error).toPrecision(3)} %`,
    );
  }

  /** Scores of the units that stay or go together: elements or blocks; made comparable across layers where they are compared. */
  async #units(site: WeightSite, weights: Float32Array, score: WeightScore): Promise<Float32Array> {
    const { name } = site.value;
    const { shape } = site.tensor;
    const scores = await score(weights, { name, shape, seed: this.#context.seed });
    const units =
      this.#pattern.kind === "block" ? blockSums(scores, elementCount(shape.slice(1)), this.#pattern) : scores;
    if (this.#scope === "lamp") return lampScores(units);
    return this.#scope === "normalised" ? normalisedScores(units) : units;
  }

  #maskBy(
    site: WeightSite,
    score: WeightScore,
    share: () => number,
    threshold: MagnitudeThreshold | undefined,
    scope: string,
  ): Pruned {
    const kernels = this.#kernels;
    const pattern = this.#pattern;
    return async (weights) => {
      const units = await this.#units(site, weights, score);
      if (pattern.kind === "group") return kernels.groupMask(units, groupLayout(site), pattern.keep, pattern.of);
      const layout = scope === "output" && pattern.kind === "free" ? matrixOf(site) : undefined;
      if (layout) return outputMask(kernels, units, layout, share());
      const keep = units.length - Math.round(share() * units.length);
      const { threshold: least, ties } = threshold ?? (await magnitudeThreshold(kernels, () => [units], keep));
      const { mask } = kernels.magnitudeMask(units, least, ties);
      if (pattern.kind !== "block") return mask;
      return expandBlocks(mask, weights.length, elementCount(site.tensor.shape.slice(1)), pattern);
    };
  }

  /** One threshold for all layers: what is kept is the most important of the whole network. Equal scores are kept in file order. */
  async #thresholds(sites: readonly WeightSite[], score: WeightScore): Promise<Map<WeightSite, MagnitudeThreshold>> {
    const unitsOf = async (site: WeightSite): Promise<Float32Array> => {
      throwIfAborted(this.#context.signal);
      return this.#units(site, await floats(site.tensor), score);
    };
    const all = async function* (): AsyncGenerator<Float32Array> {
      for (const site of sites) yield await unitsOf(site);
    };
    const unit = this.#pattern.kind === "block" ? this.#pattern.rows * this.#pattern.cols : 1;
    const total = sites.reduce((sum, site) => sum + site.tensor.elements, 0) / unit;
    const keep = total - Math.round(this.#options.ratio * total);
    const found = await magnitudeThreshold(this.#kernels, all, keep);
    const thresholds = new Map<WeightSite, MagnitudeThreshold>();
    let { ties } = found;
    for (const site of sites) {
      // Without ties every layer's mask follows from the threshold alone
      const used = ties > 0 ? this.#kernels.magnitudeMask(await unitsOf(site), found.threshold, ties).ties : 0;
      thresholds.set(site, { threshold: found.threshold, ties: used });
      ties -= used;
    }
    return thresholds;
  }

  /** Puts the pruned weight in the place of the old one: what the mask drops is +0, in its own dtype. */
  async #apply(site: WeightSite, pruned: Pruned, how: string): Promise<void> {
    const kernels = this.#kernels;
    const { tensor, value } = site;
    const outcome: { zeros: number | undefined; error: number | undefined } = { zeros: undefined, error: undefined };
    const parts = new SharedParts([{ dtype: tensor.dtype, shape: tensor.shape }], async () => {
      const bytes = await tensor.bytes();
      const weights = toFloat32(tensor.dtype, bytes);
      const result = await pruned(weights);
      const kept =
        result instanceof Float32Array
          ? floatBytes(kernels, tensor.dtype, result)
          : masked(kernels, tensor.dtype, bytes, result);
      const after = toFloat32(tensor.dtype, kept);
      outcome.zeros = after.length - kernels.countNonZero(after);
      const { squaredDifference, squaredNormA } = kernels.compare(weights, after);
      outcome.error = squaredNormA > 0 ? Math.sqrt(squaredDifference / squaredNormA) : 0;
      return [kept];
    });
    value.tensor = parts.tensors[0] as Tensor;
    await this.#eager.keep(parts, tensor.byteLength);
    const change: Change = {
      what: value.name,
      get how() {
        const { zeros } = outcome;
        const share =
          zeros === undefined
            ? "pruned"
            : `${zeros} of ${tensor.elements} weights are zero (${((100 * zeros) / tensor.elements).toFixed(1)} %)`;
        return share + how;
      },
      get error() {
        return outcome.error as number;
      },
      bytesBefore: tensor.byteLength,
      bytesAfter: tensor.byteLength,
    };
    this.#context.journal.change(change);
  }
}

async function floats(tensor: Tensor): Promise<Float32Array> {
  return toFloat32(tensor.dtype, await tensor.bytes());
}

function masked(kernels: Kernels, dtype: DType, bytes: Uint8Array, mask: Uint8Array): Uint8Array {
  if (dtype === "float32") return bytesOf(kernels.applyMask(toFloat32(dtype, bytes), mask));
  const width = dtypeBits(dtype) / 8;
  const kept = bytes.slice();
  for (let i = 0; i < mask.length; i++) if (mask[i] === 0) kept.fill(0, i * width, (i + 1) * width);
  return kept;
}

function floatBytes(kernels: Kernels, dtype: DType, data: Float32Array): Uint8Array {
  if (dtype === "float64") return bytesOf(Float64Array.from(data));
  if (dtype === "float32") return bytesOf(data);
  return bytesOf((dtype === "float16" ? kernels.toFloat16(data, true) : kernels.toBfloat16(data, true)).bits);
}
