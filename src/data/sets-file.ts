/** A YAML file of data sets: named splits, preprocessing they share, and which field feeds which model input. */
import { parse } from "yaml";
import { z } from "zod";
import type { TypedData } from "../base/dtype.ts";
import { messageOf, nearest, PareError } from "../base/error.ts";
import { requireFile } from "./bytes.ts";
import type { Dataset, Source } from "./dataset.ts";
import type { Host } from "./host.ts";
import { formatName, parseName } from "./name.ts";
import type { NameOptions } from "./options.ts";

/** Largest YAML file that is read: these are written by hand. */
const BYTES_LIMIT = 2 ** 20;

const scalar = z.union([z.string(), z.number(), z.boolean(), z.array(z.number())]);

const setsFile = z.strictObject({
  splits: z.record(z.string(), z.string()).refine((splits) => Object.keys(splits).length > 0, "no split is named"),
  preprocess: z.record(z.string(), scalar).default({}),
  inputs: z.record(z.string(), z.string()).default({}),
});

/** True for a path that {@link openSetsFile} reads. */
export function isSetsFile(path: string): boolean {
  return /\.ya?ml$/i.test(path);
}

/** Options that the name of a YAML file may have, besides those of every data set. */
export const SETS_FILE_OPTIONS: Readonly<Record<string, string>> = {
  split: "which of the file's splits; needed when it names several",
};

/**
 * Opens one split of a file such as
 *
 *     splits: { train: "idx:mnist?split=train", test: "idx:mnist?split=test" }
 *     preprocess: { scale: 255, layout: nchw }   # options of every split that does not give them itself
 *     inputs: { Input3: image }                  # model input: field of the data
 *
 * Paths are relative to the file. `open` opens the split's own name.
 */
export async function openSetsFile(
  path: string,
  options: NameOptions,
  host: Host,
  open: (name: string) => Promise<Dataset>,
  defaultSplit?: string,
): Promise<Source> {
  await requireFile(host, path, options.name);
  const file = readSetsFile(await readText(host, path), path);
  const names = Object.keys(file.splits);
  const fallback = names.length === 1 ? names[0] : names.find((name) => name === defaultSplit);
  const split = options.text("split") ?? fallback;
  const text = split === undefined ? undefined : file.splits[split];
  if (text === undefined) {
    const near = split === undefined ? undefined : nearest(split, names);
    throw new PareError(
      "bad-data",
      split === undefined ? "The name does not say which split" : "There is no such split",
      {
        where: options.name,
        ...(split === undefined ? {} : { found: split }),
        expected: `split=${names.join(" or split=")}`,
        ...(near ? { help: `Did you mean ${near}?` } : {}),
      },
    );
  }
  const name = parseName(text);
  if (name.scheme === "" && isSetsFile(name.path))
    throw new PareError("bad-data", `The split '${split}' names another YAML file`, { where: path, found: text });
  const shared = Object.fromEntries(
    Object.entries(file.preprocess).map(([option, value]) => [
      option,
      Array.isArray(value) ? value.join(",") : String(value),
    ]),
  );
  const beside = name.path === "" ? "" : host.join(host.folderOf(path), name.path);
  const dataset = await open(formatName({ ...name, path: beside, options: { ...shared, ...name.options } }));
  return sourceOf(dataset, file.inputs, path);
}

async function readText(host: Host, path: string): Promise<string> {
  if ((await host.byteLength(path)) > BYTES_LIMIT)
    throw new PareError("bad-data", "The YAML file is too large", {
      where: path,
      expected: `at most ${BYTES_LIMIT} bytes`,
    });
  return new TextDecoder().decode(await host.read(path));
}

function readSetsFile(text: string, where: string): z.infer<typeof setsFile> {
  let content: unknown;
  try {
    content = parse(text, { maxAliasCount: 100 });
  } catch (cause) {
    throw new PareError("bad-data", "The file is not YAML", {
      where,
      found: messageOf(cause).split("\n")[0] ?? "",
      cause,
    });
  }
  const result = setsFile.safeParse(content);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new PareError("bad-data", "The YAML file does not describe data sets", {
    where,
    found: `${issue?.path.join(".") || "the file"}: ${issue?.message ?? "another form"}`,
    expected: "splits: {name: data name}, and optionally preprocess: {option: value} and inputs: {model input: field}",
  });
}

/** A data set as a source, its fields under the names of the model's inputs; fields that no input names keep theirs. */
function sourceOf(dataset: Dataset, inputs: Readonly<Record<string, string>>, where: string): Source {
  const names = dataset.fields.map((field) => field.name);
  for (const [input, field] of Object.entries(inputs))
    if (!names.includes(field))
      throw new PareError("bad-data", `Input '${input}' is fed by a field that the data lacks`, {
        where,
        found: field,
        expected: names.join(", "),
      });
  const inputOf = new Map(Object.entries(inputs).map(([input, field]) => [field, input]));
  const renamed = (name: string): string => inputOf.get(name) ?? name;
  return {
    size: dataset.size,
    fields: dataset.fields.map((field) => ({ ...field, name: renamed(field.name) })),
    labels: dataset.labels,
    labelShape: dataset.labelShape,
    classes: dataset.classes,
    async fill(indices, into) {
      const batch = await dataset.take(Array.from(indices));
      for (const name of names)
        into.fields[renamed(name)]?.set(batch.fields[name]?.data as TypedData | undefined as never);
      if (batch.labels) into.labels?.set(batch.labels.data as Int32Array | Float32Array);
    },
  };
}
