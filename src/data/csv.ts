/** `csv:` reads a table: number columns become one feature vector, one column the target or the class. */
import { nearest, PareError } from "../base/error.ts";
import { requireFile } from "./bytes.ts";
import { numberedClasses } from "./classes.ts";
import { csvRows } from "./csv-parse.ts";
import type { Buffers, Dataset, Reader, Source } from "./dataset.ts";
import type { NameOptions } from "./options.ts";

/** Largest table that is read: its text and its numbers lie in memory at once. */
const BYTES_LIMIT = 512 * 2 ** 20;

export const csv: Reader = {
  scheme: "csv",
  summary: "table of numbers: csv:houses.csv?target=price&columns=rooms,age&fit=train&train=0,0.8",
  options: {
    columns: "feature columns by name or number from 0, joined by commas (default: all but the target)",
    target: "column of real values to predict",
    label: "column of classes; words are numbered in alphabetic order",
    header: "yes (default) or no: the first row names the columns",
    separator: "one character, or tab (default comma)",
    missing: "error (default), skip (leave the row out), or a number put in place of empty cells",
    categories: "error (default) or one-hot: what to do with a feature column of words",
    mean: "subtracted from the features, one number or one per feature",
    std: "divides the features after mean",
    fit: "train: mean and deviation of each feature over the rows named by train=from,to",
    train: "fractions of the rows (file order) that fit=train looks at (default 0,0.8)",
    targetMean: "subtracted from the target (default 0)",
    targetStd: "divides the target after targetMean (default 1)",
  },

  async open(path, options, host): Promise<Source> {
    await requireFile(host, path, options.name);
    if ((await host.byteLength(path)) > BYTES_LIMIT)
      throw new PareError("bad-data", "The table is too large to hold in memory", {
        where: path,
        expected: `at most ${BYTES_LIMIT} bytes`,
        help: "Split it, or save it as .npz",
      });
    const text = new TextDecoder().decode(await host.read(path));
    const table = readTable(text, path, options);
    const target = targetOf(table, options);
    const features = featuresOf(table, target?.column, options);
    standardize(features, options);
    const width = features.names.length;

    return {
      size: table.rows.length,
      fields: [{ name: "features", dtype: "float32", shape: [width] }],
      labels: target?.kind,
      labelShape: [],
      ...(target?.classes ? { classes: target.classes } : {}),
      fill(indices: ArrayLike<number>, into: Buffers) {
        const out = into.fields["features"] as Float32Array;
        for (let k = 0; k < indices.length; k++) {
          const row = indices[k] as number;
          out.set(features.values.subarray(row * width, (row + 1) * width), k * width);
          if (target && into.labels) into.labels[k] = target.values[row] as number;
        }
      },
    };
  },
};

interface Table {
  readonly path: string;
  readonly names: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** What stands in place of empty cells. */
  readonly fill: string | undefined;
}

function readTable(text: string, path: string, options: NameOptions): Table {
  const word = options.text("separator") ?? ",";
  const separator = word === "tab" ? "\t" : word;
  if (separator.length !== 1) options.fail("separator", `'${word}'`, "one character, or tab");
  const rows = [...csvRows(text, separator, path)];
  const header = options.flag("header") ?? true;
  const names = header ? rows.shift() : rows[0]?.map((_, i) => String(i));
  if (!names || rows.length === 0) throw new PareError("bad-data", "The table has no rows", { where: path });
  for (const [i, row] of rows.entries())
    if (row.length !== names.length)
      throw new PareError("bad-data", `Row ${i + 1} has another number of columns`, {
        where: path,
        found: `${row.length} columns`,
        expected: `${names.length}`,
        help: "Check the separator, and quote cells that contain it",
      });
  const missing = options.text("missing") ?? "error";
  if (missing === "skip") return { path, names, rows: rows.filter((row) => !row.includes("")), fill: undefined };
  if (missing !== "error") options.number("missing");
  return { path, names, rows, fill: missing === "error" ? undefined : missing };
}

function columnOf(table: Table, word: string, option: string, options: NameOptions): number {
  const byName = table.names.indexOf(word);
  if (byName >= 0) return byName;
  const byNumber = /^\d+$/.test(word) ? Number(word) : -1;
  if (byNumber >= 0 && byNumber < table.names.length) return byNumber;
  const near = nearest(word, table.names);
  return options.fail(option, `'${word}'`, `a column: ${table.names.join(", ")}`, near && `Did you mean ${near}?`);
}

interface Target {
  readonly column: number;
  readonly kind: NonNullable<Dataset["labels"]>;
  readonly values: Float64Array;
  readonly classes?: readonly string[];
}

function targetOf(table: Table, options: NameOptions): Target | undefined {
  const label = options.text("label");
  const target = options.text("target");
  if (label !== undefined && target !== undefined)
    options.fail("label", "target and label", "one of them: target for real values, label for classes");
  if (label !== undefined) {
    const column = columnOf(table, label, "label", options);
    const words = table.rows.map((row) => row[column] as string);
    const numeric = words.every((word) => /^\d{1,9}$/.test(word));
    const classes = numeric
      ? numberedClasses(words.reduce((most, word) => Math.max(most, Number(word)), 0) + 1, options.name)
      : [...new Set(words)].toSorted((a, b) => (a < b ? -1 : 1));
    const numberOf = new Map(classes.map((name, i) => [name, i]));
    return {
      column,
      kind: "classes",
      classes,
      values: Float64Array.from(words, (word) => (numeric ? Number(word) : (numberOf.get(word) ?? 0))),
    };
  }
  if (target === undefined) return undefined;
  const column = columnOf(table, target, "target", options);
  const mean = options.number("targetMean") ?? 0;
  const std = options.nonzero("targetStd") ?? 1;
  const values = Float64Array.from(
    table.rows,
    (row, i) => (cell(table, row[column] as string, i, column) - mean) / std,
  );
  return { column, kind: "values", values };
}

function cell(table: Table, text: string, row: number, column: number): number {
  const word = text === "" ? (table.fill ?? "") : text;
  const value = word.trim() === "" ? Number.NaN : Number(word);
  if (Number.isFinite(value)) return value;
  throw new PareError("bad-data", `Row ${row + 1}, column '${table.names[column]}' is not a number`, {
    where: table.path,
    found: text === "" ? "an empty cell" : `'${text}'`,
    help:
      text === ""
        ? "Say missing=skip, or missing=NUMBER to put in its place"
        : "Name the number columns with columns=, or say categories=one-hot",
  });
}

interface Features {
  readonly names: readonly string[];
  /** Row-major. */
  readonly values: Float32Array;
  readonly rows: number;
}

function featuresOf(table: Table, target: number | undefined, options: NameOptions): Features {
  const chosen =
    options.words("columns")?.map((word) => columnOf(table, word, "columns", options)) ??
    table.names.map((_, i) => i).filter((i) => i !== target);
  if (chosen.length === 0) options.fail("columns", "no column", "one feature column or more");
  const oneHot = options.choice("categories", ["error", "one-hot"]) === "one-hot";
  /** One feature: a column as a number, or whether it holds one word. */
  const parts = chosen.flatMap((column): { column: number; word?: string }[] => {
    const words = oneHot ? new Set(table.rows.map((row) => row[column] as string)) : new Set<string>();
    const numeric = [...words].every((word) => word === "" || Number.isFinite(Number(word)));
    return numeric ? [{ column }] : [...words].toSorted((a, b) => (a < b ? -1 : 1)).map((word) => ({ column, word }));
  });
  const values = new Float32Array(table.rows.length * parts.length);
  for (const [i, row] of table.rows.entries())
    for (const [j, part] of parts.entries()) {
      const text = row[part.column] as string;
      values[i * parts.length + j] =
        part.word === undefined ? cell(table, text, i, part.column) : text === part.word ? 1 : 0;
    }
  const names = parts.map(
    (part) => (table.names[part.column] ?? "") + (part.word === undefined ? "" : `=${part.word}`),
  );
  return { names, values, rows: table.rows.length };
}

/** x ← (x − mean) / std per feature, with the given numbers or those of the rows of `train`. */
function standardize(features: Features, options: NameOptions): void {
  const { values, rows } = features;
  const width = features.names.length;
  const fit = options.choice("fit", ["train"]);
  const [from = 0, to = 0.8, ...rest] = options.numbers("train") ?? [];
  if (rest.length > 0 || !(from >= 0 && from < to && to <= 1))
    options.fail("train", options.text("train") ?? "", "from,to with 0 <= from < to <= 1");
  if (fit !== undefined && (options.text("mean") ?? options.text("std")) !== undefined)
    options.fail("fit", "fit together with mean or std", "one of them");
  const given = (option: string, fallback: number): number[] => {
    const list = options.numbers(option) ?? [fallback];
    if (list.length !== 1 && list.length !== width)
      options.fail(option, `${list.length} numbers`, `one, or ${width}: ${features.names.join(", ")}`);
    return Array.from({ length: width }, (_, j) => list[list.length === 1 ? 0 : j] ?? fallback);
  };
  const mean = fit ? Array.from({ length: width }, () => 0) : given("mean", 0);
  const std = fit ? Array.from({ length: width }, () => 1) : given("std", 1);
  if (std.includes(0)) options.fail("std", "0", "numbers other than 0");
  if (fit) {
    const first = Math.round(from * rows);
    const last = Math.max(first + 1, Math.round(to * rows));
    for (let j = 0; j < width; j++) {
      let sum = 0;
      for (let i = first; i < last; i++) sum += values[i * width + j] as number;
      mean[j] = sum / (last - first);
      let squares = 0;
      for (let i = first; i < last; i++) squares += ((values[i * width + j] as number) - (mean[j] as number)) ** 2;
      std[j] = Math.sqrt(squares / (last - first)) || 1; // a constant feature stays as it is
    }
  }
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < width; j++)
      values[i * width + j] = ((values[i * width + j] as number) - (mean[j] as number)) / (std[j] as number);
}
