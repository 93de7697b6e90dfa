/**
 * Matrix products in 8-bit integers, activations quantized on the fly; other weights stored in 8 bits.
 *
 * Helps: size by 4; speed of matrix products (transformers, recurrent heads, fully connected layers) on CPUs with integer
 * dot products; needs no data.
 * Hurts: accuracy a little (a per-row range of activations, at run time); convolutions gain size only: the engine's dynamic
 * integer convolution is 4 to 30 times slower than float32 (measured), so their weights are unpacked at load instead.
 * Needs: nothing. With data at hand `quantize` is faster.
 * Cost: one pass over the weights.
 * Maths: x ≈ (q_x − z_x)·s_x with s_x = (max − min)/255 of this very x; y = s_x·s_w·Σ (q_x − z_x)·q_w, weights symmetric:
 * s_w = max|w|/127 per output channel. `activations: int8` without zero points: s_x·s_w·Σ clip(round(x/s_x))·clip(round(w/s_w)).
 * Paper: Jacob et al. 2018 (arXiv 1712.05877); Zafrir et al. 2019, Q8BERT (arXiv 1910.06188).
 */
import { z } from "zod";
import { PareError, throwIfAborted } from "../../base/error.ts";
import { formatShape } from "../../base/shape.ts";
import { loadKernels } from "../../kernels/kernels.ts";
import type { Model } from "../../ir/model.ts";
import { removeDead } from "../../transform/remove-dead.ts";
import { type WeightSite, weightSites } from "../../transform/weight-sites.ts";
import { EagerBudget } from "../eager.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { choices } from "../search-range.ts";
import { type TechniqueFunction, defineTechnique } from "../technique.ts";
import { reduceRangeOption, reducesRange } from "./reduce-range.ts";
import { applyIntegerProduct, reasonAgainstInteger } from "./integer-product.ts";
import { formatNamed } from "./weights/formats.ts";
import { formatsOf, onlyOption } from "./weights/layer-formats.ts";
import { applyPlan } from "./weights/weight-forms.ts";
import { type PlanOptions, bytesOfPlan, planOf } from "./weights/weight-plan.ts";

/** Bytes that the extra nodes and names of one weight take in the file. */
const NODE_BYTES = 512;

/** First opset with QuantizeLinear and MatMulInteger. */
const SIGNED_SINCE = 10;

const options = z.object({
  perChannel: z
    .boolean()
    .default(true)
    .describe("one scale per output channel instead of one per weight")
    .meta({ search: choices(true, false) }),
  reduceRange: reduceRangeOption,
  activations: z
    .enum(["uint8", "int8"])
    .default("uint8")
    .describe(
      "uint8: scale and zero point of the range at hand; int8: no zero point, with perChannel=false exactly σx σy clip(round(X/σx)) clip(round(Y/σy))",
    )
    .meta({ search: choices("uint8", "int8") }),
  rest: z
    .enum(["weights", "leave"])
    .default("weights")
    .describe("weights of other operators (convolutions, tables, recurrent layers): stored in 8 bits, or left alone"),
  minElements: z.number().int().min(1).default(256).describe("smaller weights are left alone"),
  only: onlyOption,
  keep: keepOption,
});

const REST: PlanOptions = {
  format: formatNamed("int8"),
  block: 32,
  symmetric: true,
  scale: "range",
  scaleType: "float32",
  balance: false,
  form: "auto",
  compute: "fp32",
};

export const quantizeDynamic: TechniqueFunction = defineTechnique({
  name: "quantize-dynamic",
  family: "quantize",
  summary: "Matrix products in 8-bit integers, without calibration.",
  needs: [],
  options,
  async run(model, chosen, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    const kernels = await loadKernels();
    const keep = keepOf(chosen.keep, model, journal);
    const eager = new EagerBudget();
    if (chosen.activations === "int8" && model.opset < SIGNED_SINCE)
      throw new PareError("unsupported", `Activations in int8 need opset ${SIGNED_SINCE}`, {
        found: `opset ${model.opset}`,
        help: "Raise it with 'pare convert --opset 17', or use --activations uint8",
      });
    const reduceRange = await reducesRange(chosen.reduceRange, context);
    const sites = weightSites(model);
    const formatOf = formatsOf({ layers: {}, only: chosen.only }, model, sites, "int8", journal);
    for (const [index, site] of sites.entries()) {
      throwIfAborted(context.signal);
      context.onProgress({ stage: "quantize-dynamic", done: index, total: sites.length });
      const { value, uses } = site;
      const { dtype, shape, byteLength, elements } = site.tensor;
      const layers = uses.map((use) => use.node.name || use.node.opType).join(", ");
      const why =
        keep.value(value) || uses.some((use) => keep.node(use.node))
          ? "kept"
          : elements < chosen.minElements
            ? `${elements} elements are too few (min-elements ${chosen.minElements})`
            : dtype !== "float32"
              ? `its elements are ${dtype}`
              : formatOf(site).format === "float"
                ? formatOf(site).why
                : undefined;
      if (why) {
        journal.skip(value.name, why);
        continue;
      }
      const against = reasonAgainstInteger(site);
      if (!against) {
        const scales = chosen.perChannel ? (site.uses[0]?.transpose ? shape[0] : shape.at(-1)) : 1;
        if (byteLength / 4 + (scales ?? 1) * 4 + NODE_BYTES >= byteLength) {
          journal.skip(value.name, `would not shrink: it has ${byteLength} bytes only`);
          continue;
        }
        const result = applyIntegerProduct(model, kernels, site, { ...chosen, reduceRange });
        await eager.keep(result, byteLength);
        journal.change({
          what: value.name,
          how: `float32 ${formatShape(shape)} of ${layers} -> int8 ${chosen.perChannel ? "per channel" : "per tensor"}, activations ${chosen.activations} on the fly`,
          bytesBefore: byteLength,
          bytesAfter: byteLength / 4 + (scales ?? 1) * 4,
          get error() {
            return result.error.value as number;
          },
        });
        continue;
      }
      if (chosen.rest === "leave") {
        journal.skip(value.name, against);
        continue;
      }
      await storeRest(model, site, against, { kernels, journal, eager });
    }
    // A quantized activation stands before the product that asked first, which need not be the first in the graph.
    for (const graph of model.graph.allGraphs()) graph.sort();
    removeDead(model);
    return model;
  },
});

/** Stores a weight that no integer product reads in 8 bits. */
async function storeRest(
  model: Model,
  site: WeightSite,
  against: string,
  tools: {
    readonly kernels: Awaited<ReturnType<typeof loadKernels>>;
    readonly journal: Parameters<(typeof quantizeDynamic)["run"]>[2]["journal"];
    readonly eager: EagerBudget;
  },
): Promise<void> {
  const { tensor, value } = site;
  const plan = planOf(model, site, REST);
  if (typeof plan === "string") {
    tools.journal.skip(value.name, plan);
    return;
  }
  const bytesAfter = bytesOfPlan(plan, tensor, REST);
  if (bytesAfter + NODE_BYTES >= tensor.byteLength) {
    tools.journal.skip(value.name, `would not shrink: it has ${tensor.byteLength} bytes only`);
    return;
  }
  const codes = applyPlan(model, tools.kernels, site, plan, REST);
  await tools.eager.keep(codes, tensor.byteLength);
  tools.journal.change({
    what: value.name,
    how: `float32 ${formatShape(tensor.shape)} -> 8 bits, ${plan.kind === "packed" ? "packed" : "unpacked at load"}: ${against}`,
    bytesBefore: tensor.byteLength,
    bytesAfter,
    get error() {
      return codes.error.value as number;
    },
  });
}
