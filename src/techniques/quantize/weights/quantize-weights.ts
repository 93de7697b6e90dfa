/**
 * Stores weights in 1 to 16 bits, in 23 number formats; activations stay in floating point.
 *
 * Helps: file size, in proportion to the bits, of every operator with weights (products, convolutions, tables, recurrent layers,
 * attention); memory traffic of 8-, 4- and 2-bit matrix products (language models at batch 1 run several times faster); needs no
 * data, and with some (or with text that a language model writes itself) loses less.
 * Hurts: accuracy at 4 and much more at 2 bits; whatever is unpacked at load gains size only, neither speed nor memory.
 * Needs: nothing; gptq and awq want samples. `bits: 4` and less are best followed by a look at `compare`.
 * Cost: rtn, mse: one pass over the weights, tensor by tensor, in constant memory; a file of any size. gptq, awq: a pass of the
 * samples through the front of the model for each level of layers, one k × k matrix per layer input, k³/3 + n·k² operations
 * per layer (awq: about twenty times n·k²).
 * Maths: integers ŵ = (q − z)·s per block, q ∈ [0, 2^b). Round to nearest, range scales: s = (max − min)/(2^b − 1), or symmetric
 * s = peak/−2^(b−1), z = 2^(b−1). `mse` searches the clipping ratio that minimizes ‖ŵ − w‖² and refits s to the codes.
 * `hqq` takes the least Σ|ŵ − w|^0.7 instead. `gptq` rounds input by input and moves each error to the inputs that follow, by the
 * second moments XᵀX of the layer's inputs; `awq` multiplies weights of large inputs by s = m^α (m their root mean square) and
 * divides the inputs by it, in the normalization before the layer or by a Mul. Both clip scales by ‖X(Ŵ − W)‖².
 * Other formats: ŵ = level[q]·s. Ternary and binary with rtn: |w| > 0.7·mean|w|, s the mean beyond it; s = mean|w|. Powers of two
 * 0, ±2^−i; additive ones are sums of two or three. Codebooks are the k-means optimum of each weight. 3-, 5- and 6-bit codes
 * have no element type: they are stored as planes of 4, 2 and 1 bits and unpacked to floats at load.
 * `layers`, `ends` and `only` choose formats layer by layer.
 * `compensate` keeps the error's best rank-r part, E ≈ A·B, beside the codes (LoRC); by gptq and awq that of least ‖X(E − A·B)‖.
 * Convolutions are rounded so that the errors of a kernel, and then of a channel, cancel: Σ(ŵ − w) ≈ 0 (SQuant).
 * Paper: Yao et al. 2023, ZeroQuant-V2 (arXiv 2303.08302); Zhang et al. 2024, LQER (arXiv 2402.02446); Guo et al. 2022, SQuant (arXiv 2202.07471); Dettmers and Zettlemoyer 2023, "The case for 4-bit precision" (arXiv 2212.09720); Frantar et al. 2023, GPTQ
 * (arXiv 2210.17323); Lin et al. 2023, AWQ (arXiv 2306.00978); Badri and Shaji 2023, "Half-Quadratic Quantization of Large
 * Machine Learning Models"; Li et al. 2016, Ternary Weight Networks (arXiv 1605.04711); Rastegari et al. 2016, XNOR-Net (arXiv
 * 1603.05279); Li et al. 2020, Additive Powers-of-Two (arXiv 1909.13144); Dettmers et al. 2023, QLoRA (arXiv 2305.14314); Han et al.
 * 2016, Deep Compression (arXiv 1510.00149).
 */
import { z } from "zod";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { formatShape } from "../../../base/shape.ts";
import { loadKernels } from "../../../kernels/kernels.ts";
import type { Model } from "../../../ir/model.ts";
import { codeTableBytes } from "../../../transform/unpack-weights.ts";
import { removeDead } from "../../../transform/remove-dead.ts";
import { type WeightSite, weightSites } from "../../../transform/weight-sites.ts";
import { EagerBudget } from "../../eager.ts";
import { keepOf, keepOption } from "../../keep-option.ts";
import { prepareConstants, shortList } from "../../prepare.ts";
import { choices, range } from "../../search-range.ts";
import { type TechniqueFunction, defineTechnique } from "../../technique.ts";
import { BALANCE_TEXT } from "../balanced.ts";
import { type SolverSite, solveWeights, whyNotCompensated, whyNotSolved } from "./calibrated-weights.ts";
import { foldComputedWeights } from "./computed-weights.ts";
import { endsOption, formatsOf, layersOption, onlyOption } from "./layer-formats.ts";
import { factorBytes, lowRankForm } from "./low-rank-form.ts";
import type { Solved } from "./solved-codes.ts";
import { type Bits, type NumberFormat, WEIGHT_FORMATS, type WeightFormat, formatNamed } from "./formats.ts";
import { applyPlan } from "./weight-forms.ts";
import { type Plan, type PlanOptions, bytesOfPlan, nodeBytesOf, planOf } from "./weight-plan.ts";

/** Searching the scales of so many bytes of weights takes seconds, not minutes. */
const SEARCH_BYTES = 1e9;

export const quantizeWeights: TechniqueFunction = defineTechnique({
  name: "quantize-weights",
  family: "quantize",
  summary: "Store weights in few bits: integers, small floats, powers of two, codebooks.",
  needs: [],
  options: z.object({
    to: z
      .enum(WEIGHT_FORMATS)
      .exclude(["float"])
      .optional()
      .describe(
        "number format: 16-bit and 8-bit floats, int16 to int2, ternary, binary, nf4, fp4, (additive) powers of two, codebooks learned from each weight; default: int of --bits",
      )
      .meta({ search: choices("int8", "int6", "int5", "int4", "int3", "int2", "nf4", "codebook16", "ternary") }),
    bits: z
      .union([z.literal(8), z.literal(6), z.literal(5), z.literal(4), z.literal(3), z.literal(2)])
      .optional()
      .describe("bits of an integer per weight (default: 4; 3, 5, 6: no kernel, unpacked at load)")
      .meta({ search: choices(8, 4, 3, 2) }),
    block: z
      .union([
        z.literal(16),
        z.literal(32),
        z.literal(64),
        z.literal(128),
        z.literal(256),
        z.literal("channel"),
        z.literal("tensor"),
      ])
      .optional()
      .describe(
        "weights that share a scale, along the summed axis, or channel, or tensor; default: 32 (8-bit convolutions, 8-bit floats, int16, ternary, binary: channel; codebooks: tensor)",
      )
      .meta({ search: choices(16, 32, 64, 128) }),
    symmetric: z
      .boolean()
      .default(false)
      .describe("integers: a scale and no zero point per block")
      .meta({ search: choices(true, false) }),
    method: z
      .enum(["auto", "rtn", "mse", "hqq", "gptq", "awq", "awq-gptq"])
      .default("auto")
      .describe(
        "rtn: nearest code, scales cover the range; mse: scales clipped for the least squared error, ten times as long; hqq: least error but for outliers; gptq: errors compensated by later inputs, on samples; awq: inputs scaled and scales clipped, on samples; awq-gptq: both; auto: mse up to 1 GB of weights, else rtn",
      )
      .meta({ search: choices("rtn", "mse", "hqq", "gptq", "awq", "awq-gptq") }),
    samples: z.int().min(1).default(64).describe("gptq, awq: samples to calibrate on"),
    length: z
      .int()
      .min(2)
      .default(128)
      .describe("gptq, awq without data: tokens of each text that a decoder writes itself"),
    start: z.int().min(0).optional().describe("first token of those texts; default: drawn at random"),
    actOrder: z
      .boolean()
      .default(true)
      .describe("gptq: inputs with the largest mean square first; false: in their order, scales found on the way")
      .meta({ search: choices(true, false) }),
    damping: z
      .number()
      .min(0)
      .max(10)
      .default(0.01)
      .describe("gptq: added to the diagonal of XᵀX, relative to its mean")
      .meta({ search: range(1e-3, 0.3, { log: true }) }),
    clip: z
      .boolean()
      .default(true)
      .describe("gptq, awq: clip scales by what the layer's outputs lose")
      .meta({ search: choices(true, false) }),
    passes: z
      .int()
      .min(1)
      .default(256)
      .describe(
        "gptq, awq: passes of the samples through the model at most; with one per level of layers each sees the errors before it",
      ),
    compensate: z
      .int()
      .min(1)
      .max(1024)
      .optional()
      .describe(
        "integers: store what rounding lacks as two thin float16 factors of so many columns beside the codes (with gptq and awq, of what the outputs lack); free at run time where weights are unpacked at load",
      )
      .meta({ search: choices(8, 16, 32) }),
    balance: z
      .boolean()
      .default(true)
      .describe(BALANCE_TEXT)
      .meta({ search: choices(true, false) }),
    form: z
      .enum(["auto", "folded", "dequantize"])
      .default("auto")
      .describe(
        "auto: packed kernels for matrix products and tables, the rest unpacked at load; folded: all unpacked at load; dequantize: DequantizeLinear, slow at run time",
      ),
    compute: z
      .enum(["int8", "fp32"])
      .default("int8")
      .describe(
        "arithmetic of packed matrix products: int8 rounds activations block by block and is fast; fp32 does not round",
      )
      .meta({ search: choices("int8", "fp32") }),
    scales: z.enum(["float32", "float16"]).default("float32").describe("how scales are stored"),
    minElements: z.number().int().min(1).default(256).describe("smaller weights are left alone"),
    layers: layersOption,
    ends: endsOption,
    only: onlyOption,
    keep: keepOption,
  }),
  async run(model, options, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    await foldComputedWeights(model, journal);
    const kernels = await loadKernels();
    const keep = keepOf(options.keep, model, journal);
    const eager = new EagerBudget();
    const sites = weightSites(model);
    if (options.to !== undefined && options.bits !== undefined)
      throw new PareError("bad-option", "Both a format and a number of bits", {
        found: `to=${options.to}, bits=${options.bits}`,
        help: "bits=N is short for to=intN: give one of them",
      });
    const all = options.to ?? (`int${options.bits ?? 4}` as const);
    const formatOf = formatsOf(options, model, sites, all, journal);
    const scale = options.method === "rtn" || (options.method === "auto" && !isSmall(sites)) ? "range" : "mse";
    const optionsFor = (name: Exclude<WeightFormat, "float">): PlanOptions => {
      const format = formatNamed(name);
      return {
        format,
        block: options.block ?? format.block,
        symmetric: options.symmetric,
        scale,
        scaleType: options.scales,
        balance: options.balance,
        form: options.form,
        compute: options.compute,
      };
    };
    const tables = tablesWorth(model, sites, (site) => {
      const { format } = formatOf(site);
      return format === "float" ? undefined : optionsFor(format);
    });
    const { method } = options;
    const nearest = method === "auto" || method === "rtn" || method === "mse";
    const solver = !nearest ? method : options.compensate ? (scale === "range" ? "rtn" : "mse") : undefined;
    const solvable: SolverSite[] = [];
    const store = async (
      { site, plan: chosen, options: plan }: SolverSite,
      solved?: Solved,
      won = "",
    ): Promise<void> => {
      const { value, tensor, uses } = site;
      const layers = shortList(uses.map((use) => use.node.name || use.node.opType));
      const { dtype, shape, byteLength } = tensor;
      const bytesAfter = bytesOfPlan(chosen, tensor, plan) + (solved ? factorBytes(solved) : 0);
      const { factors } = solved ?? {};
      const addFactors = solved && factors && lowRankForm(kernels, site, chosen, { ...solved, factors });
      const codes = applyPlan(model, kernels, site, chosen, plan, solved);
      addFactors?.();
      await eager.keep(codes, byteLength);
      journal.change({
        what: value.name,
        how: `${dtype} ${formatShape(shape)} of ${layers} -> ${describe(chosen, plan)}${won}`,
        bytesBefore: byteLength,
        bytesAfter,
        // Known as soon as the weight has been computed: for large ones, when the model is saved.
        get error() {
          return codes.error.value as number;
        },
      });
      if (uses.length > 1) journal.note(`${value.name} is shared by ${layers}: one quantized copy serves all.`);
    };
    for (const [index, site] of sites.entries()) {
      throwIfAborted(context.signal);
      const { value, tensor, uses } = site;
      const label = value.name;
      context.onProgress({ stage: "quantize-weights", done: index, total: sites.length });
      if (keep.value(value) || uses.some((use) => keep.node(use.node))) {
        journal.skip(label, "kept");
        continue;
      }
      if (!["float32", "float16", "bfloat16"].includes(tensor.dtype)) {
        journal.skip(label, `its elements are ${tensor.dtype}`);
        continue;
      }
      if (tensor.elements < options.minElements) {
        journal.skip(label, `${tensor.elements} elements are too few (min-elements ${options.minElements})`);
        continue;
      }
      const { format, why: decided } = formatOf(site);
      if (format === "float") {
        journal.skip(label, decided);
        continue;
      }
      const plan = optionsFor(format);
      const chosen = planOf(model, site, plan);
      if (typeof chosen === "string") {
        journal.skip(label, chosen);
        continue;
      }
      const bytesAfter = bytesOfPlan(chosen, tensor, plan);
      if (bytesAfter + nodeBytesOf(chosen, plan.format) >= tensor.byteLength) {
        journal.skip(
          label,
          `would not shrink: ${tensor.byteLength} bytes would become ${bytesAfter} and the nodes that unpack them`,
        );
        continue;
      }
      if (chosen.kind === "folded" && !tables.has(plan.format.bits)) {
        journal.skip(
          label,
          `the table that unpacks ${plan.format.bits}-bit codes at opset ${model.opset} has ${codeTableBytes(plan.format.bits, model.opset)} bytes, more than is won`,
        );
        continue;
      }
      const found: SolverSite = { site, plan: chosen, options: plan };
      const why = solver && whyNotSolved(found, solver);
      if (solver && why === undefined) solvable.push(found);
      else
        await store(
          found,
          undefined,
          why === undefined ? "" : `; ${scale === "range" ? "rtn" : "mse"} instead of ${solver}: ${why}`,
        );
      if (options.compensate) {
        const left = why ?? whyNotCompensated(found, options.compensate);
        if (left !== undefined) journal.note(`${label} is not compensated: ${left}.`);
      }
    }
    if (solver && solvable.length > 0)
      await solveWeights(model, kernels, solvable, { ...options, method: solver }, context, (found, solved, won) =>
        store(found, solved, `; ${won}`),
      );
    removeDead(model);
    return model;
  },
});

/** Numbers of bits whose weights unpacked at load win more bytes together than the table takes that unpacks them. */
function tablesWorth(
  model: Model,
  sites: readonly WeightSite[],
  optionsOf: (site: WeightSite) => PlanOptions | undefined,
): ReadonlySet<Bits> {
  const savings = new Map<Bits, number>();
  for (const site of sites) {
    const options = optionsOf(site);
    const plan = options && planOf(model, site, options);
    if (!options || typeof plan !== "object" || plan.kind !== "folded") continue;
    const saving = site.tensor.byteLength - bytesOfPlan(plan, site.tensor, options) - nodeBytesOf(plan, options.format);
    const { bits } = options.format;
    savings.set(bits, (savings.get(bits) ?? 0) + Math.max(0, saving));
  }
  return new Set(
    [...savings].filter(([bits, saving]) => saving > codeTableBytes(bits, model.opset)).map(([bits]) => bits),
  );
}

function describe(plan: Plan, { format, symmetric, block }: PlanOptions): string {
  const what = format.kind === "int" && format.bits < 16 ? `${format.bits} bits` : `${format.name}`;
  const kind = format.kind !== "int" || format.bits === 16 ? "" : symmetric ? ", symmetric" : ", asymmetric";
  switch (plan.kind) {
    case "packed":
      return `${what}, block ${plan.block}${kind}, packed`;
    case "folded":
      return `${what}${scalesText(plan.rows, format)}${kind}, unpacked at load`;
    default:
      return `${what}${kind}, DequantizeLinear${plan.group === block ? ` block ${plan.group}` : " per channel"}`;
  }
}

function scalesText(rows: number, format: NumberFormat): string {
  if (format.kind === "half" || (format.kind === "codebook" && rows === 1)) return "";
  return rows === 1 ? ", 1 scale" : `, ${rows} scales`;
}

function isSmall(sites: readonly WeightSite[]): boolean {
  return sites.reduce((sum, { tensor }) => sum + tensor.byteLength, 0) <= SEARCH_BYTES;
}
