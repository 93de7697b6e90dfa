/**
 * A number format for each layer: the least damage within a budget, or the fewest bytes at a tolerated damage.
 *
 * Helps: file size at equal accuracy: layers that do not mind get few bits, the few that do get many.
 * Hurts: time to find out (one pass over some samples for each layer and format; kept for the next run). With few samples what a
 * layer loses is measured badly.
 * Needs: samples, best with labels; without any a language model writes its own text, other models get random numbers.
 * Cost: layers × formats passes, then some for verification. A second run with another budget measures nothing again.
 * Maths: min Σ_i loss(i, f_i) subject to Σ_i cost(i, f_i) ≤ budget, one format f_i for each layer i: a multiple-choice knapsack, solved
 * exactly. loss(i, f) is measured with layer i alone in format f; together layers lose more or less than that sum, so the solution is
 * judged as a whole, and where it loses more than the sum its worst layers move up a format, one after the other, others pay for it.
 * Paper: Dong et al. 2019, HAWQ (arXiv 1905.03696); Hubara et al. 2020, AdaQuant's integer program (arXiv 2006.10518); Cai et al. 2020,
 * ZeroQ's Pareto front by divergence (arXiv 2001.00281).
 */
import { z } from "zod";
import { PareError, throwIfAborted } from "../../base/error.ts";
import { Journal } from "../journal.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../technique.ts";
import { type Resource, type Solution, costOf } from "./assign.ts";
import { measuringOptions, sensitivityOptionsOf } from "./options.ts";
import { type Fitted, FormatSearch, STAMP_BYTES, TIMING_SECONDS, averageBits } from "./search-formats.ts";
import {
  type Bench,
  type Cell,
  type Sensitivities,
  damageOf,
  measureNamed,
  measureSensitivities,
  openBench,
} from "./sensitivity.ts";
import { VariantMaker, bitsOf } from "./variant.ts";

const RESOURCES = ["bytes", "averageBits", "bops", "latency"] as const satisfies readonly Resource[];

const options = z.object({
  bytes: z.number().positive().optional().describe("budget: bytes of the file"),
  averageBits: z.number().min(1).max(32).optional().describe("budget: bits of a weight on average, scales not counted"),
  bops: z.number().positive().optional().describe("budget: bit operations of one run (macs · bits · bits)"),
  latency: z
    .number()
    .positive()
    .optional()
    .describe("budget: time of one run, as a part of the original's, measured here"),
  drop: z
    .number()
    .min(0)
    .optional()
    .describe("instead of a budget: tolerated damage by the measure (by=accuracy, drop=0.01: one point); fewest bytes"),
  ...measuringOptions,
  by: z
    .string()
    .default("auto")
    .describe(
      "measure that decides: kl (divergence of the scores), a task metric (loss, accuracy, mse, perplexity, …) or noise; auto: kl where the outputs are scores, for what single layers do to it adds up, else the task's error, else noise. The loss is a good guide on samples that the model was not trained on only",
    ),
  method: z
    .enum(["auto", "rtn", "mse", "hqq", "gptq", "awq", "awq-gptq"])
    .default("auto")
    .describe(
      "how weights are rounded in the end, as in quantize-weights; single layers are tried with mse, rtn or hqq",
    ),
  repairs: z
    .int()
    .min(0)
    .default(8)
    .describe("further solutions that are judged as a whole, where errors do not add up"),
  rounds: z
    .int()
    .min(0)
    .default(1)
    .describe("times that every layer is measured again among the others, where errors do not add up"),
});

type Chosen = z.output<typeof options>;

export const mix: TechniqueFunction = defineTechnique({
  name: "mix",
  family: "quantize",
  summary: "A number format for each layer, by what it costs and what it loses, within a budget.",
  needs: [],
  demands: (chosen) => (chosen.formats.includes("w8a8") ? ["calibration"] : []),
  options,
  async run(model, chosen, context) {
    const limit = limitOf(chosen);
    const measuring = sensitivityOptionsOf(chosen);
    const bench = await openBench(model, measuring, context);
    try {
      const found = await measureSensitivities(bench, measuring, context);
      const measure = chosen.by === "auto" && found.measures.includes("kl") ? "kl" : measureNamed(chosen.by, found);
      const resource = limit.resource ?? "bytes";
      const times = resource === "latency" ? await timesOf(bench, found.cells, context) : new Map<Cell, number>();
      const problem = {
        layers: bench.layers,
        cells: found.cells,
        damage: (cell: Cell) => damageOf(cell, measure),
        cost: costOf(resource, bench.layers, times),
      };
      const search = new FormatSearch({
        problem,
        measure,
        resource,
        maker: bench.maker,
        probe: bench.probe,
        repairs: chosen.repairs,
        rounds: chosen.rounds,
        onTrial: (done) => {
          throwIfAborted(context.signal);
          context.onProgress({
            stage: "mix: judging solutions",
            done,
            total: chosen.repairs + chosen.rounds * bench.layers.length + found.formats.length + 1,
          });
        },
      });
      const fitted =
        limit.drop === undefined
          ? await search.withinBudget(limit.budget ?? 0, found.formats)
          : await search.withinDrop(limit.drop);
      if (!fitted) {
        if (limit.drop === undefined) throw tooTight(limit, found, problem);
        context.journal.note(
          `No format of any layer keeps the drop of ${limit.drop} by ${measure}: nothing was changed.`,
        );
        return model;
      }
      say(fitted, { found, measure, limit, context });
      return await finish(bench, fitted, chosen, measure, context);
    } finally {
      await bench.close();
    }
  },
});

interface Limit {
  readonly resource: Resource | undefined;
  readonly budget: number | undefined;
  readonly drop: number | undefined;
}

/** The one limit that was named. */
function limitOf(chosen: Chosen): Limit {
  const named = [...RESOURCES, "drop" as const].filter((name) => chosen[name] !== undefined);
  const [name] = named;
  if (named.length !== 1 || name === undefined)
    throw new PareError("bad-option", named.length === 0 ? "mix needs a limit" : "mix takes one limit", {
      where: "mix",
      ...(named.length > 0 ? { found: named.join(" and ") } : {}),
      expected: "one of bytes, averageBits, bops, latency, drop",
      help: "For example --bytes 200000, --average-bits 4 or --by accuracy --drop 0.01",
    });
  return name === "drop"
    ? { resource: undefined, budget: undefined, drop: chosen.drop }
    : { resource: name, budget: chosen[name], drop: undefined };
}

async function timesOf({ maker, probe }: Bench, cells: readonly Cell[], context: Context): Promise<Map<Cell, number>> {
  const times = new Map<Cell, number>();
  for (const [index, cell] of cells.entries()) {
    throwIfAborted(context.signal);
    context.onProgress({ stage: "mix: timing layers", done: index, total: cells.length });
    const made = await maker.make(new Map([[cell.layer, cell.format]]));
    if (typeof made !== "string") times.set(cell, await probe.timeRatio(made.model, TIMING_SECONDS));
  }
  return times;
}

/** No choice of formats is within the budget: says how far one can go. */
function tooTight(
  { resource, budget }: Limit,
  found: Sensitivities,
  { layers, cost }: { readonly layers: Sensitivities["layers"]; cost(cell: Cell): number },
): PareError {
  const least = layers.reduce(
    (sum, { name }) => sum + Math.min(0, ...found.cells.filter(({ layer }) => layer === name).map(cost)),
    0,
  );
  const reach: Record<Resource, string> = {
    bytes: `${Math.ceil(found.baseBytes + STAMP_BYTES + least)} bytes or more`,
    bops: `${(found.baseBops + least).toPrecision(4)} or more`,
    averageBits: `${(bitsOf("float") + least).toFixed(2)} bits or more`,
    latency: `about ${(1 + least).toFixed(2)} of the original's time or more`,
  };
  return new PareError("bad-option", "No choice of formats keeps the budget", {
    where: `mix option '${resource ?? ""}'`,
    found: String(budget),
    expected: reach[resource ?? "bytes"],
    help: "Allow formats of fewer bits (formats), or a larger budget",
  });
}

/** What was chosen and what it was measured at, in the journal. */
function say(
  { best, first, uniform, repairs }: Fitted,
  about: { readonly found: Sensitivities; readonly measure: string; readonly limit: Limit; readonly context: Context },
): void {
  const { found, measure, limit, context } = about;
  const { journal } = context;
  const what = `${measure} ${found.baseline[measure] === undefined ? "" : "rise "}on ${found.on}`;
  const counts = new Map<string, number>();
  for (const format of best.assignment.values()) counts.set(format, (counts.get(format) ?? 0) + 1);
  journal.note(
    `Formats: ${[...counts].map(([format, count]) => `${count} layers ${format}`).join(", ")}; ${averageBits(found, best.assignment).toFixed(2)} bits per weight on average${limit.resource === undefined || limit.resource === "averageBits" ? "" : `, ${digits(best.used)} of ${digits(limit.budget ?? 0)} ${limit.resource}`}.`,
  );
  journal.note(
    `What its layers lose alone adds up to ${digits(first.damage)}; together they lose ${digits(first.measured)} (${what}).`,
  );
  if (best !== first)
    journal.note(
      `${repairs > 0 ? `${repairs} further solutions were judged: ` : ""}the one taken loses ${digits(best.measured)}, expected ${digits(best.damage)}.`,
    );
  if (uniform)
    journal.note(
      `The best uniform format within the same limit, ${uniform.format}, loses ${digits(uniform.measured)}.`,
    );
}

/** The chosen formats, rounded by the method that was asked for. */
async function finish(
  { base, layers, maker, probe }: Bench,
  { best }: Fitted,
  chosen: Chosen,
  measure: string,
  context: Context,
): Promise<Bench["base"]> {
  const measuring = sensitivityOptionsOf(chosen);
  const isPlain = measuring.weights?.["method"] === chosen.method || chosen.method === "auto";
  const last = isPlain
    ? maker
    : new VariantMaker(base, layers, { ...measuring.weights, method: chosen.method, samples: chosen.samples }, context);
  const journal = new Journal();
  const made = await last.make(best.assignment, journal);
  if (typeof made === "string") throw new PareError("internal", "A solution cannot be built again", { found: made });
  let { model } = made;
  if (!isPlain) {
    const score = await probe.judge(model);
    const value = score.damages[measure]?.value ?? Number.POSITIVE_INFINITY;
    context.journal.note(
      `Rounded by ${chosen.method} instead of ${measuring.weights?.["method"]}: loses ${digits(value)}.`,
    );
    if (value > best.measured && chosen.drop !== undefined && value > chosen.drop) {
      const plain = await maker.make(best.assignment, journal);
      if (typeof plain !== "string") model = plain.model;
      context.journal.note(`That is beyond the drop: the rounding by ${measuring.weights?.["method"]} was kept.`);
    }
  }
  for (const change of journal.changed) context.journal.change(change);
  for (const skip of journal.skipped)
    context.journal.skip(skip.what, skip.why === "layers '*'" ? reasonOf(skip.what, best) : skip.why);
  for (const note of journal.notes) if (!context.journal.notes.includes(note)) context.journal.note(note);
  return model;
}

function reasonOf(layer: string, { assignment }: Solution): string {
  return assignment.get(layer) === "float"
    ? "its damage in any format costs more than it saves"
    : "not among the layers that were tried";
}

/** Four significant digits. */
function digits(value: number): string {
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "∞";
}
