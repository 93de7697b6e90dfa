/** The shared half of every data set: shuffling, subsets, limits, batches and `take` over a source of samples by index. */
import { arrayTypeOf, type DType, type TypedData } from "../base/dtype.ts";
import { PareError, throwIfAborted } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import { elementCount } from "../base/shape.ts";
import type { NdArray } from "../run/session.ts";
import type { Batch, BatchOptions, Buffers, Dataset, Field, Source } from "./dataset.ts";
import { type DatasetName, formatName } from "./name.ts";
import type { NameOptions } from "./options.ts";

/** Options that every reader has, in the order in which they are applied. */
export const VIEW_OPTIONS: Readonly<Record<string, string>> = {
  shuffle: "seed of a permutation of all samples, before offset and limit",
  offset: "samples to skip",
  limit: "samples to keep",
  part: "from,to[,seed] as fractions of what is left, of file order or of a seeded permutation; several joined by ';'",
};

const DEFAULT_BATCH = 32;

/** A data set over a source: `options` supplies shuffle, offset, limit and part. */
export function indexedDataset(source: Source, name: DatasetName, options: NameOptions): Dataset {
  let indices: Uint32Array | undefined;
  const shuffle = options.integer("shuffle", 0, 0xffff_ffff);
  if (shuffle !== undefined) indices = permutation(source.size, shuffle);
  const offset = options.integer("offset", 0) ?? 0;
  const limit = options.integer("limit", 1) ?? source.size;
  if (offset > 0 || limit < source.size) {
    if (offset >= source.size)
      options.fail("offset", String(offset), `less than ${source.size}, the number of samples there are`);
    indices = (indices ?? identity(source.size)).slice(offset, offset + limit);
  }
  const plain = { ...name, options: { ...name.options } };
  delete plain.options["part"];
  let set = new IndexedDataset(source, plain, indices);
  for (const text of options.text("part")?.split(";") ?? []) {
    const [from, to, seed, ...rest] = text.split(",").map((word) => (word.trim() === "" ? Number.NaN : Number(word)));
    if (from === undefined || to === undefined || rest.length > 0)
      options.fail("part", `'${text}'`, "from,to or from,to,seed, such as 0,0.5");
    set = set.subset({ part: [from, to], seed });
  }
  return set;
}

class IndexedDataset implements Dataset {
  readonly name: string;
  readonly size: number;
  readonly #source: Source;
  readonly #name: DatasetName;
  /** Sample numbers of the source in this view's order; undefined for all of them in file order. */
  readonly #indices: Uint32Array | undefined;

  constructor(source: Source, name: DatasetName, indices: Uint32Array | undefined) {
    this.#source = source;
    this.#name = name;
    this.#indices = indices;
    this.name = formatName(name);
    this.size = indices?.length ?? source.size;
    if (this.size === 0)
      throw new PareError("bad-data", "The data set is empty", { where: this.name, expected: "one sample or more" });
  }

  get fields(): readonly Field[] {
    return this.#source.fields;
  }

  get labels(): Dataset["labels"] {
    return this.#source.labels;
  }

  get labelShape(): readonly number[] | undefined {
    return this.#source.labels === undefined ? undefined : (this.#source.labelShape ?? []);
  }

  get classes(): readonly string[] | undefined {
    return this.#source.classes;
  }

  async *batches(options: BatchOptions = {}): AsyncGenerator<Batch> {
    const size = options.size ?? DEFAULT_BATCH;
    if (!Number.isInteger(size) || size < 1)
      throw new PareError("bad-option", "Batch size does not fit", { found: String(size), expected: "1 or more" });
    const order = options.seed === undefined ? undefined : permutation(this.size, options.seed);
    const count = Math.min(options.limit ?? this.size, this.size);
    const batches = options.dropLast ? Math.floor(count / size) : Math.ceil(count / size);
    const load = (batch: number): Ahead => {
      const at = Array.from({ length: Math.min(size, count - batch * size) }, (_, k) => batch * size + k);
      return new Ahead(() => this.#load(order ? at.map((k) => order[k] as number) : at, options.signal));
    };
    let next = batches > 0 ? load(0) : undefined;
    try {
      for (let batch = 0; batch < batches && next; batch++) {
        throwIfAborted(options.signal);
        const ready: Batch = await next.get();
        next = batch + 1 < batches ? load(batch + 1) : undefined;
        next?.startSoon();
        yield ready;
      }
    } finally {
      next?.abandon();
    }
  }

  take(indices: readonly number[]): Promise<Batch> {
    return this.#load(indices, undefined);
  }

  subset(choice: { readonly part: readonly [number, number]; readonly seed?: number | undefined }): IndexedDataset {
    const [from, to] = choice.part;
    if (!(from >= 0 && to <= 1 && from < to))
      throw new PareError("bad-data", "A part of a data set does not fit", {
        where: this.name,
        found: `${from},${to}`,
        expected: "fractions 0 <= from < to <= 1",
      });
    if (choice.seed !== undefined && !Number.isInteger(choice.seed))
      throw new PareError("bad-data", "The seed of a part is not an integer", { where: this.name });
    const order = choice.seed === undefined ? identity(this.size) : permutation(this.size, choice.seed);
    const mine = order.slice(Math.round(from * this.size), Math.round(to * this.size));
    const indices = this.#indices;
    const text = choice.seed === undefined ? `${from},${to}` : `${from},${to},${choice.seed}`;
    const before = this.#name.options["part"];
    const part = before === undefined ? text : `${before};${text}`;
    return new IndexedDataset(
      this.#source,
      { ...this.#name, options: { ...this.#name.options, part } },
      indices ? mine.map((k) => indices[k] as number) : mine,
    );
  }

  async #load(positions: readonly number[], signal: AbortSignal | undefined): Promise<Batch> {
    const rows = new Uint32Array(positions.length);
    for (const [k, position] of positions.entries()) {
      if (!(Number.isInteger(position) && position >= 0 && position < this.size))
        throw new PareError("bad-data", "There is no such sample", {
          where: this.name,
          found: String(position),
          expected: `0 to ${this.size - 1}`,
        });
      rows[k] = this.#indices ? (this.#indices[position] as number) : position;
    }
    const { batch, buffers } = allocate(this.#source, rows.length);
    await this.#source.fill(rows, buffers, signal);
    return batch;
  }
}

/** Empty arrays for `count` samples of a source, as a batch and as the buffers under it. */
function allocate(source: Source, count: number): { batch: Batch; buffers: Buffers } {
  const fields: Record<string, NdArray> = {};
  const buffers: Record<string, TypedData> = {};
  for (const field of source.fields) {
    const data = zeros(field.dtype, count * elementCount(field.shape));
    buffers[field.name] = data;
    fields[field.name] = { dtype: field.dtype, shape: [count, ...field.shape], data };
  }
  if (source.labels === undefined)
    return { batch: { size: count, fields, labels: undefined }, buffers: { fields: buffers, labels: undefined } };
  const shape = source.labelShape ?? [];
  const length = count * elementCount(shape);
  const data = source.labels === "values" ? new Float32Array(length) : new Int32Array(length);
  const dtype = source.labels === "values" ? "float32" : "int32";
  return {
    batch: { size: count, fields, labels: { dtype, shape: [count, ...shape], data } },
    buffers: { fields: buffers, labels: data },
  };
}

function zeros(dtype: DType, length: number): TypedData {
  const Type = arrayTypeOf(dtype);
  return new Type(new ArrayBuffer(length * Type.BYTES_PER_ELEMENT), 0, length);
}

/** The seeded permutation of 0..n-1 that shuffles a data set of n samples. */
export function permutation(size: number, seed: number): Uint32Array {
  return new Rng(seed).fork("shuffle").shuffle(identity(size));
}

function identity(size: number): Uint32Array {
  const indices = new Uint32Array(size);
  for (let i = 0; i < size; i++) indices[i] = i;
  return indices;
}

/**
 * A batch that loads while the consumer works on the one before: it starts on a timer, hence after the consumer has
 * handed its batch to a session, or at once when it is asked for.
 */
class Ahead {
  readonly #load: () => Promise<Batch>;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #result: Promise<Batch> | undefined;

  constructor(load: () => Promise<Batch>) {
    this.#load = load;
  }

  startSoon(): void {
    this.#timer = setTimeout(() => {
      this.#result ??= this.#load();
      this.#result.catch(() => undefined); // reported by get(), if anyone asks
    }, 0);
  }

  get(): Promise<Batch> {
    clearTimeout(this.#timer);
    this.#result ??= this.#load();
    return this.#result;
  }

  abandon(): void {
    clearTimeout(this.#timer);
  }
}
