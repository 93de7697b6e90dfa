/** Bytes of tensors that are not held in messages: ranges of files, decoded when they are read. */
import { PareError } from "../base/error.ts";
import type { FileRange } from "../base/file-range.ts";
import type { ByteSource } from "./byte-source.ts";
import type { TensorProto } from "./gen/onnx_pb.js";
import { MAX_DECODED_BYTES } from "./limits.ts";

/** Packed little-endian elements of a tensor, read when asked; the shape that the tensors of the IR expect. */
export interface Payload {
  readonly byteLength: number;
  readonly resident?: Uint8Array | undefined;
  read(offset?: number, length?: number): Promise<Uint8Array>;
  /** Fills `target` from `offset`; present where a part costs no more than its bytes. */
  readInto?(target: Uint8Array, offset: number): Promise<void>;
  /** Where the bytes lie, for another thread to read; undefined, also as a promise, where they are no range of an open file. */
  fileRange?(): Promise<FileRange | undefined>;
  /** Begins the computation behind the bytes, where there is one that can run ahead; the signal stops it. */
  prepare?(signal: AbortSignal): Promise<void>;
}

const payloads = new WeakMap<TensorProto, Payload>();

/** The bytes that belong to a message whose own data fields are empty. */
export function payloadOf(tensor: TensorProto): Payload | undefined {
  return payloads.get(tensor);
}

/** Ties bytes to a message whose own data fields are empty: they become its `raw_data` when it is written. */
export function setPayload(tensor: TensorProto, payload: Payload): void {
  payloads.set(tensor, payload);
}

/** Bytes in memory. */
export function residentPayload(bytes: Uint8Array): Payload {
  return {
    byteLength: bytes.byteLength,
    resident: bytes,
    read: async (offset = 0, length = bytes.byteLength - offset) => bytes.subarray(offset, offset + length),
    async readInto(target, offset) {
      target.set(bytes.subarray(offset, offset + target.byteLength));
    },
  };
}

/** A range of a source, as it is. */
export function rangePayload(source: ByteSource, offset: number, byteLength: number): Payload {
  if (source.resident) return residentPayload(source.resident.subarray(offset, offset + byteLength));
  return {
    byteLength,
    read: (from = 0, length = byteLength - from) => source.read(offset + from, length),
    readInto: (target, from) => source.readInto(target, offset + from),
    fileRange: async () => source.fileRange?.(offset, byteLength),
  };
}

/** Bytes that `open` finds when they are first read: external data. */
export function deferredPayload(open: () => Promise<ByteSource>, offset: number, byteLength: number): Payload {
  let opened: Promise<ByteSource> | undefined;
  const source = (): Promise<ByteSource> => {
    opened ??= open().catch((error: unknown) => {
      opened = undefined;
      throw error;
    });
    return opened;
  };
  return {
    byteLength,
    read: async (from = 0, length = byteLength - from) => (await source()).read(offset + from, length),
    readInto: async (target, from) => (await source()).readInto(target, offset + from),
    fileRange: async () => (await source()).fileRange?.(offset, byteLength),
  };
}

/**
 * Packed varints of `int32_data`, `int64_data` or `uint64_data`, decoded to elements of `width` bytes on reading. They
 * have no random access: the last decoded form is remembered as long as memory allows.
 */
export function varintPayload(encoded: Payload, width: number, byteLength: number, where: string): Payload {
  let cached: WeakRef<Uint8Array> | undefined;
  const decoded = async (): Promise<Uint8Array> => {
    const known = cached?.deref();
    if (known) return known;
    const bytes = decodeVarints(await encoded.read(), width, byteLength, where);
    cached = new WeakRef(bytes);
    return bytes;
  };
  return {
    byteLength,
    read: async (offset = 0, length = byteLength - offset) => (await decoded()).subarray(offset, offset + length),
  };
}

/** Little-endian elements of `width` bytes, the low bits of each varint. */
function decodeVarints(encoded: Uint8Array, width: number, byteLength: number, where: string): Uint8Array {
  // An encoded element has at least one byte, so this also bounds memory by the size of the file.
  if (byteLength / width > encoded.length || byteLength > MAX_DECODED_BYTES) wrongCount(where, byteLength / width);
  const result = new Uint8Array(byteLength);
  const view = new DataView(result.buffer);
  let at = 0;
  for (let offset = 0; offset < byteLength; offset += width) {
    let low = 0; // bits 0..31
    let high = 0; // bits 32..63
    let shift = 0;
    let byte = 0x80;
    while (byte >= 0x80) {
      if (at >= encoded.length || shift > 63) wrongCount(where, byteLength / width);
      byte = encoded[at++] as number;
      const bits = byte & 0x7f;
      if (shift < 32) low |= bits << shift;
      if (shift > 32) high |= bits << (shift - 32);
      else if (shift === 28) high |= bits >>> 4;
      shift += 7;
    }
    if (width === 1) result[offset] = low;
    else if (width === 2) view.setUint16(offset, low & 0xffff, true);
    else view.setUint32(offset, low >>> 0, true);
    if (width === 8) view.setUint32(offset + 4, high >>> 0, true);
  }
  if (at !== encoded.length) wrongCount(where, byteLength / width);
  return result;
}

function wrongCount(where: string, expected: number): never {
  throw new PareError("bad-model", "A tensor has the wrong number of elements", {
    where,
    expected: `${expected} elements`,
    help: "The file is damaged: fetch it again",
  });
}
