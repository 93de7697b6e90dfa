/**
 * Removes the tokens that a user's texts never need: rows of the embedding, and columns of the scores of the next token.
 *
 * Helps: file and memory, most in small models of one language or domain, whose vocabulary is often half of their weights; the
 *   product that scores the next token gets faster in proportion.
 * Hurts: tokens that are gone can neither be read nor written. Numbers of tokens change: the tokenizer has to change with the model
 *   (`pare vocabulary` writes it).
 * Needs: something that says which tokens are needed: data whose tokens count, numbers, or both.
 * Cost: one pass over the data; no run of the model.
 * Maths: nothing is approximated: on texts of kept tokens the scores of kept tokens are what they were. A softmax behind
 *   them divides by a sum of fewer terms.
 * Paper: Abdaoui et al. 2020, Load What You Need (arXiv 2010.05609).
 */
import { z } from "zod";
import { costOf } from "../../../analyse/cost.ts";
import { type Group, channelGroups } from "../../../analyse/groups.ts";
import { readerText, type TokenTables, tokenTables } from "../../../analyse/token-tables.ts";
import type { AxisClass } from "../../../analyse/axis-ties.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { neededTokens } from "../../../data/prune-tokenizer.ts";
import { fromRanges, noteKeptPorts } from "../../../ir/kept-ports.ts";
import type { Model } from "../../../ir/model.ts";
import { Tensor } from "../../../ir/tensor.ts";
import { asNumbers } from "../../../run/arrays.ts";
import { settleSizes } from "../../../transform/settle-sizes.ts";
import { sliceGroups } from "../../../transform/slice-groups.ts";
import { prepareConstants } from "../../prepare.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../../technique.ts";

/** The label of a place that is not to be predicted. */
const IGNORED = -100;
/** Samples that are counted at a time. */
const BATCH = 64;

const options = z.object({
  tokens: z
    .string()
    .regex(/^\d+(-\d+)?(,\d+(-\d+)?)*$/)
    .optional()
    .describe("numbers of tokens that stay whatever the data say, such as 0-258,1000"),
  least: z.int().min(1).default(1).describe("tokens stay that the data have so often at least"),
  tokenizer: z
    .union([z.string(), z.custom<object>((value) => typeof value === "object" && value !== null)])
    .optional()
    .describe(
      "the model's tokenizer.json: its special tokens stay, and what its merges make kept tokens from; in the library also its content",
    ),
  alphabet: z
    .boolean()
    .default(true)
    .describe("with a tokenizer: keep single bytes and characters, so that any text can still be read"),
  multipleOf: z.int().min(1).default(1).describe("so many tokens stay that their number is a multiple of this"),
  input: z
    .string()
    .optional()
    .describe("the input that has the tokens; default: the one that looks the largest table up"),
});

type Chosen = z.output<typeof options>;

export const pruneVocabulary: TechniqueFunction = defineTechnique({
  name: "prune-vocabulary",
  family: "prune",
  summary: "Remove the tokens that texts never need from embedding and output scores.",
  needs: [],
  options,
  async run(model, chosen, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    settleSizes(model);
    const found = tablesFor(model, chosen);
    const kept = await keptTokens(found, chosen, context);
    if (kept.length === found.size) {
      journal.note(`All ${found.size} tokens are needed.`);
      return model;
    }
    renumber(model, found, kept);
    const before = costOf(model);
    const groups = channelGroups(model);
    const axes = vocabularyAxes(model, found, groups.axisOf);
    const stays = new Set(kept);
    const gone = Array.from({ length: found.size }, (_, id) => id).filter((id) => !stays.has(id));
    const group: Group = { index: 0, parts: axes.map(({ axis }) => ({ axis, indices: gone })) };
    const names = axes.map(({ name }) => name);
    const sides = sliceGroups(model, groups, [group]);
    noteKeptPorts(model, { ...sides, tokens: { [found.input.name]: kept } });
    for (const name of names) journal.change({ what: name, how: `${found.size} -> ${kept.length} tokens` });
    const after = costOf(model);
    journal.note(
      `Tokens have new numbers: 'pare vocabulary' writes the tokenizer that has them. MACs ${before.macs} -> ${after.macs}, parameters ${before.parameters} -> ${after.parameters}`,
    );
    return model;
  },
});

function tablesFor(model: Model, { input }: Chosen): TokenTables {
  const all = tokenTables(model);
  const found = input === undefined ? all[0] : all.find((each) => each.input.name === input);
  if (found) return found;
  throw new PareError("bad-option", "No table of tokens", {
    where: input === undefined ? "the model's inputs" : `input '${input}'`,
    found: all.length > 0 ? `tables behind ${all.map((each) => `'${each.input.name}'`).join(", ")}` : "none",
    expected: "an integer input whose numbers look rows of a table up",
  });
}

/** Numbers of tokens that stay, ascending. */
async function keptTokens({ input, size }: TokenTables, chosen: Chosen, context: Context): Promise<number[]> {
  const { data, signal, journal } = context;
  if (!data && chosen.tokens === undefined)
    throw new PareError("bad-option", "Nothing says which tokens are needed", {
      where: "prune-vocabulary",
      help: "Name texts with --data (their tokens stay) or numbers with --tokens",
    });
  const counter = (): { readonly counts: Float64Array; add(ids: ArrayLike<number>): void } => {
    const counts = new Float64Array(size);
    return {
      counts,
      add(ids) {
        for (let i = 0; i < ids.length; i++) {
          const id = ids[i] as number;
          if (!(id >= 0 && id < size))
            throw new PareError("bad-data", "A token is not in the model's vocabulary", {
              where: data?.name ?? "option 'tokens'",
              found: String(id),
              expected: `0 to ${size - 1}`,
            });
          counts[id] = (counts[id] as number) + 1;
        }
      },
    };
  };
  const used = new Set<number>();
  if (data) {
    const field =
      data.fields.find(({ name }) => name === input.name) ?? data.fields.find(({ dtype }) => /^u?int/.test(dtype));
    if (!field)
      throw new PareError("bad-data", "The data have no tokens", {
        where: data.name,
        expected: `integers for '${input.name}'`,
      });
    // What is to be predicted has to be there; most of it is read one place later, so that it is not counted twice.
    const [read, written] = [counter(), counter()];
    for await (const batch of data.batches({ size: BATCH, signal })) {
      throwIfAborted(signal);
      const array = batch.fields[field.name];
      if (array) read.add(asNumbers(array));
      if (batch.labels && data.labels === "tokens")
        written.add(Array.from(asNumbers(batch.labels)).filter((id) => id !== IGNORED));
    }
    for (const [id, times] of read.counts.entries())
      if (Math.max(times, written.counts[id] as number) >= chosen.least) used.add(id);
    journal.note(`${used.size} of ${size} tokens are ${chosen.least} times or more in ${data.name}.`);
  }
  const named = chosen.tokens === undefined ? [] : fromRanges(chosen.tokens);
  counter().add(named);
  for (const id of named) used.add(id);
  const { tokenizer, alphabet } = chosen;
  const where = typeof tokenizer === "string" ? tokenizer : "option 'tokenizer'";
  const json = typeof tokenizer === "string" ? await readTokenizer(tokenizer) : tokenizer;
  const needed = json === undefined ? used : neededTokens(json, used, { where, alphabet });
  const kept = new Set([...needed].filter((id) => id < size));
  const wanted = Math.min(size, Math.ceil(kept.size / chosen.multipleOf) * chosen.multipleOf);
  // What fills up to the multiple are the first tokens: in most vocabularies the most frequent ones.
  for (let id = 0; kept.size < wanted && id < size; id++) kept.add(id);
  return [...kept].sort((a, b) => a - b);
}

async function readTokenizer(path: string): Promise<unknown> {
  const { readJson } = await import("../../../data/read-json.node.ts");
  return readJson(path);
}

/** Constants that token numbers are compared with take the new numbers; whoever else computes with them is in the way. */
function renumber(model: Model, { others }: TokenTables, kept: readonly number[]): void {
  const now = new Map(kept.map((id, i) => [id, i]));
  for (const node of others) {
    const index = node.inputs.findIndex((input) => input?.tensor);
    const tensor = node.inputs[index]?.tensor;
    const numbers = tensor?.peekNumbers();
    const isComparison = node.outputs[0]?.dtype === "bool" && node.inputs.length === 2 && node.graph;
    const same = numbers?.every((id) => now.get(id) === id);
    // New numbers are in the old order: what was less is less.
    if (isComparison && same) continue;
    if (
      !isComparison ||
      !tensor ||
      !numbers ||
      !numbers.every((id) => now.has(id)) ||
      !/^int(32|64)$/.test(tensor.dtype)
    )
      throw new PareError("unsupported", "The model computes with the numbers of tokens", {
        where: readerText(node),
        help: numbers
          ? `Keep the tokens that it compares with: --tokens ${numbers.join(",")}`
          : "Numbers that tokens are not looked up by cannot change",
      });
    const mapped = numbers.map((id) => now.get(id) ?? 0);
    const made =
      tensor.dtype === "int64"
        ? Tensor.int64(mapped, tensor.shape)
        : Tensor.of("int32", tensor.shape, Int32Array.from(mapped));
    node.setInput(index, node.graph?.addInitializer(`${node.inputs[index]?.name}_renumbered`, made));
  }
}

interface NamedAxis {
  readonly axis: AxisClass;
  readonly name: string;
}

/** Rows of the tables, and whatever ends in scores of as many tokens. */
function vocabularyAxes(
  model: Model,
  { tables, size }: TokenTables,
  axisOf: (value: TokenTables["input"], axis: number) => AxisClass | undefined,
): NamedAxis[] {
  const found = new Map<AxisClass, string>();
  for (const table of tables) {
    const axis = axisOf(table, 0);
    if (axis) found.set(axis, table.name);
  }
  for (const output of model.graph.outputs) {
    const last = (output.shape?.length ?? 0) - 1;
    const axis = output.shape?.[last] === size && output.dtype !== "int64" ? axisOf(output, last) : undefined;
    if (axis && !found.has(axis)) found.set(axis, output.name);
  }
  return [...found].map(([axis, name]) => ({ axis, name }));
}
