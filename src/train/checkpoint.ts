/** Checkpoints: everything that a training run needs to go on exactly where it stopped, as one run of bytes. */
import { PareError } from "../base/error.ts";

/** One epoch of a run. */
export interface EpochRecord {
  /** From 1. */
  readonly epoch: number;
  /** Mean training loss over the epoch's steps. */
  readonly loss: number;
  /** On the validation data, when there is any. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly seconds: number;
}

/** Named float32 arrays of known shapes. */
export type Arrays = Readonly<Record<string, { readonly shape: readonly number[]; readonly data: Float32Array }>>;

export interface Checkpoint {
  /** What the run depends on: a checkpoint of other options, data or model is refused. */
  readonly run: string;
  /** Steps done. */
  readonly step: number;
  /** Sum of the losses of the running epoch's steps. */
  readonly lossSum: number;
  /** Loss of the last step that had one. */
  readonly lastLoss: number | undefined;
  readonly epochs: readonly EpochRecord[];
  /** Seconds spent in the running epoch so far, and in all steps. */
  readonly epochSeconds: number;
  readonly stepSeconds: number;
  readonly best: { readonly epoch: number; readonly score: number } | undefined;
  /** The score that early stopping compares with, and the epochs since. */
  readonly patience: { readonly score: number | undefined; readonly epochs: number };
  readonly state: Arrays;
  /** Weights of the best epoch. */
  readonly bestWeights: Arrays | undefined;
}

/** Where checkpoints are kept. */
export interface CheckpointStore {
  read(): Promise<Checkpoint | undefined>;
  write(checkpoint: Checkpoint): Promise<void>;
}

const MAGIC = "pare-checkpoint-2\n";
const MAX_HEADER_BYTES = 64 * 2 ** 20; // names and shapes of a million tensors

interface Entry {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Magic, length of the header (8 bytes), header as JSON, then the arrays' bytes in the header's order. */
export function encodeCheckpoint(checkpoint: Checkpoint): Uint8Array {
  const { state, bestWeights, ...rest } = checkpoint;
  const entries = (arrays: Arrays | undefined): Entry[] | undefined =>
    arrays && Object.entries(arrays).map(([name, { shape }]) => ({ name, shape }));
  const header = JSON.stringify({ ...rest, state: entries(state), bestWeights: entries(bestWeights) });
  const encoder = new TextEncoder();
  const [magic, text] = [encoder.encode(MAGIC), encoder.encode(header)];
  const arrays = [...Object.values(state), ...Object.values(bestWeights ?? {})];
  const total = arrays.reduce((sum, { data }) => sum + data.byteLength, magic.length + 8 + text.length);
  const bytes = new Uint8Array(total);
  bytes.set(magic);
  new DataView(bytes.buffer).setBigUint64(magic.length, BigInt(text.length), true);
  bytes.set(text, magic.length + 8);
  let at = magic.length + 8 + text.length;
  for (const { data } of arrays) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return bytes;
}

/** Reads what {@link encodeCheckpoint} wrote. Throws `bad-data` for anything else. */
export function decodeCheckpoint(bytes: Uint8Array, where: string): Checkpoint {
  const bad = (found: string): PareError =>
    new PareError("bad-data", "This is not a checkpoint of a training run", {
      where,
      found,
      help: "Start again without --resume",
    });
  const begin = MAGIC.length + 8;
  if (bytes.length < begin || new TextDecoder().decode(bytes.subarray(0, MAGIC.length)) !== MAGIC)
    throw bad("another kind of file");
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(MAGIC.length, true));
  if (length > MAX_HEADER_BYTES || begin + length > bytes.length) throw bad("a truncated file");
  let header: Omit<Checkpoint, "state" | "bestWeights"> & { state: Entry[]; bestWeights?: Entry[] };
  try {
    header = JSON.parse(new TextDecoder().decode(bytes.subarray(begin, begin + length))) as typeof header;
  } catch {
    throw bad("a damaged header");
  }
  let at = begin + length;
  const arrays = (entries: readonly Entry[]): Arrays =>
    Object.fromEntries(
      entries.map(({ name, shape }) => {
        const byteLength = shape.reduce((n, size) => n * size, 4);
        if (!(byteLength >= 0) || at + byteLength > bytes.length) throw bad("a truncated file");
        const data = new Float32Array(new Uint8Array(bytes.subarray(at, at + byteLength)).buffer); // aligned
        at += byteLength;
        return [name, { shape, data }] as const;
      }),
    );
  const state = arrays(header.state);
  const bestWeights = header.bestWeights && arrays(header.bestWeights);
  if (at !== bytes.length) throw bad("bytes after the end");
  return { ...header, best: header.best, state, bestWeights };
}
