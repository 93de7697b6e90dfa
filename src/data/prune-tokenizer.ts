/** A tokenizer.json, or a vocabulary of characters, with fewer tokens: what a kept token needs to be made, and the file with new numbers. */
import { z } from "zod";
import { PareError } from "../base/error.ts";

const added = z.looseObject({ id: z.int().min(0), content: z.string() });
const tokenizer = z.looseObject({
  added_tokens: z.array(added).default([]),
  pre_tokenizer: z.unknown().optional(),
  post_processor: z.unknown().optional(),
  model: z.looseObject({
    type: z.string().optional(),
    vocab: z.union([z.record(z.string(), z.int().min(0)), z.array(z.tuple([z.string(), z.number()]))]),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
    unk_token: z.string().nullish(),
    unk_id: z.int().nullish(),
  }),
});
const characters = z.union([z.array(z.string()), z.record(z.string(), z.int().min(0))]);

type Tokenizer = z.infer<typeof tokenizer>;

/**
 * The tokens that have to stay beside these, so that every text whose tokens are all kept is cut into the same ones: those that
 * BPE merges into a kept one; special and unknown tokens; with `alphabet` all single bytes and characters, so that any other text can still be
 * written. Throws `bad-data` for a file that is neither a tokenizer.json nor characters.
 */
export function neededTokens(
  json: unknown,
  used: Iterable<number>,
  options: { readonly where: string; readonly alphabet: boolean },
): Set<number> {
  const kept = new Set(used);
  const { file } = parse(json, options.where);
  if (!file) return kept;
  const numbers = numbersOf(file);
  for (const { id } of file.added_tokens) kept.add(id);
  const unknown = file.model.unk_id ?? numbers.get(file.model.unk_token ?? "");
  if (typeof unknown === "number") kept.add(unknown);
  if (options.alphabet)
    for (const [token, id] of numbers) if ([...token].length === 1 || /^<0x[0-9A-F]{2}>$/.test(token)) kept.add(id);
  const makers = new Map<string, (readonly [string, string])[]>();
  for (const merge of file.model.merges ?? []) {
    const [a, b] = partsOf(merge);
    makers.set(a + b, [...(makers.get(a + b) ?? []), [a, b]]);
  }
  const names = new Map([...numbers].map(([token, id]) => [id, token]));
  const open = [...kept];
  for (let id = open.pop(); id !== undefined; id = open.pop())
    for (const part of (makers.get(names.get(id) ?? "") ?? []).flat()) {
      const number = numbers.get(part);
      if (number !== undefined && !kept.has(number)) {
        kept.add(number);
        open.push(number);
      }
    }
  return kept;
}

/** The file with these tokens alone, numbered in their order: token `kept[i]` becomes i. Throws `bad-data` as above. */
export function pruneTokenizer(json: unknown, kept: readonly number[], where: string): unknown {
  const { file, list = [] } = parse(json, where);
  const now = new Map(kept.map((id, i) => [id, i]));
  if (!file)
    return Array.isArray(list)
      ? list.filter((_, id) => now.has(id))
      : Object.fromEntries(Object.entries(list).flatMap(([name, id]) => renumbered(name, id, now)));
  const { vocab } = file.model;
  const names = new Set([...numbersOf(file)].flatMap(([token, id]) => (now.has(id) ? [token] : [])));
  const unknown = file.model.unk_id;
  return {
    ...file,
    added_tokens: file.added_tokens.flatMap((token) => {
      const id = now.get(token.id);
      return id === undefined ? [] : [{ ...token, id }];
    }),
    ...(file.post_processor === undefined ? {} : { post_processor: withNewNumbers(file.post_processor, now) }),
    model: {
      ...file.model,
      vocab: Array.isArray(vocab)
        ? vocab.filter((_, id) => now.has(id))
        : Object.fromEntries(Object.entries(vocab).flatMap(([token, id]) => renumbered(token, id, now))),
      ...(file.model.merges
        ? {
            merges: file.model.merges.filter(
              (merge) => partsOf(merge).every((part) => names.has(part)) && names.has(partsOf(merge).join("")),
            ),
          }
        : {}),
      ...(typeof unknown === "number" ? { unk_id: now.get(unknown) ?? null } : {}),
    },
  };
}

function renumbered(name: string, id: number, now: ReadonlyMap<number, number>): [string, number][] {
  const number = now.get(id);
  return number === undefined ? [] : [[name, number]];
}

/** Numbers in the places where post-processors have them: lists called `ids`, and pairs of a text and a number. */
function withNewNumbers(part: unknown, now: ReadonlyMap<number, number>): unknown {
  if (Array.isArray(part)) {
    const [text, id] = part;
    if (part.length === 2 && typeof text === "string" && typeof id === "number") return [text, now.get(id) ?? id];
    return part.map((each) => withNewNumbers(each, now));
  }
  if (typeof part !== "object" || part === null) return part;
  return Object.fromEntries(
    Object.entries(part).map(([name, value]) => [
      name,
      name === "ids" && Array.isArray(value)
        ? value.map((id: unknown) => (typeof id === "number" ? (now.get(id) ?? id) : id))
        : withNewNumbers(value, now),
    ]),
  );
}

function partsOf(merge: string | readonly [string, string]): readonly [string, string] {
  if (typeof merge !== "string") return merge;
  const [a = "", b = ""] = merge.split(" ");
  return [a, b];
}

function numbersOf({ added_tokens, model }: Tokenizer): Map<string, number> {
  const { vocab } = model;
  const numbers = new Map(Array.isArray(vocab) ? vocab.map(([token], id) => [token, id]) : Object.entries(vocab));
  for (const { content, id } of added_tokens) numbers.set(content, id);
  return numbers;
}

/** One of both. */
interface Parsed {
  readonly file?: Tokenizer;
  readonly list?: z.infer<typeof characters>;
}

function parse(json: unknown, where: string): Parsed {
  const isFile = typeof json === "object" && json !== null && "model" in json;
  const [file, list] = isFile ? [tokenizer.safeParse(json), undefined] : [undefined, characters.safeParse(json)];
  if (file?.success) return { file: file.data };
  if (list?.success) return { list: list.data };
  throw new PareError("bad-data", "This is neither a tokenizer.json nor a list of characters", {
    where,
    found: (file ?? list)?.error?.issues[0]?.message ?? "another form",
  });
}
