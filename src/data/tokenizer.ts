/** tokenizer.json of plain kinds: BPE (byte level or with byte fallback) and WordPiece; other kinds are refused by name. */
import { PareError } from "../base/error.ts";
import { z } from "zod";
import { bytePairs, type Ranks } from "./bpe.ts";
import type { Vocabulary } from "./vocabulary.ts";

const component = z.looseObject({ type: z.string() });

const file = z.looseObject({
  normalizer: component.nullish(),
  pre_tokenizer: component.nullish(),
  added_tokens: z.array(z.looseObject({ id: z.int().min(0), content: z.string() })).default([]),
  model: z.looseObject({
    type: z.string().optional(),
    vocab: z.record(z.string(), z.int().min(0)),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
    unk_token: z.string().nullish(),
    byte_fallback: z.boolean().nullish(),
    ignore_merges: z.boolean().nullish(),
    continuing_subword_prefix: z.string().nullish(),
    end_of_word_suffix: z.string().nullish(),
    max_input_chars_per_word: z.int().optional(),
  }),
});
type Component = z.infer<typeof component>;
type TokenizerFile = z.infer<typeof file>;

/** Words of a text, in the alphabet of the model. */
type Step = (texts: readonly string[]) => string[];

/** Reads tokenizer.json. No special tokens are added around the text. Throws `bad-data` naming the part that is not supported. */
export function parseTokenizer(json: unknown, where: string): Vocabulary {
  const parsed = file.safeParse(json);
  if (!parsed.success)
    throw new PareError("bad-data", "This is not a tokenizer.json of BPE or WordPiece", {
      where,
      found: parsed.error.issues[0]?.message ?? "another form",
    });
  const tokenizer = parsed.data;
  const { model } = tokenizer;
  const vocab = new Map(Object.entries(model.vocab));
  for (const token of tokenizer.added_tokens) vocab.set(token.content, token.id);
  let size = 0;
  for (const id of vocab.values()) size = Math.max(size, id + 1);
  const normalize = normalizer(tokenizer.normalizer, where);
  const split = preTokenizer(tokenizer.pre_tokenizer, where);
  const type = model.type ?? (model.merges ? "BPE" : "WordPiece");
  if (type !== "BPE" && type !== "WordPiece") unsupported("model", type, where);
  const encodeWord = type === "BPE" ? bpe(tokenizer, vocab, where) : wordPiece(tokenizer, vocab, where);
  const cache = new Map<string, readonly number[]>();
  return {
    size,
    encode(text) {
      const tokens: number[] = [];
      for (const word of split([normalize(text)])) {
        let ids = cache.get(word);
        if (!ids) {
          ids = encodeWord(word);
          if (word.length < 64 && cache.size < 100_000) cache.set(word, ids);
        }
        for (const id of ids) tokens.push(id);
      }
      return tokens;
    },
  };
}

function unsupported(part: string, type: string, where: string): never {
  throw new PareError("bad-data", `tokenizer.json uses a ${part} that is not supported here`, {
    where,
    found: type,
    expected: "BPE or WordPiece with plain normalizers and pre-tokenizers",
    help: "Tokenize elsewhere (@huggingface/tokenizers is not installed with pare) and pass the token numbers with npz:",
  });
}

function normalizer(part: Component | null | undefined, where: string): (text: string) => string {
  if (!part) return (text) => text;
  switch (part.type) {
    case "Sequence": {
      const steps = z
        .array(component)
        .parse(part["normalizers"])
        .map((each) => normalizer(each, where));
      return (text) => steps.reduce((result, step) => step(result), text);
    }
    case "Prepend": {
      const start = z.string().parse(part["prepend"]);
      return (text) => (text === "" ? text : start + text);
    }
    case "Replace": {
      const pattern = z.object({ String: z.string() }).safeParse(part["pattern"]);
      if (!pattern.success) return unsupported("normalizer", "Replace with a pattern", where);
      const content = z.string().parse(part["content"]);
      return (text) => text.replaceAll(pattern.data.String, () => content);
    }
    case "Lowercase":
      return (text) => text.toLowerCase();
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = part.type;
      return (text) => text.normalize(form);
    }
    case "StripAccents":
      return stripAccents;
    case "BertNormalizer": {
      const lower = part["lowercase"] !== false;
      const accents = part["strip_accents"] ?? lower;
      return (text) => {
        // Control characters go, white space becomes blanks, Chinese characters stand alone.
        let clean = text
          .replaceAll(/[\p{Cc}\p{Cf}�]/gu, (c) => (/[\t\n\r]/.test(c) ? " " : ""))
          .replaceAll(/\p{Zs}/gu, " ");
        clean = clean.replaceAll(/\p{Script=Han}/gu, (c) => ` ${c} `);
        if (accents) clean = stripAccents(clean.normalize("NFD"));
        return lower ? clean.toLowerCase() : clean;
      };
    }
    default:
      return unsupported("normalizer", part.type, where);
  }
}

function stripAccents(text: string): string {
  return text.replaceAll(/\p{Mn}/gu, "");
}

/** GPT-2's pattern: contractions, letters, digits and signs, each with the blank before it. */
const GPT2 = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
const PUNCTUATION = /[\p{P}!-/:-@[-`{-~]/u;

function preTokenizer(part: Component | null | undefined, where: string): Step {
  if (!part) return (texts) => [...texts];
  switch (part.type) {
    case "Sequence": {
      const steps = z
        .array(component)
        .parse(part["pretokenizers"])
        .map((each) => preTokenizer(each, where));
      return (texts) => steps.reduce<string[]>((result, step) => step(result), [...texts]);
    }
    case "ByteLevel": {
      const prefix = part["add_prefix_space"] === true;
      const split = part["use_regex"] !== false;
      return (texts) =>
        texts.flatMap((text) => {
          const whole = prefix && !text.startsWith(" ") ? ` ${text}` : text;
          return (split ? (whole.match(GPT2) ?? []) : [whole]).map(byteLevel);
        });
    }
    case "Whitespace":
      return (texts) => texts.flatMap((text) => text.match(/[\p{L}\p{N}\p{M}_]+|[^\p{L}\p{N}\p{M}_\s]+/gu) ?? []);
    case "WhitespaceSplit":
      return (texts) => texts.flatMap((text) => text.split(/\s+/u).filter(Boolean));
    case "BertPreTokenizer":
      return (texts) =>
        texts.flatMap((text) =>
          text.split(/\s+/u).flatMap((word) => word.split(new RegExp(`(${PUNCTUATION.source})`, "u")).filter(Boolean)),
        );
    case "Metaspace": {
      const mark = z.string().default("▁").parse(part["replacement"]);
      const prepend = part["prepend_scheme"] !== "never" && part["add_prefix_space"] !== false;
      const split = part["split"] !== false;
      return (texts) =>
        texts.flatMap((text) => {
          const marked = text.replaceAll(" ", mark);
          const whole = prepend && !marked.startsWith(mark) ? mark + marked : marked;
          return split ? whole.split(new RegExp(`(?=${mark})`, "u")) : [whole];
        });
    }
    default:
      return unsupported("pre-tokenizer", part.type, where);
  }
}

/** GPT-2's alphabet: printable Latin-1 bytes are themselves, the others U+0100 and up, in byte order. */
const BYTE_ALPHABET: readonly string[] = (() => {
  let spare = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCodePoint(printable ? byte : spare++);
  });
})();

function byteLevel(text: string): string {
  return Array.from(new TextEncoder().encode(text), (byte) => BYTE_ALPHABET[byte]).join("");
}

type EncodeWord = (word: string) => number[];

function bpe(tokenizer: TokenizerFile, vocab: ReadonlyMap<string, number>, where: string): EncodeWord {
  const { model } = tokenizer;
  if (model.continuing_subword_prefix || model.end_of_word_suffix)
    unsupported("model", "BPE with prefixes or suffixes of subwords", where);
  const ranks = new Map<string, Map<string, number>>();
  for (const [rank, merge] of (model.merges ?? []).entries()) {
    const [a = "", b = ""] = typeof merge === "string" ? merge.split(" ") : merge;
    const row = ranks.get(a) ?? new Map<string, number>();
    ranks.set(a, row.set(b, rank));
  }
  const unknown = model.unk_token === null || model.unk_token === undefined ? undefined : vocab.get(model.unk_token);
  return (word) => {
    const whole = model.ignore_merges ? vocab.get(word) : undefined;
    if (whole !== undefined) return [whole];
    return bytePairs([...word], ranks satisfies Ranks).flatMap((symbol) => {
      const id = vocab.get(symbol);
      if (id !== undefined) return [id];
      const bytes = Array.from(new TextEncoder().encode(symbol), (byte) => {
        const name = `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
        return model.byte_fallback ? vocab.get(name) : undefined;
      });
      if (bytes.every((byte) => byte !== undefined)) return bytes;
      return [unknown ?? missingToken(symbol, where)];
    });
  };
}

/** Longest match first from the left (Wu et al. 2016, as in BERT); a word that cannot be covered is one unknown token. */
function wordPiece(tokenizer: TokenizerFile, vocab: ReadonlyMap<string, number>, where: string): EncodeWord {
  const { model } = tokenizer;
  const prefix = model.continuing_subword_prefix ?? "##";
  const longest = model.max_input_chars_per_word ?? 100;
  const unknown = vocab.get(model.unk_token ?? "[UNK]");
  return (word) => {
    const characters = [...word];
    const ids: number[] = [];
    let start = 0;
    while (start < characters.length && characters.length <= longest) {
      let end = characters.length;
      const piece = (): number | undefined =>
        vocab.get((start > 0 ? prefix : "") + characters.slice(start, end).join(""));
      while (end > start && piece() === undefined) end--;
      const id = piece();
      if (end === start || id === undefined) break;
      ids.push(id);
      start = end;
    }
    return start >= characters.length ? ids : [unknown ?? missingToken(word, where)];
  };
}

function missingToken(symbol: string, where: string): never {
  throw new PareError("bad-data", "The text has a piece that the tokenizer lacks, and there is no unknown token", {
    where,
    found: JSON.stringify(symbol.slice(0, 40)),
  });
}
