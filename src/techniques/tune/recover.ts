/**
 * Fits each layer of a compressed model to what the original computes in its place, from unlabelled samples.
 *
 * Helps: pruned, thinned, factorized or quantized-and-restored weights, right after compression: a network pruned by 70 %
 *   without training gets most of its accuracy back in seconds, and fine-tuning starts from there.
 * Hurts: nothing structural; with fewer samples than a layer has inputs it follows the samples too closely (raise the ridge).
 * Needs: samples without labels (some hundred), and the original: what compression started from, or a file.
 * Cost: one pass of the samples through the front part of both models per layer; one k × k matrix per layer.
 * Maths: layer by layer, with x the inputs in the compressed model, whose earlier layers are fitted already, and z the
 *   outputs of the original: min over W, b of Σ‖z − Wx − b‖² + λ‖W − W₀‖² on the weights that are not zero. The sums XᵀX
 *   and XᵀZ come from the engine, the solution from conjugate gradients in double precision. `bias` moves b only:
 *   b ← b + mean(z − Wx − b).
 * Paper: He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks"; Nagel et al. 2019, "Data-Free
 *   Quantization through Weight Equalization and Bias Correction"; Frantar and Alistarh 2022, "Optimal Brain Compression".
 */
import { z } from "zod";
import { nameOf } from "../../analyse/keep.ts";
import { PareError, throwIfAborted } from "../../base/error.ts";
import { elementCount } from "../../base/shape.ts";
import type { Node, Value } from "../../ir/graph.ts";
import { cloneModel } from "../../ir/clone.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { specOf } from "../../ops/registry.ts";
import type { FeedStream } from "../../run/feed-stream.ts";
import { gram, type GramRequest } from "../../run/gram.ts";
import type { Feeds } from "../../run/session.ts";
import { joinModels } from "../../transform/join.ts";
import { applyShift, shiftOf } from "../../transform/shift-output.ts";
import { weightSites, type WeightSite } from "../../transform/weight-sites.ts";
import { engine } from "../engine.ts";
import { Journal } from "../journal.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { loadModelFile } from "../model-file.ts";
import { prepareConstants } from "../prepare.ts";
import { dataFeeds } from "../samples.ts";
import { choices, range } from "../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../technique.ts";
import { keptRows, Original } from "./layer-targets.ts";
import { LeastSquares } from "./least-squares.ts";

/** Opset of the counting graph: reductions take their axes as inputs from here on. */
const COUNTING_OPSET = 18;
/** Positions of an image that are enough for its statistics; beyond, a regular grid of them is taken. */
const POSITIONS = 256;
/** Memory of the patches of one batch. */
const BATCH_BYTES = 96 * 2 ** 20;
const MOST_PER_BATCH = 32;
/** Samples up to this size are read once, larger ones for every layer. */
const REMEMBERED_BYTES = 256 * 2 ** 20;
/** Relative error of a layer that is the original's: squares summed in float32 are known to about 1e-7 of themselves. */
const EXACT = 1e-3;

export const recover: TechniqueFunction = defineTechnique({
  name: "recover",
  family: "tune",
  summary: "Fit each layer of a compressed model to the original's outputs, without labels.",
  needs: ["calibration"],
  options: z.object({
    original: z
      .string()
      .optional()
      .describe("file of the model before compression; default: what the pipeline started from"),
    method: z
      .enum(["least-squares", "bias"])
      .default("least-squares")
      .describe("fit weights and biases, or biases only")
      .meta({ search: choices("least-squares", "bias") }),
    samples: z.int().min(1).default(256).describe("samples to fit on"),
    ridge: z
      .number()
      .min(0)
      .default(1e-3)
      .describe("pull towards the present weights, relative to the inputs' mean square")
      .meta({ search: range(1e-5, 1e-1, { log: true }) }),
    keep: keepOption,
  }),
  async run(model, chosen, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    const original = new Original(await originalModel(chosen.original, context));
    const keep = keepOf(chosen.keep, model, journal);
    const layers: Layer[] = [];
    for (const candidate of candidates(model)) {
      const kept = keep.node(candidate.node) || (candidate.site && keep.value(candidate.site.value));
      const found = kept ? "kept" : await layerOf(model, candidate, original);
      if (typeof found === "string") journal.skip(nameOf(candidate.node), found);
      else layers.push({ ...found, level: candidate.level });
    }
    const { openSession } = await engine();
    const stream = await calibration(model, layers, chosen.samples, context);
    const sessions = { threads: context.threads, provider: context.provider, signal: context.signal };
    const solver = await LeastSquares.open(openSession, sessions);
    try {
      const levels = [...new Set(layers.map(({ level }) => level))].sort((a, b) => a - b);
      for (const [done, level] of levels.entries()) {
        throwIfAborted(context.signal);
        context.onProgress({ stage: "recover", done, total: levels.length });
        const together = layers.filter((layer) => layer.level === level);
        await fitLevel(model, original.model, together, stream, solver, chosen, context);
      }
    } finally {
      await solver.close();
    }
    return model;
  },
});

/** A linear node with the stored weight that it alone reads, if it is such. */
interface Candidate {
  readonly node: Node;
  readonly site: WeightSite | undefined;
  /** Linear layers on the longest way to it: layers of one level do not depend on each other. */
  readonly level: number;
}

interface Layer {
  readonly node: Node;
  readonly site: WeightSite;
  /** True where a row of the stored weight makes one output. */
  readonly rowsFirst: boolean;
  readonly patches: boolean;
  readonly outputs: number;
  /** Inputs that each output sums over. */
  readonly k: number;
  readonly target: Value;
  readonly channels: readonly number[] | undefined;
  readonly level: number;
}

async function originalModel(file: string | undefined, context: Context): Promise<Model> {
  if (file !== undefined) return loadModelFile(file);
  const model = cloneModel(context.original);
  prepareConstants(model, new Journal());
  return model;
}

/** Linear nodes of the main graph in order, with their levels. */
function candidates(model: Model): Candidate[] {
  const sites = new Map<Node, WeightSite>();
  for (const site of weightSites(model, { roles: ["kernel"] })) for (const { node } of site.uses) sites.set(node, site);
  const depth = new Map<Value, number>();
  const found: Candidate[] = [];
  for (const node of model.graph.nodes) {
    const linear = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits?.linear !== undefined;
    const level = Math.max(0, ...node.inputs.map((input) => (input && depth.get(input)) ?? 0)) + (linear ? 1 : 0);
    for (const output of node.outputs) depth.set(output, level);
    if (!linear) continue;
    node.name ||= nameOf(node); // sums are asked for by name
    found.push({ node, site: sites.get(node), level });
  }
  return found;
}

/** What is to be solved for a linear node, or why it is left alone. */
async function layerOf(
  model: Model,
  { node, site }: Candidate,
  original: Original,
): Promise<Omit<Layer, "level"> | string> {
  const kind = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits?.linear;
  if (!site) return "its weights are computed, not stored as numbers";
  const use = site.uses[0];
  if (!use || site.uses.length > 1 || site.otherUses.length > 0) return "its weight is shared with another layer";
  if (site.tensor.dtype !== "float32") return `its weight is ${site.tensor.dtype}, not float32`;
  const { channelAxis, reductionAxis } = use.weight;
  const patches = kind === "conv";
  if (!patches && kind !== "gemm" && kind !== "matmul") return "it is neither a convolution nor a matrix product";
  if (channelAxis === undefined || reductionAxis === undefined) return "its weight is a vector";
  const { shape } = site.tensor;
  if (!patches && (shape.length !== 2 || use.input !== 1)) return "its weight is not a matrix on the right";
  if (node.int("transA", 0) === 1 || node.float("alpha", 1) !== 1 || node.float("beta", 1) !== 1)
    return "it scales or transposes its inputs";
  const output = node.outputs[0];
  const target = output && original.counterpart(model, output);
  if (!output || !target) return "the original has nothing in its place";
  const rowsFirst = patches || channelAxis < reductionAxis !== (use.transpose !== undefined);
  const outputs = shape[rowsFirst ? 0 : 1] ?? 1;
  const wanted = target.shape?.at(patches ? 1 : -1);
  if (target.shape?.length !== output.shape?.length || typeof wanted !== "number")
    return "the shape of the original's output is not known, or another";
  const part = { node, site, rowsFirst, patches, outputs, k: site.tensor.elements / outputs, target };
  if (wanted === outputs) return { ...part, channels: undefined };
  const channels = await keptChannels(part, original.node(node));
  return channels
    ? { ...part, channels }
    : "its channels were not found among the original's: its weights have changed";
}

/** Which of the original's output channels a thinned layer has. */
async function keptChannels(
  layer: Pick<Layer, "site" | "rowsFirst" | "outputs" | "node">,
  node: Node | undefined,
): Promise<number[] | undefined> {
  const input = layer.site.uses[0]?.input ?? 1;
  const tensor = node?.inputs[input]?.tensor;
  if (!tensor || tensor.dtype !== "float32" || node.int("transB", 0) !== layer.node.int("transB", 0)) return undefined;
  const count = tensor.shape[layer.rowsFirst ? 0 : 1] ?? 1;
  const full = asRows((await tensor.data()) as Float32Array, count, layer.rowsFirst);
  const rows = asRows((await layer.site.tensor.data()) as Float32Array, layer.outputs, layer.rowsFirst);
  return keptRows({ data: rows, count: layer.outputs }, { data: full, count });
}

/** Weights with one row for each output; the same array where they lie so. */
function asRows(data: Float32Array, outputs: number, rowsFirst: boolean): Float32Array {
  if (rowsFirst) return data;
  const k = data.length / outputs;
  const rows = new Float32Array(data.length);
  for (let i = 0; i < k; i++) for (let o = 0; o < outputs; o++) rows[o * k + i] = data[i * outputs + o] ?? 0;
  return rows;
}

/** The calibration samples, for every pass the same; remembered where they fit. */
async function calibration(
  model: Model,
  layers: readonly Layer[],
  limit: number,
  { data, seed, signal }: Context,
): Promise<FeedStream> {
  if (!data) throw new PareError("bad-option", "recover needs samples", { help: "Name them with --data" });
  const patchBytes = layers.map((layer) => 4 * layer.k * layer.node.int("group", 1) * rowsOf(layer));
  const size = Math.max(1, Math.min(MOST_PER_BATCH, Math.floor(BATCH_BYTES / Math.max(1, ...patchBytes))));
  const stream = (): AsyncGenerator<Feeds> => dataFeeds(model, data, { limit, size, seed, signal });
  const sampleBytes = data.fields.reduce((bytes, { shape }) => bytes + 4 * elementCount(shape), 0);
  if (sampleBytes * limit > REMEMBERED_BYTES) return stream;
  const remembered: Feeds[] = [];
  for await (const feeds of stream()) remembered.push(feeds);
  return () => remembered;
}

/** Counts and solves layers that do not depend on each other. */
async function fitLevel(
  model: Model,
  original: Model,
  layers: readonly Layer[],
  stream: FeedStream,
  solver: LeastSquares,
  chosen: { readonly method: string; readonly ridge: number },
  { journal, signal, threads, provider }: Context,
): Promise<void> {
  const { openSession } = await engine();
  const { model: joined, names } = joinModels(model, original, { prefix: "original/", opset: COUNTING_OPSET });
  const requests = layers.map(({ node, target, channels, patches }): GramRequest => {
    const wanted = { value: names.get(target.name) ?? target.name, channels };
    return patches
      ? { conv: node.name, every: gridStep(node), target: wanted }
      : { value: node.inputs[0]?.name ?? "", target: wanted };
  });
  const counted = await gram(joined, requests, stream, openSession, { threads, provider, signal });
  for (const [index, layer] of layers.entries()) {
    const { node, site, rowsFirst, outputs } = layer;
    const sums = counted[index];
    if (!sums) continue;
    const weights = asRows((await site.value.tensor?.data()) as Float32Array, outputs, rowsFirst);
    const shift = shiftOf(model, node, outputs);
    const now = shift?.own ? ((await shift.value.tensor?.data()) as Float32Array) : [];
    const solution = await solver.solve({
      gram: sums,
      weights,
      bias: shift && now,
      ridge: chosen.ridge,
      shiftOnly: chosen.method === "bias",
    });
    const name = nameOf(node);
    if (solution.before < EXACT) {
      journal.skip(name, "it computes what the original computes");
      continue;
    }
    if (!(solution.after < solution.before) || !solution.weights.every(Number.isFinite)) {
      journal.skip(name, "nothing was found that fits the original better");
      continue;
    }
    if (chosen.method !== "bias") {
      const k = weights.length / outputs;
      const stored = rowsFirst ? solution.weights : asRows(solution.weights, k, false);
      site.value.tensor = Tensor.float32(site.tensor.shape, stored);
    }
    if (shift && solution.shift) await applyShift(shift, solution.shift);
    journal.change({
      what: name,
      how: `error of its output ${percent(solution.before)} -> ${percent(solution.after)}`,
      error: solution.after,
    });
  }
}

/** Rows of X per sample. */
function rowsOf({ node, patches }: Layer): number {
  const sizes = (node.outputs[0]?.shape ?? []).slice(1).map((dim) => (typeof dim === "number" ? dim : 1));
  const positions = (patches ? sizes.slice(1) : sizes.slice(0, -1)).reduce((n, size) => n * size, 1);
  return positions / gridStep(node) ** (patches ? sizes.length - 1 : 0);
}

/** Distance of the positions that are taken from an image. */
function gridStep(node: Node): number {
  const spatial = (node.outputs[0]?.shape ?? []).slice(2);
  if ((node.string("auto_pad") ?? "NOTSET") !== "NOTSET" || spatial.some((dim) => typeof dim !== "number")) return 1;
  const positions = (spatial as number[]).reduce((n, size) => n * size, 1);
  return Math.max(1, Math.floor((positions / POSITIONS) ** (1 / Math.max(1, spatial.length))));
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;
}
