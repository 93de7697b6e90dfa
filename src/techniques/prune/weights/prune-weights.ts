/**
 * Sets the least important weights to zero: one by one, n of every m, or in blocks.
 *
 * Helps: bytes: what is left is stored with its positions (`store-sparse`), 8 times smaller at 90 % zeros; a start for
 * fine-tuning with the zeros held.
 * Hurts: accuracy from about half of the weights on, unless it is fine-tuned. Nothing runs faster: at load, the engine makes the
 * weights dense again.
 * Needs: nothing; wanda, obd, obs, sparsegpt, taylor, fisher and sensitivity want samples; snip and movement need labelled ones.
 * Cost: magnitude: a few passes over the weights, in constant memory. wanda, obd: a pass of the samples through the front of the model
 * for each level of layers. obs, sparsegpt: also k³/3 operations per layer (sparsegpt: + n·k²), and the weights in memory. taylor,
 * fisher: gradients of all weights for each sample. snip, movement: a step of training for each batch.
 * Maths: keeps the elements of largest score. magnitude |w|; wanda |w|·‖x_j‖; obd w²·[XᵀX]_jj/2; obs w²/(2[H⁻¹]_jj); taylor |w·E[g]|; fisher
 * w²·E[g²]; sparsegpt: obs, with the inputs that are still to come making up for what goes; snip |w·g| over large batches, meant for a
 * network that is not trained yet; movement −Σ w·g over steps of training; random. Compared within an output (wanda's own way), a
 * layer (local), all layers (global, snip's own way), or all layers after division by each layer's root mean square (normalised). Shares by layer: uniform, erk (Erdős–Rényi-kernel), lamp, or sensitivity (least total error of the outputs).
 * Paper: Han et al. 2015 (arXiv 1506.02626); Zhu and Gupta 2017 (arXiv 1710.01878); Mishra et al. 2021 for 2:4 (arXiv 2104.08378);
 * Sun et al. 2023, Wanda (arXiv 2306.11695); Frantar and Alistarh 2023, SparseGPT (arXiv 2301.00774); Molchanov et al. 2017, Taylor
 * (arXiv 1611.06440); Theis et al. 2018, Fisher (arXiv 1801.05787); Lee et al. 2019, SNIP (arXiv 1810.02340); Sanh et al. 2020,
 * movement (arXiv 2005.07683); Evci et al. 2020, ERK (arXiv 1911.11134); Lee et al. 2021, LAMP (arXiv 2010.07611).
 */
import { z } from "zod";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { loadKernels } from "../../../kernels/kernels.ts";
import { type WeightSite, weightSites } from "../../../transform/weight-sites.ts";
import { keepOf, keepOption } from "../../keep-option.ts";
import { prepareConstants } from "../../prepare.ts";
import { choices, range } from "../../search-range.ts";
import { type TechniqueFunction, defineTechnique } from "../../technique.ts";
import { parsePattern, reasonAgainst } from "./mask-rules.ts";
import { GRADIENT_SCORES, INPUT_SCORES, STEP_SCORES, type WeightScore } from "./scores.ts";
import { storeSparse } from "../storage/store-sparse.ts";
import { type PruneOptions, WeightPruner } from "./weight-pruner.ts";

const options = z.object({
  ratio: z
    .number()
    .min(0)
    .max(1)
    .default(0.5)
    .describe("share of the weights set to zero, 0..1 (n:m patterns set their own)")
    .meta({ search: range(0.2, 0.9) }),
  score: z
    .union([
      z.enum(["magnitude", "random", ...INPUT_SCORES, "sparsegpt", ...GRADIENT_SCORES, ...STEP_SCORES]),
      z.custom<WeightScore>((value) => typeof value === "function"),
    ])
    .default("magnitude")
    .describe("what makes a weight important; in the library also a function of the weight"),
  scope: z
    .enum(["output", "local", "global", "normalised"])
    .optional()
    .describe(
      "scores are compared within each output, each layer, all layers, or all layers normalised; default: output for wanda, global for snip, else local",
    )
    .meta({ search: choices("local", "global") }),
  allocation: z
    .enum(["uniform", "erk", "lamp", "sensitivity"])
    .default("uniform")
    .describe(
      "how much goes of each layer: the same, by its shape, by LAMP scores, or by what its pruning does to the outputs",
    )
    .meta({ search: choices("uniform", "erk", "lamp") }),
  pattern: z
    .string()
    .regex(/^[1-9]\d*[:x][1-9]\d*$/, "a pattern is n:m, for example 2:4, or a block, for example 4x4")
    .optional()
    .describe(
      "n:m keeps n of every m neighbours along the summed axis, for example 2:4; RxC: blocks of R rows and C columns",
    ),
  samples: z.int().min(1).default(64).describe("samples for scores that read inputs or gradients, and for sensitivity"),
  length: z.int().min(2).default(128).describe("without data: tokens of each text that a decoder writes itself"),
  start: z.int().min(0).optional().describe("first token of those texts; default: drawn at random"),
  learningRate: z
    .number()
    .positive()
    .default(0.01)
    .describe("movement: highest learning rate of its pass over the samples"),
  damping: z
    .number()
    .min(0)
    .max(10)
    .default(0.01)
    .describe("obs, sparsegpt: added to the diagonal of XᵀX, relative to its mean"),
  passes: z
    .int()
    .min(1)
    .default(256)
    .describe(
      "passes of the samples through the model at most; with one per level of layers each sees what was pruned before it",
    ),
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
    const pattern = parsePattern(chosen.pattern);
    checkTogether(chosen, pattern.kind);
    const keep = keepOf(chosen.keep, model, journal);
    const sites = candidates(weightSites(model, { roles: chosen.tables ? ["kernel", "table"] : ["kernel"] }));
    const pruned = sites.filter((site) => {
      const why =
        keep.value(site.value) || site.uses.some((use) => keep.node(use.node)) ? "kept" : reasonAgainst(site, pattern);
      if (why) journal.skip(site.value.name, why);
      return !why;
    });
    if (pattern.kind !== "group" && chosen.ratio === 0) return model;
    throwIfAborted(context.signal);
    await new WeightPruner(model, await loadKernels(), pruned, pattern, chosen, context).run();
    if (pruned.length > 0 && chosen.store === "dense")
      journal.note("Zeros are stored like any number: the file keeps its size until it is compressed (brotli, gzip).");
    return model;
  },
});

function candidates(sites: readonly WeightSite[]): WeightSite[] {
  return sites.filter((site) => ["float32", "float16", "bfloat16", "float64"].includes(site.tensor.dtype));
}

/** Refuses options that contradict each other. */
function checkTogether({ score, scope, allocation }: PruneOptions, pattern: string): void {
  const refuse = (option: string, found: string, expected: string, why: string): never => {
    throw new PareError("bad-option", why, { where: `prune-weights option '${option}'`, found, expected });
  };
  const across = scope === "global" || scope === "normalised";
  if (across && allocation !== "uniform")
    refuse(
      "allocation",
      allocation,
      "uniform",
      "Scores that are compared over all layers allocate the shares themselves",
    );
  if (allocation === "lamp" && scope !== undefined)
    refuse("scope", scope, "none", "LAMP scores are compared over all layers");
  if (score === "sparsegpt" && (across || scope === "output" || allocation === "lamp"))
    refuse("scope", scope ?? allocation, "local", "SparseGPT chooses its masks within each layer, block after block");
  if (pattern === "block" && scope === "output")
    refuse("scope", "output", "local, global or normalised", "A block belongs to several outputs");
}
