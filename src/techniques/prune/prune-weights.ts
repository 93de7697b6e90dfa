/**
 * Sets the least important weights to zero, one by one or n of every m.
 *
 * Helps: bytes as downloaded (brotli, gzip), by up to the share of zeros; a start for fine-tuning with the zeros held.
 * Hurts: accuracy from about half of the weights on, unless it is fine-tuned. A dense file does not shrink and does not
 * run faster: zeros are stored and multiplied like any number.
 * Needs: nothing.
 * Cost: a few passes over the weights, in constant memory.
 * Maths: keeps the (1 − ratio)·N elements of largest score, of each layer (local) or of all layers together (global);
 * n:m keeps the n largest of every m neighbours along the summed axis. Score |w| (magnitude) or uniform noise (random).
 * Paper: Han et al. 2015 (arXiv 1506.02626); Zhu and Gupta 2017 (arXiv 1710.01878); Mishra et al. 2021 for 2:4
 * (arXiv 2104.08378).
 */
import { z } from "zod";
import { PareError, throwIfAborted } from "../../base/error.ts";
import { toFloat32 } from "../../base/to-float32.ts";
import type { Tensor } from "../../ir/tensor.ts";
import { loadKernels } from "../../kernels/kernels.ts";
import { magnitudeThreshold } from "../../kernels/magnitude.ts";
import type { Kernels, MagnitudeThreshold } from "../../kernels/types.ts";
import { SharedParts } from "../../transform/shared-source.ts";
import { type WeightSite, weightSites } from "../../transform/weight-sites.ts";
import { EagerBudget } from "../eager.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { choices, range } from "../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../technique.ts";
import { WEIGHT_SCORES } from "./scores.ts";
import { storeSparse } from "./store-sparse.ts";

/** Makes the mask of one weight: 1 keeps an element. */
type MaskOf = (weights: Float32Array) => Promise<Uint8Array>;

const options = z.object({
  ratio: z
    .number()
    .min(0)
    .max(1)
    .default(0.5)
    .describe("share of the weights set to zero, 0..1 (n:m patterns set their own)")
    .meta({ search: range(0.2, 0.9) }),
  score: z.enum(["magnitude", "random"]).default("magnitude").describe("what makes a weight important"),
  scope: z
    .enum(["local", "global"])
    .default("local")
    .describe("the ratio holds for each layer, or over all layers together")
    .meta({ search: choices("local", "global") }),
  pattern: z
    .string()
    .regex(/^[1-9]\d*:[1-9]\d*$/, "a pattern is n:m, for example 2:4")
    .optional()
    .describe("n:m keeps n of every m neighbours along the summed axis, for example 2:4"),
  store: z
    .enum(["sparse", "dense"])
    .default("sparse")
    .describe(
      "sparse: where that takes fewer bytes, what is left is stored with its positions, at the end of the recipe",
    ),
  tables: z.boolean().default(false).describe("prune embedding tables too"),
  keep: keepOption,
});

export const pruneWeights: TechniqueFunction = defineTechnique({
  name: "prune-weights",
  family: "prune",
  summary: "Set the least important weights to zero.",
  needs: [],
  closing: ({ store }) => (store === "sparse" ? storeSparse() : undefined),
  options,
  async run(model, chosen, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    const kernels = await loadKernels();
    const sites = candidates(weightSites(model, { roles: chosen.tables ? ["kernel", "table"] : ["kernel"] }));
    const pattern = chosen.pattern?.split(":").map(Number) as [number, number] | undefined;
    if (pattern && pattern[0] > pattern[1])
      throw new PareError("bad-option", "A pattern n:m cannot keep more than it has", {
        where: "prune-weights option 'pattern'",
        found: chosen.pattern ?? "",
        expected: "n:m with n at most m, for example 2:4",
      });
    const keep = keepOf(chosen.keep, model, journal);
    const pruned = sites.filter((site) => {
      const why =
        keep.value(site.value) || site.uses.some((use) => keep.node(use.node))
          ? "kept"
          : pattern && reasonAgainstPattern(site, pattern);
      if (why) journal.skip(site.value.name, why);
      return !why;
    });
    if (!pattern && chosen.ratio === 0) return model;
    const scored = (site: WeightSite, weights: Float32Array): Float32Array =>
      chosen.score === "magnitude"
        ? weights
        : WEIGHT_SCORES[chosen.score](weights, { name: site.value.name, seed: context.seed });
    const thresholds =
      !pattern && chosen.scope === "global"
        ? await globalThresholds(kernels, pruned, chosen.ratio, scored, context)
        : new Map<WeightSite, MagnitudeThreshold>();
    const eager = new EagerBudget();
    for (const [index, site] of pruned.entries()) {
      throwIfAborted(context.signal);
      context.onProgress({ stage: "prune-weights", done: index, total: pruned.length });
      const mask: MaskOf = async (weights) => {
        const scores = scored(site, weights);
        if (pattern) return kernels.groupMask(scores, patternLayout(site), pattern[0], pattern[1]);
        const count = scores.length - Math.round(chosen.ratio * scores.length);
        const { threshold, ties } = thresholds.get(site) ?? (await magnitudeThreshold(kernels, () => [scores], count));
        return kernels.magnitudeMask(scores, threshold, ties).mask;
      };
      const { tensor } = site;
      const result = maskedTensor(kernels, tensor, mask);
      site.value.tensor = result.tensor;
      await eager.keep(result.parts, tensor.byteLength);
      journal.change({
        what: site.value.name,
        get how() {
          const { zeros } = result.outcome;
          return zeros === undefined
            ? `pruned by ${chosen.score}`
            : `${zeros} of ${tensor.elements} weights are zero (${((100 * zeros) / tensor.elements).toFixed(1)} %)`;
        },
        get error() {
          return result.outcome.error as number;
        },
        bytesBefore: tensor.byteLength,
        bytesAfter: tensor.byteLength,
      });
    }
    if (pruned.length > 0 && chosen.store === "dense")
      journal.note("Zeros are stored like any number: the file keeps its size until it is compressed (brotli, gzip).");
    return model;
  },
});

function candidates(sites: readonly WeightSite[]): WeightSite[] {
  return sites.filter((site) => ["float32", "float16", "bfloat16", "float64"].includes(site.tensor.dtype));
}

/** One threshold for all layers: the kept elements are the largest of the whole network. Equal scores are kept in file order. */
async function globalThresholds(
  kernels: Kernels,
  sites: readonly WeightSite[],
  ratio: number,
  scored: (site: WeightSite, weights: Float32Array) => Float32Array,
  context: Context,
): Promise<Map<WeightSite, MagnitudeThreshold>> {
  const scores = async function* (): AsyncGenerator<Float32Array> {
    for (const site of sites) {
      throwIfAborted(context.signal);
      yield scored(site, await floats(site.tensor));
    }
  };
  const total = sites.reduce((sum, site) => sum + site.tensor.elements, 0);
  const found = await magnitudeThreshold(kernels, scores, total - Math.round(ratio * total));
  const thresholds = new Map<WeightSite, MagnitudeThreshold>();
  let ties = found.ties;
  for (const site of sites) {
    const used = kernels.magnitudeMask(scored(site, await floats(site.tensor)), found.threshold, ties).ties;
    thresholds.set(site, { threshold: found.threshold, ties: used });
    ties -= used;
  }
  return thresholds;
}

async function floats(tensor: Tensor): Promise<Float32Array> {
  return toFloat32(tensor.dtype, await tensor.bytes());
}

/** Why the pattern does not fit the weight, or undefined. */
function reasonAgainstPattern(site: WeightSite, [n, m]: readonly [number, number]): string | undefined {
  const axis = summedAxis(site);
  if (axis === undefined) return "it has no summed axis";
  const size = site.tensor.shape[axis] ?? 1;
  return size % m === 0 ? undefined : `its summed axis has ${size} elements, which ${n}:${m} does not divide`;
}

function summedAxis(site: WeightSite): number | undefined {
  const use = site.uses[0];
  const axis = use?.weight.reductionAxis;
  return axis === undefined ? undefined : use?.transpose ? 1 - axis : axis;
}

function patternLayout(site: WeightSite): { outer: number; channels: number; inner: number } {
  const axis = summedAxis(site) ?? 0;
  const { shape } = site.tensor;
  const product = (sizes: readonly number[]): number => sizes.reduce((total, size) => total * size, 1);
  return { outer: product(shape.slice(0, axis)), channels: shape[axis] ?? 1, inner: product(shape.slice(axis + 1)) };
}

interface Masked {
  readonly tensor: Tensor;
  readonly parts: SharedParts;
  readonly outcome: { zeros: number | undefined; error: number | undefined };
}

/** The tensor with the elements that the mask drops set to +0, in its own dtype. */
function maskedTensor(kernels: Kernels, tensor: Tensor, maskOf: MaskOf): Masked {
  const outcome: Masked["outcome"] = { zeros: undefined, error: undefined };
  const parts = new SharedParts([{ dtype: tensor.dtype, shape: tensor.shape }], async () => {
    const bytes = await tensor.bytes();
    const weights = toFloat32(tensor.dtype, bytes);
    const mask = await maskOf(weights);
    const width = bytes.length / weights.length;
    const kept = bytes.slice();
    for (let i = 0; i < mask.length; i++) if (mask[i] === 0) kept.fill(0, i * width, (i + 1) * width);
    const after = toFloat32(tensor.dtype, kept);
    outcome.zeros = after.length - kernels.countNonZero(after);
    const { squaredDifference, squaredNormA } = kernels.compare(weights, after);
    outcome.error = squaredNormA > 0 ? Math.sqrt(squaredDifference / squaredNormA) : 0;
    return [kept];
  });
  return { tensor: parts.tensors[0] as Tensor, parts, outcome };
}
