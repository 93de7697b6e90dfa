/** `text:` reads language: windows of one running text, documents, or sentences with classes. */
import type { DType, TypedData } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { requireFile, resolveBeside } from "./bytes.ts";
import { numberedClasses } from "./classes.ts";
import type { Buffers, Field, Reader, Source } from "./dataset.ts";
import type { Host } from "./host.ts";
import type { NameOptions } from "./options.ts";
import { BYTES, charactersOf, parseVocabulary, type Vocabulary } from "./vocabulary.ts";

/** Largest text that is read: it and its tokens lie in memory. */
const BYTES_LIMIT = 512 * 2 ** 20;
/** Label of a padded position: losses and metrics leave it out. */
const IGNORED = -100;

export const text: Reader = {
  scheme: "text",
  summary:
    "language: text:shakespeare.txt?vocab=chars&length=128, or text:sst2.tsv?format=tsv&vocab=tokenizer.json&length=64",
  options: {
    vocab:
      "required: bytes, chars (characters of this text, in code point order), or a vocabulary .json or tokenizer.json",
    format: "windows (default) of the running text, documents (see separator), or tsv (sentence, tab, class)",
    length: "tokens per sample (default 128)",
    stride: "windows: tokens from one to the next (default: length)",
    separator: "documents: what stands between them (default: end of line)",
    start: "token number put before every sample, such as 1",
    pad: "token number that fills short samples (default 0)",
    dtype: "int64 (default), int32 or float32",
    text: "tsv: column of the sentence, from 0 (default 0)",
    label: "tsv: column of the class number, from 0 (default 1)",
  },

  async open(path, options, host): Promise<Source> {
    await requireFile(host, path, options.name);
    if ((await host.byteLength(path)) > BYTES_LIMIT)
      throw new PareError("bad-data", "The text is too large to hold in memory", {
        where: path,
        expected: `at most ${BYTES_LIMIT} bytes`,
        help: "Split it",
      });
    const content = decodeText(await host.read(path), path);
    const vocabulary = await openVocabulary(path, content, options, host);
    const plan: Plan = {
      vocabulary,
      length: options.integer("length", 1, 1 << 20) ?? 128,
      start: tokenOption("start", vocabulary, options),
      pad: tokenOption("pad", vocabulary, options) ?? 0,
      dtype: options.choice("dtype", ["int64", "int32", "float32"]) ?? "int64",
    };
    const format = options.choice("format", ["windows", "documents", "tsv"]) ?? "windows";
    if (format === "windows") return windows(content, plan, options);
    return format === "documents" ? documents(content, plan, options) : sentences(content, path, plan, options);
  },
};

interface Plan {
  readonly vocabulary: Vocabulary;
  readonly length: number;
  readonly start: number | undefined;
  readonly pad: number;
  readonly dtype: DType;
}

function decodeText(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new PareError("bad-data", "The file is not UTF-8 text", { where: path, cause, help: "Convert it to UTF-8" });
  }
}

async function openVocabulary(path: string, content: string, options: NameOptions, host: Host): Promise<Vocabulary> {
  const word = options.text("vocab");
  if (word === undefined)
    throw new PareError("bad-data", "The name does not say how text becomes tokens", {
      where: options.name,
      expected: "vocab=bytes, vocab=chars or vocab=FILE (a vocabulary .json or tokenizer.json)",
    });
  if (word === "bytes") return BYTES;
  if (word === "chars") return charactersOf(content);
  const file = await resolveBeside(host, host.folderOf(path), word, options);
  return parseVocabulary(decodeText(await host.read(file), file), file);
}

function tokenOption(option: string, vocabulary: Vocabulary, options: NameOptions): number | undefined {
  return options.integer(option, 0, vocabulary.size - 1);
}

function tokensField(plan: Plan): Field {
  return { name: "input_ids", dtype: plan.dtype, shape: [plan.length], vocabulary: plan.vocabulary.size };
}

/** 1 where a token is real, 0 where it fills. */
function maskField(plan: Plan): Field {
  return { name: "attention_mask", dtype: plan.dtype, shape: [plan.length] };
}

/** Writes one token into an array of whatever dtype. */
function put(array: TypedData, index: number, value: number): void {
  if (array instanceof BigInt64Array || array instanceof BigUint64Array) array[index] = BigInt(value);
  else array[index] = value;
}

/** Sample i: tokens i·stride … + length, labels the same one further; with `start`, the first input is that token. */
function windows(content: string, plan: Plan, options: NameOptions): Source {
  const { vocabulary, length, start } = plan;
  const stride = options.integer("stride", 1, 1 << 20) ?? length;
  const tokens = compact(vocabulary.encode(content), vocabulary.size);
  // Without a start token, one token more than the inputs is needed for the last label.
  const needed = start === undefined ? length + 1 : length;
  if (tokens.length < needed)
    options.fail(
      "length",
      String(length),
      `at most ${tokens.length - (needed - length)}: the text has ${tokens.length} tokens`,
    );
  return {
    size: Math.floor((tokens.length - needed) / stride) + 1,
    fields: [tokensField(plan)],
    labels: "tokens",
    labelShape: [length],
    classes: vocabulary.names,
    fill(indices: ArrayLike<number>, into: Buffers) {
      const inputs = into.fields["input_ids"] as TypedData;
      const labels = into.labels as Int32Array;
      for (let k = 0; k < indices.length; k++) {
        const first = (indices[k] as number) * stride;
        for (let i = 0; i < length; i++) {
          const at = k * length + i;
          if (start === undefined) {
            put(inputs, at, tokens[first + i] as number);
            labels[at] = tokens[first + i + 1] as number;
          } else {
            put(inputs, at, i === 0 ? start : (tokens[first + i - 1] as number));
            labels[at] = tokens[first + i] as number;
          }
        }
      }
    },
  };
}

/** Tokens in the narrowest array that holds them. */
function compact(tokens: ArrayLike<number>, size: number): ArrayLike<number> {
  if (tokens instanceof Uint8Array) return tokens;
  return size <= 256 ? Uint8Array.from(tokens) : size <= 65_536 ? Uint16Array.from(tokens) : Int32Array.from(tokens);
}

/** One sample per document: cut at `length`, or padded with labels that do not count. */
function documents(content: string, plan: Plan, options: NameOptions): Source {
  const { vocabulary, length, start, pad } = plan;
  const separator = options.text("separator");
  const parts = (separator === undefined ? content.split(/\r?\n/) : content.split(separator)).map((part) =>
    part.trim(),
  );
  const rows = parts.filter(Boolean).map((part) => encodeHead(vocabulary, part, start, length + 1));
  return {
    size: rows.length,
    fields: [tokensField(plan), maskField(plan)],
    labels: "tokens",
    labelShape: [length],
    classes: vocabulary.names,
    fill(indices: ArrayLike<number>, into: Buffers) {
      const labels = into.labels as Int32Array;
      for (let k = 0; k < indices.length; k++) {
        const row = rows[indices[k] as number] as readonly number[];
        putPadded(row, k, plan, into, pad);
        for (let i = 0; i < length; i++) labels[k * length + i] = row[i + 1] ?? IGNORED;
      }
    },
  };
}

/** One sample per line `sentence TAB class`. */
function sentences(content: string, path: string, plan: Plan, options: NameOptions): Source {
  const textColumn = options.integer("text", 0, 1000) ?? 0;
  const labelColumn = options.integer("label", 0, 1000) ?? 1;
  const lines = content.split(/\r?\n/);
  if (lines.at(-1) === "") lines.pop();
  let classes = 0;
  const rows = lines.map((line, i) => {
    const cells = line.split("\t");
    const word = cells[labelColumn] ?? "";
    const sentence = cells[textColumn];
    if (sentence === undefined || !/^\d{1,9}$/.test(word))
      throw new PareError("bad-data", `Line ${i + 1} is not a sentence, a tab and a class number`, {
        where: path,
        found: `column ${labelColumn} ${word === "" ? "missing" : `'${word.slice(0, 40)}'`}`,
        help: "Columns are counted from 0: text=, label=",
      });
    classes = Math.max(classes, Number(word) + 1);
    return { tokens: encodeHead(plan.vocabulary, sentence, plan.start, plan.length), label: Number(word) };
  });
  return {
    size: rows.length,
    fields: [tokensField(plan), maskField(plan)],
    labels: "classes",
    classes: numberedClasses(classes, path),
    fill(indices: ArrayLike<number>, into: Buffers) {
      for (let k = 0; k < indices.length; k++) {
        const row = rows[indices[k] as number] as (typeof rows)[number];
        putPadded(row.tokens, k, plan, into, plan.pad);
        (into.labels as Int32Array)[k] = row.label;
      }
    },
  };
}

/** The start token, if any, and the first tokens of a text, `limit` in all. */
function encodeHead(vocabulary: Vocabulary, part: string, start: number | undefined, limit: number): number[] {
  const tokens = Array.from(vocabulary.encode(part));
  return (start === undefined ? tokens : [start, ...tokens]).slice(0, limit);
}

function putPadded(tokens: readonly number[], k: number, plan: Plan, into: Buffers, pad: number): void {
  const { length } = plan;
  const inputs = into.fields["input_ids"] as TypedData;
  const mask = into.fields["attention_mask"] as TypedData;
  for (let i = 0; i < length; i++) {
    put(inputs, k * length + i, tokens[i] ?? pad);
    put(mask, k * length + i, i < tokens.length ? 1 : 0);
  }
}
