/**
 * Moves outliers of activations into the weights that read them, without changing what the model computes.
 *
 * Helps: accuracy of 8-bit activations (`quantize`, `quantize-dynamic`) in transformers, a few of whose channels are a hundred times as
 *   large as the others, for which one grid has no steps left.
 * Hurts: weights a little, whose ranges spread; 4-bit weights most. Models without outliers gain nothing, and are left alone.
 * Needs: samples (text that a language model writes itself, or synthetic inputs, where there are none).
 * Cost: one pass over the samples; twelve small products for each layer.
 * Maths: Y = X·W = (X·diag(s)⁻¹)·(diag(s)·W), s_c = max|X_c|^α / max|W_c|^(1−α); diag(s)⁻¹ goes into the scale and shift of the
 *   normalization before, or into the constants and weights on the way to X. α = 0.5 shares evenly, more moves more into the weights;
 *   without `alpha`, each input takes the α whose outputs in 8 bits are nearest to the layer's own on some rows, or none.
 * Paper: Xiao et al. 2022, SmoothQuant (arXiv 2211.10438).
 */
import { z } from "zod";
import { throwIfAborted } from "../../base/error.ts";
import { type Keep, nameOf } from "../../analyse/keep.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import type { Tensor } from "../../ir/tensor.ts";
import { loadKernels } from "../../kernels/kernels.ts";
import { MatrixEngine } from "../../run/matrix-engine.ts";
import { removeDead } from "../../transform/remove-dead.ts";
import { canFold, divideInput, scaleAxis } from "../../transform/scale-input.ts";
import { type WeightSite, weightSites } from "../../transform/weight-sites.ts";
import { calibrationOf } from "../calibration.ts";
import { engine } from "../engine.ts";
import type { Journal } from "../journal.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { range } from "../search-range.ts";
import { type TechniqueFunction, defineTechnique } from "../technique.ts";
import { type SmoothChoice, type SmoothStatistics, chooseSmoothing, smoothReducer } from "./smooth-scales.ts";
import { whyNoInputs } from "./weights/calibration-passes.ts";
import type { Weights } from "./weights/weight-grid.ts";

/** Rows of each layer's inputs on which exponents are compared, and of one batch. */
const ROWS = 256;
const ROWS_PER_BATCH = 32;

const options = z.object({
  alpha: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .describe(
      "share of the outliers that moves into the weights, the same for all layers; default: for each layer the one with the least error in 8 bits",
    )
    .meta({ search: range(0, 1) }),
  insert: z
    .boolean()
    .default(false)
    .describe("multiply where no operator before the layer can take the scales over: one operator more at run time"),
  samples: z.int().min(1).default(128).describe("calibration samples"),
  length: z.int().min(2).default(128).describe("tokens of a sequence that a language model writes to calibrate on"),
  keep: keepOption,
});

/** One value and all layers that multiply it with weights. */
interface SmoothInput {
  readonly value: Value;
  readonly sites: readonly WeightSite[];
  readonly nodes: readonly Node[];
  readonly channels: number;
}

export const smooth: TechniqueFunction = defineTechnique({
  name: "smooth",
  family: "quantize",
  summary: "Move outliers of activations into the weights before 8-bit quantization; the model computes the same.",
  needs: [],
  options,
  async run(model, chosen, context) {
    const { journal, signal, threads, provider } = context;
    prepareConstants(model, journal);
    const inputs = inputsOf(model, keepOf(chosen.keep, model, journal), chosen.insert, journal);
    if (inputs.length === 0) return model;
    const kernels = await loadKernels();
    const calibration = await calibrationOf(model, { samples: chosen.samples, length: chosen.length }, context);
    journal.note(calibration.note);
    const { tap, openSession } = await engine();
    const statistics = await tap<SmoothStatistics>(
      model,
      inputs.map(({ value }) => value.name),
      calibration.stream,
      () => smoothReducer(kernels, ROWS, ROWS_PER_BATCH),
      { threads, provider, signal },
    );
    const products = await MatrixEngine.open(openSession, kernels, { threads, signal });
    try {
      for (const [index, input] of inputs.entries()) {
        throwIfAborted(signal);
        context.onProgress({ stage: "smooth", done: index, total: inputs.length });
        const seen = statistics.get(input.value.name) as SmoothStatistics;
        const layers: Weights[] = [];
        for (const site of input.sites) layers.push(await weightsOf(site));
        const choice = await chooseSmoothing(products, kernels, seen, layers, chosen.alpha);
        await apply(model, input, choice, journal);
      }
    } finally {
      await products.close();
    }
    removeDead(model);
    return model;
  },
});

/** Values that matrix products with stored weights read, and nothing else that would have to be told of their scale. */
function inputsOf(model: Model, keep: Keep, insert: boolean, journal: Journal): SmoothInput[] {
  const byValue = new Map<Value, WeightSite[]>();
  for (const site of weightSites(model, { roles: ["kernel"], dtypes: ["float32"] })) {
    const [use] = site.uses;
    const linear = use?.spec.traits?.linear;
    if (!use || (linear !== "matmul" && linear !== "gemm")) continue; // channels of convolutions: equalize
    const read = use.node.inputs[0];
    const why =
      whyNoInputs(site) ??
      (keep.value(site.value) || site.uses.some(({ node }) => keep.node(node))
        ? "kept"
        : site.uses.some(({ node }) => node.inputs[0] !== read)
          ? "it multiplies different values"
          : read?.dtype === "float32"
            ? undefined
            : "what it multiplies is not float32");
    if (why !== undefined || !read) journal.skip(site.value.name, why ?? "it reads nothing");
    else byValue.set(read, [...(byValue.get(read) ?? []), site]);
  }
  return [...byValue].flatMap(([value, sites]): SmoothInput[] => {
    const nodes = sites.flatMap(({ uses }) => uses.map(({ node }) => node));
    const channels = sites[0]?.tensor.shape[inputAxis(sites[0])] ?? 1;
    if (insert || canFold(model, value, nodes, channels, "way")) return [{ value, sites, nodes, channels }];
    const other = value.uses.find(({ node }) => !nodes.includes(node));
    const why = other
      ? `${nameOf(other.node)} reads ${value.name} too`
      : `nothing before it takes the scales of ${value.name} over`;
    for (const node of nodes) journal.skip(nameOf(node), `${why} (insert adds a multiplication)`);
    return [];
  });
}

/** Axis of the inputs in the stored weight. */
function inputAxis({ uses }: WeightSite): number {
  const [use] = uses;
  const axis = use?.weight.reductionAxis ?? 0;
  return use?.transpose ? 1 - axis : axis;
}

/** A weight as (k, n). */
async function weightsOf(site: WeightSite): Promise<Weights> {
  const tensor = site.value.tensor as Tensor; // as it is now: the input of one layer may be made by another
  const [rows = 1, cols = 1] = tensor.shape;
  const data = (await tensor.data()) as Float32Array;
  if (inputAxis(site) === 0) return { k: rows, n: cols, data };
  const kernels = await loadKernels();
  return { k: cols, n: rows, data: kernels.transpose(data, rows, cols) };
}

async function apply(
  model: Model,
  { value, sites, nodes }: SmoothInput,
  { scales, alpha, before, after }: SmoothChoice,
  journal: Journal,
): Promise<void> {
  const percent = (error: number): string => `${(100 * error).toPrecision(2)} %`;
  const what = nodes.map(nameOf).join(", ");
  if (!scales) {
    journal.skip(what, `no scales are better in 8 bits (error ${percent(before)})`);
    return;
  }
  for (const site of sites) site.value.tensor = await scaleAxis(site.value.tensor as Tensor, inputAxis(site), scales);
  const { folded } = await divideInput(model, value, nodes, scales, "way");
  journal.change({
    what,
    how: `inputs divided by ${extremes(scales)} (alpha ${alpha}) ${folded ? `in ${folded}` : "by a Mul"}, error in 8 bits ${percent(before)} -> ${percent(after)}`,
  });
}

function extremes(values: Float32Array): string {
  const [least, most] = [
    values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY),
    values.reduce((a, b) => Math.max(a, b), 0),
  ];
  return `${least.toPrecision(3)}..${most.toPrecision(3)}`;
}
