/** Saves a model to files: streaming, atomic, with external data above a threshold. */
import { basename, resolve } from "node:path";
import { PareError, throwIfAborted } from "../base/error.ts";
import { TemporaryFile, checkReplaceable, publish } from "../onnx/atomic-write.node.ts";
import { setExternal } from "../onnx/external.ts";
import { type GraphProto, type ModelProto, ModelProtoSchema, type TensorProto } from "../onnx/gen/onnx_pb.js";
import { type Payload, payloadOf } from "../onnx/payload.ts";
import { type Segment, checkMessageSize, encodeSegments } from "../onnx/segments.ts";
import type { Model } from "./model.ts";
import { WorkAhead } from "./work-ahead.ts";
import { writeModel } from "./write-graph.ts";

export interface SaveOptions {
  /** Replace what lies at the path. Replacing the file that the model was loaded from is safe. */
  readonly force?: boolean | undefined;
  /**
   * Models with more bytes than this keep their weights in `<name>.data` beside the model. Default
   * {@link DEFAULT_EXTERNAL_THRESHOLD_BYTES}; 0: always; Infinity: never (an error above 2 GiB).
   */
  readonly externalDataThreshold?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called after every chunk with bytes written and the total. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** What was written. */
export interface SavedFiles {
  /** All bytes together. */
  readonly bytes: number;
  /** The model file first, then its external data if it has any. */
  readonly files: readonly { readonly path: string; readonly bytes: number }[];
}

/** Protobuf ends at 2^31 - 1 bytes; some readers stop a little earlier. */
export const DEFAULT_EXTERNAL_THRESHOLD_BYTES = 1_900_000_000;

/** Large tensors begin at a page, so that engines can map them; small ones at a cache line. */
const PAGE_BYTES = 4096;
const CACHE_LINE_BYTES = 64;
const PAGED_FROM_BYTES = 2 ** 20;

/**
 * Writes the model to `path`. Weights are read and written one after the other, and computed a few ahead where their sources
 * can, so memory holds a few megabytes and the tensors in flight. The files appear whole or not at all. Throws `output` if the path exists (without `force`),
 * cannot be written or the disk is full; `aborted` on the signal.
 */
export async function saveFile(model: Model, path: string, options: SaveOptions = {}): Promise<SavedFiles> {
  const target = resolve(path);
  await checkReplaceable(target, options.force ?? false);
  const message = writeModel(model);
  const inline = encodeSegments(ModelProtoSchema, message);
  const threshold = options.externalDataThreshold ?? DEFAULT_EXTERNAL_THRESHOLD_BYTES;
  const external = inline.byteLength > threshold ? placeExternal(message, `${basename(target)}.data`) : undefined;
  const outside = external?.placed.length ? external : undefined;
  const segments = outside
    ? encodeSegments(ModelProtoSchema, message, (tensor) => outside.tensors.has(tensor))
    : inline;
  checkMessageSize(segments.byteLength);
  const total = segments.byteLength + (outside?.byteLength ?? 0);
  const dataPath = `${target}.data`;
  if (outside) await checkReplaceable(dataPath, options.force ?? false);

  const files: TemporaryFile[] = [];
  const payloads = segments.parts.filter((part): part is Payload => !(part instanceof Uint8Array));
  const ahead = new WorkAhead([...(outside?.placed.map(({ payload }) => payload) ?? []), ...payloads], options.signal);
  const step = (): void => {
    throwIfAborted(options.signal);
    options.onProgress?.(
      files.reduce((sum, file) => sum + file.length, 0),
      total,
    );
  };
  try {
    if (outside) {
      const file = await TemporaryFile.create(dataPath);
      files.push(file);
      for (const { payload, offset } of outside.placed) {
        await file.align(alignmentOf(payload.byteLength));
        if (file.length !== offset) throw new PareError("internal", "External data landed at the wrong offset");
        ahead.reach(payload);
        await writeSegment(file, payload, step);
      }
      await file.finish();
    }
    const file = await TemporaryFile.create(target);
    files.push(file);
    for (const segment of segments.parts) {
      if (!(segment instanceof Uint8Array)) ahead.reach(segment);
      await writeSegment(file, segment, step);
    }
    await file.finish();
    throwIfAborted(options.signal);
    await checkReplaceable(target, options.force ?? false);
    await publish(files);
  } catch (error) {
    for (const file of files) await file.discard();
    throw error;
  } finally {
    await ahead.stop();
  }
  const written = files.map((file) => ({ path: file.target, bytes: file.length })).reverse();
  return { bytes: written.reduce((sum, { bytes }) => sum + bytes, 0), files: written };
}

async function writeSegment(file: TemporaryFile, segment: Segment, step: () => void): Promise<void> {
  if (segment instanceof Uint8Array) await file.write(segment);
  else if (segment.readInto)
    await file.pump(segment.byteLength, (part, offset) => segment.readInto?.(part, offset) ?? Promise.resolve(), step);
  else {
    const bytes = segment.resident ?? (await segment.read());
    if (bytes.byteLength !== segment.byteLength)
      throw new PareError("internal", "A computed tensor has the wrong size", {
        found: `${bytes.byteLength} bytes`,
        expected: `${segment.byteLength} bytes`,
      });
    await file.write(bytes);
  }
  step();
}

interface Placement {
  readonly placed: readonly { readonly payload: Payload; readonly offset: number }[];
  readonly tensors: ReadonlySet<TensorProto>;
  readonly byteLength: number;
}

/** Gives every large constant a place in the data file; tensors with the same bytes share one. */
function placeExternal(message: ModelProto, location: string): Placement {
  const offsets = new Map<Payload, number>();
  const tensors = new Set<TensorProto>();
  let end = 0;
  for (const tensor of constantsOf(message.graph)) {
    const payload = payloadOf(tensor);
    if (!payload) continue;
    let offset = offsets.get(payload);
    if (offset === undefined) {
      const alignment = alignmentOf(payload.byteLength);
      offset = Math.ceil(end / alignment) * alignment;
      end = offset + payload.byteLength;
      offsets.set(payload, offset);
    }
    setExternal(tensor, location, offset, payload.byteLength);
    tensors.add(tensor);
  }
  const placed = Array.from(offsets, ([payload, offset]) => ({ payload, offset }));
  return { placed, tensors, byteLength: end };
}

function alignmentOf(byteLength: number): number {
  return byteLength >= PAGED_FROM_BYTES ? PAGE_BYTES : CACHE_LINE_BYTES;
}

/** Initializers and values of Constant nodes, in subgraphs too; tensors in other attributes stay inline, as engines expect. */
function* constantsOf(graph: GraphProto | undefined): Generator<TensorProto> {
  if (!graph) return;
  yield* graph.initializer;
  for (const node of graph.node)
    for (const attribute of node.attribute) {
      if (node.opType === "Constant" && attribute.t) yield attribute.t;
      yield* constantsOf(attribute.g);
      for (const inner of attribute.graphs) yield* constantsOf(inner);
    }
}
