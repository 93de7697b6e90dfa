/**
 * Draws new weights and keeps the structure: layers, sizes, and which weights are zero.
 *
 * Helps: comparisons. "Train the compressed structure from scratch" against "go on with its weights" tells whether the
 *   weights that compression kept are worth anything, or only the structure that it found.
 * Hurts: accuracy, all of it: the model has learned nothing until it is trained.
 * Needs: nothing.
 * Cost: one draw per weight.
 * Maths: kernels with variance 2/fan_in (He) where another learned layer follows, 2/(fan_in + fan_out) (Glorot) for the last
 *   ones; fans are the sizes of the axes that the operator's record sums over and puts out, times the share of weights
 *   that are not zero. Biases and shifts 0, scales 1, running means 0 and variances 1, tables N(0, 0.02).
 * Paper: He et al. 2015, "Delving Deep into Rectifiers"; Glorot and Bengio 2010, "Understanding the difficulty of training
 *   deep feedforward neural networks"; Liu et al. 2019, "Rethinking the Value of Network Pruning"; Evci et al. 2022,
 *   "Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win" (fans of sparse layers).
 */
import { z } from "zod";
import { drawWeights } from "../../architectures/blocks/weights.ts";
import { Rng } from "../../base/rng.ts";
import { toFloat32 } from "../../base/to-float32.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { axesOf } from "../../ops/axes.ts";
import { trainableParameters } from "../../train/parameters.ts";
import { type WeightUse, weightSites, weightsOf } from "../../transform/weight-sites.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { defineTechnique, type TechniqueFunction } from "../technique.ts";

/** Embedding tables and learned positions, as transformers draw them (Devlin et al. 2019). */
const TABLE_SCHEME = "truncated-0.02";

export const reinitialise: TechniqueFunction = defineTechnique({
  name: "reinitialise",
  family: "tune",
  summary: "Draw new weights, keep the structure and the zeros: what is the structure alone worth?",
  needs: [],
  options: z.object({
    scheme: z
      .enum(["auto", "he", "glorot"])
      .default("auto")
      .describe("variance of kernels; auto: He before another learned layer, Glorot for the last ones"),
    distribution: z.enum(["normal", "uniform"]).default("normal").describe("what kernels are drawn from"),
    keepZeros: z.boolean().default(true).describe("weights that are zero stay zero"),
    keep: keepOption,
  }),
  async run(model, chosen, context) {
    const { journal, seed } = context;
    prepareConstants(model, journal);
    const keep = keepOf(chosen.keep, model, journal);
    const last = lastLearned(model);
    const done = new Set<Value>();
    const rng = new Rng(seed).fork("reinitialise");
    for (const site of weightSites(model, { roles: ["kernel", "bias", "scale", "table", "statistic"] })) {
      const { value, tensor, uses } = site;
      done.add(value);
      if (keep.value(value) || uses.some(({ node }) => keep.node(node))) journal.skip(value.name, "kept");
      else if (tensor.dtype !== "float32") journal.skip(value.name, `it is ${tensor.dtype}, not float32`);
      else {
        const drawn = await drawFor(
          uses.find(({ weight }) => weight.role === "table") ?? (uses[0] as WeightUse),
          tensor,
          {
            ...chosen,
            rng: rng.fork(value.name),
            last: uses.some(({ node }) => last.has(node)),
          },
        );
        value.tensor = drawn.tensor;
        journal.change({ what: value.name, how: drawn.how });
      }
    }
    // Learned constants of plain arithmetic: an Add behind a product is a bias, a Mul a scale, a whole table is drawn.
    for (const value of trainableParameters(model)) {
      if (done.has(value) || !value.tensor) continue;
      if (keep.value(value)) journal.skip(value.name, "kept");
      else {
        const drawn = plainConstant(value, rng.fork(value.name));
        value.tensor = drawn.tensor;
        journal.change({ what: value.name, how: drawn.how });
      }
    }
    return model;
  },
});

interface Drawing {
  readonly scheme: "auto" | "he" | "glorot";
  readonly distribution: "normal" | "uniform";
  readonly keepZeros: boolean;
  readonly rng: Rng;
  readonly last: boolean;
}

/** New values of one weight, and what was done in words. */
async function drawFor(use: WeightUse, tensor: Tensor, how: Drawing): Promise<{ tensor: Tensor; how: string }> {
  const { role } = use.weight;
  // What is added to whole maps, such as learned positions, is no bias.
  const added = role === "bias" && use.spec.traits?.elementwise === true;
  if (role === "table" || (added && tensor.shape.filter((size) => size > 1).length > 1)) return table(tensor, how.rng);
  if (role === "bias") return constant(tensor, 0);
  if (role === "scale") return constant(tensor, 1);
  // Statistics come in pairs, mean before variance.
  if (role === "statistic") return constant(tensor, use.input === firstStatistic(use) ? 0 : 1);
  const old = toFloat32(tensor.dtype, await tensor.bytes());
  const kept = how.keepZeros ? old.reduce((count, w) => count + (w === 0 ? 0 : 1), 0) : old.length;
  const density = kept / Math.max(1, old.length);
  const { fanIn, fanOut } = fansOf(use, tensor);
  const glorot = how.scheme === "glorot" || (how.scheme === "auto" && how.last);
  const scheme = `${glorot ? "glorot" : "he"}-${how.distribution}` as const;
  const drawn = drawWeights(how.rng, tensor.shape, fanIn, fanOut, scheme, 1 / Math.sqrt(density || 1));
  const data = (drawn.peek() as Float32Array).map((w, i) => (how.keepZeros && old[i] === 0 ? 0 : w));
  const zeros = old.length - kept;
  const held = zeros > 0 ? `, ${zeros} zeros held` : "";
  return { tensor: Tensor.float32(tensor.shape, data), how: `${scheme}, fan in ${fanIn}${held}` };
}

/**
 * Numbers that each output sums, and outputs that each input goes into, by the operator's axes: axes of the weight that are
 * not in the output are summed over, those that are not in the data are put out. Opaque operators: the record's two axes.
 */
function fansOf(use: WeightUse, tensor: Tensor): { fanIn: number; fanOut: number } {
  const { node, input, weight, spec, transpose } = use;
  const shape = transpose ? tensor.shape.toReversed() : tensor.shape;
  const terms = axesOf(node, spec);
  const own = terms?.inputs[input];
  const other = terms?.inputs.find((_, i) => i !== input);
  const output = terms?.outputs[0];
  if (own?.length === shape.length && other && output) {
    // Merged axes count by their parts: of a grouped kernel's (g o) the group is in the data, and o is put out.
    const names = (term: typeof own): Set<string> =>
      new Set(term.flatMap((axis) => ("name" in axis ? [axis.name] : "parts" in axis ? axis.parts : [])));
    const [inData, inOutput] = [names(other), names(output)];
    const groups = node.int("group", 1);
    const product = (skip: ReadonlySet<string>): number =>
      own.reduce((size, axis, i) => {
        if (axis.kind === "merge")
          return size * (axis.parts.every((part) => skip.has(part)) ? 1 : (shape[i] ?? 1) / groups);
        return "name" in axis && skip.has(axis.name) ? size : size * (shape[i] ?? 1);
      }, 1);
    return { fanIn: product(inOutput), fanOut: product(inData) };
  }
  const size = (axis: number | undefined): number => (axis === undefined ? 1 : (shape[axis] ?? 1));
  return { fanIn: size(weight.reductionAxis), fanOut: size(weight.channelAxis) };
}

function firstStatistic({ node, spec }: WeightUse): number {
  return weightsOf(spec, node).find(({ role }) => role === "statistic")?.input ?? -1;
}

function constant(tensor: Tensor, value: number): { tensor: Tensor; how: string } {
  const data = new Float32Array(tensor.elements).fill(value);
  return { tensor: Tensor.float32(tensor.shape, data), how: `set to ${value}` };
}

function table(tensor: Tensor, rng: Rng): { tensor: Tensor; how: string } {
  return { tensor: drawWeights(rng, tensor.shape, 1, 1, TABLE_SCHEME), how: TABLE_SCHEME };
}

function plainConstant(value: Value, rng: Rng): { tensor: Tensor; how: string } {
  const tensor = value.tensor as Tensor;
  if (tensor.shape.filter((size) => size > 1).length > 1) return table(tensor, rng);
  const { opType } = value.uses[0]?.node ?? {};
  return constant(tensor, opType === "Mul" || opType === "Div" ? 1 : 0);
}

/** Learned layers behind which no other follows. */
function lastLearned(model: Model): Set<Node> {
  const sites = weightSites(model, { roles: ["kernel"] });
  const learned = new Set(sites.flatMap(({ uses }) => uses.map(({ node }) => node)));
  const followed = new Set<Value>();
  for (const node of model.graph.nodes.toReversed())
    if (learned.has(node) || node.outputs.some((output) => followed.has(output)))
      for (const input of node.inputs) if (input) followed.add(input);
  return new Set([...learned].filter(({ outputs }) => !outputs.some((output) => followed.has(output))));
}
