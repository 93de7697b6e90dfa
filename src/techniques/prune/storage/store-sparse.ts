/**
 * Stores tensors that are mostly zeros as an index and the rest, in operators that the engine folds into dense weights at load.
 *
 * Helps: bytes on disk, by 8 at 90 % zeros and by 15 at 95 %, with equal outputs; the less the values take (int8, int4), the
 * more the index counts.
 * Hurts: loading takes longer and, for a moment, more memory; nothing at run time, where the weights are dense again.
 * Needs: zeros: below about a tenth nothing is won.
 * Cost: a pass over the weights for each form that is tried.
 * Maths: with N elements of w bytes, of which n are not zero: a mask takes N/8 + n·w bytes, distances of 4, 8 or 16 bits (fillers
 * where they are longer) about n·(b/8 + w), patterns of n:m ⌊log C(m,n)/log 256⌋ groups a byte, blocks a bit each, coordinates
 * (`sparse_initializer`) n·(8 + w). The form of each tensor is the one with the fewest bytes, operators and tables counted.
 * Paper: Han et al. 2016, "Deep Compression" (arXiv 1510.00149); Mishra et al. 2021 for 2:4 (arXiv 2104.08378).
 */
import { z } from "zod";
import type { DType } from "../../../base/dtype.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { formatShape } from "../../../base/shape.ts";
import type { Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { EXPANSION_OPSET } from "../../../ir/sparse/expansion.ts";
import { setDense } from "../../../ir/sparse/sparse-storage.ts";
import { loadKernels } from "../../../kernels/kernels.ts";
import { outputValues } from "../../../transform/constants.ts";
import { convertOpset } from "../../../transform/opset.ts";
import { EagerBudget } from "../../eager.ts";
import type { Change, Journal } from "../../journal.ts";
import { keepOf, keepOption } from "../../keep-option.ts";
import { prepareConstants } from "../../prepare.ts";
import { choices } from "../../search-range.ts";
import { type TechniqueFunction, defineTechnique } from "../../technique.ts";
import { type Examined, FORMS, type FormOption, choose, examine } from "./sparse-choice.ts";
import { packingOf } from "./sparse-packing.ts";

/** Tensors below this are not looked at: names and operators take as much. */
const LEAST_BYTES = 256;

/** Coordinates came with this version of the file format. */
const COORDINATES_IR = 6;

/** Elements that are stored by their bits. */
const STORABLE: readonly DType[] = ["float32", "float16", "bfloat16", "float64", "int8", "uint8"];

export const storeSparse: TechniqueFunction = defineTechnique({
  name: "store-sparse",
  family: "prune",
  summary: "Store tensors that are mostly zeros as an index and the rest.",
  needs: [],
  options: z.object({
    form: z
      .enum(["auto", ...FORMS])
      .default("auto")
      .describe("how positions are written down; auto: whatever takes the fewest bytes, tensor by tensor"),
    values: z
      .enum(["exact", "int8", "int4"])
      .default("exact")
      .describe("values as they are, or as codes with a half-precision scale for each block")
      .meta({ search: choices("exact", "int8", "int4") }),
    block: z
      .union([z.literal(16), z.literal(32), z.literal(64), z.literal(128)])
      .default(32)
      .describe("values that share a scale"),
    measure: z.enum(["raw", "brotli"]).default("raw").describe("bytes that decide: as stored, or as downloaded"),
    gain: z.number().min(0).max(1).default(0.05).describe("a tensor stays dense unless it shrinks by this share"),
    keep: keepOption,
  }),
  async run(model, options, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    const kernels = await loadKernels();
    const keep = keepOf(options.keep, model, journal);
    const bits = options.values === "int8" ? 8 : options.values === "int4" ? 4 : undefined;
    const examined: Examined[] = [];
    const values = storable(model);
    for (const [done, value] of values.entries()) {
      throwIfAborted(context.signal);
      context.onProgress({ stage: "store-sparse", done, total: values.length });
      if (keep.value(value) || value.uses.some(({ node }) => keep.node(node))) journal.skip(value.name, "kept");
      else examined.push(await examine(kernels, value, { bits, block: options.block }));
    }
    const named = (option: FormOption): boolean => options.form === "auto" || options.form === option.name;
    let chosen = choose(examined, named, options.gain);
    if (needsOperators(chosen) && !raiseOpset(model, journal))
      chosen = choose(
        examined,
        (option) => named(option) && option.tables.size === 0 && option.name === "coordinates",
        options.gain,
      );
    const eager = new EagerBudget();
    const packing = await packingOf(examined, options.measure);
    for (const each of examined) {
      throwIfAborted(context.signal);
      const { value, tensor, bytes } = each;
      const found = chosen.get(each);
      if (found) await eager.keep(found.parts, tensor.byteLength);
      const packed = found && (await packing?.(each, found));
      if (!found || packed?.isWorse) {
        // What has no zeros is no candidate
        if (each.stored < tensor.elements)
          journal.skip(value.name, packed ? packed.text : whyDense(each, options.gain));
        setDense(value);
        continue;
      }
      found.apply(value);
      const change: Change = {
        what: value.name,
        how: `${tensor.dtype} ${formatShape(tensor.shape)}, ${zerosOf(each)} -> ${found.text}${packed ? `; ${packed.text}` : ""}`,
        bytesBefore: bytes,
        bytesAfter: found.bytes,
      };
      // Known as soon as the values have been computed: for large tensors, when the model is saved
      if (!found.isExact) Object.defineProperty(change, "error", { get: () => found.error.value, enumerable: true });
      journal.change(change);
    }
    if ([...chosen.values()].some(({ name }) => name === "coordinates"))
      model.irVersion = Math.max(model.irVersion, COORDINATES_IR);
    return model;
  },
});

/** Initializers of the main graph that nobody feeds, in the types whose elements are whole bytes. */
function storable(model: Model): Value[] {
  const outputs = outputValues(model);
  return [...model.graph.initializers.values()].filter(
    (value) =>
      value.tensor !== undefined &&
      value.tensor.byteLength >= LEAST_BYTES &&
      STORABLE.includes(value.tensor.dtype) &&
      !outputs.has(value) &&
      !model.graph.inputs.includes(value),
  );
}

function needsOperators(chosen: ReadonlyMap<Examined, FormOption>): boolean {
  return [...chosen.values()].some(({ name }) => name !== "coordinates");
}

/** Raises the opset to where the operators that expand weights exist; false where that cannot be. */
function raiseOpset(model: Model, journal: Journal): boolean {
  const before = model.opset;
  if (before >= EXPANSION_OPSET) return true;
  try {
    convertOpset(model, EXPANSION_OPSET);
    journal.note(
      `The opset was raised from ${before} to ${EXPANSION_OPSET}, for the operators that expand weights at load.`,
    );
    return true;
  } catch (error) {
    if (!(error instanceof PareError)) throw error;
    journal.note(
      `Opset ${before} lacks the operators that expand weights at load, and cannot be raised (${error.message}): only coordinates are used.`,
    );
    return false;
  }
}

function zerosOf({ tensor, stored, fill }: Examined): string {
  const share = (100 * (1 - stored / tensor.elements)).toFixed(1);
  return fill === "0" ? `${share} % zeros` : `${share} % of code ${fill}`;
}

function whyDense(each: Examined, gain: number): string {
  const { options, bytes } = each;
  const best = options[0];
  const found = best ? `the smallest form (${best.text}) takes ${best.bytes} of ${bytes} bytes` : "it has no elements";
  return `${zerosOf(each)}: ${found}${gain > 0 ? `, and less than ${(100 * gain).toFixed(0)} % is no gain` : ""}`;
}
