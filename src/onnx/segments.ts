/** Messages to bytes without holding the weights: a list of small runs of bytes and of payloads to be pumped between them. */
import { type DescMessage, type Message, toBinary } from "@bufbuild/protobuf";
import { PareError, messageOf } from "../base/error.ts";
import type { TensorProto } from "./gen/onnx_pb.js";
import { MAX_MESSAGE_BYTES } from "./limits.ts";
import { type Payload, payloadOf } from "./payload.ts";
import { REFERENCE_FIELD, WIRE_FIXED32, WIRE_FIXED64, WIRE_LENGTH, WIRE_VARINT, planOf, varint } from "./wire.ts";
import { walkTensors } from "./walk.ts";

/** `raw_data`, field 9, length-prefixed. */
const RAW_DATA_TAG = 9 * 8 + WIRE_LENGTH;

/** Bytes at hand, or the payload of a tensor. */
export type Segment = Uint8Array | Payload;

export interface Segments {
  readonly parts: readonly Segment[];
  readonly byteLength: number;
}

/**
 * Encodes a message whose tensors have payloads tied to them. The payloads become `raw_data`; their sizes are known, so
 * that every length prefix is right before a single weight is read. `external` leaves a payload out (it is written elsewhere).
 */
export function encodeSegments(
  schema: DescMessage,
  message: Message,
  external: (tensor: TensorProto) => boolean = () => false,
): Segments {
  const payloads: Payload[] = [];
  walkTensors(schema, message, (tensor) => {
    const others = tensor.$unknown?.filter(({ no }) => no !== REFERENCE_FIELD) ?? [];
    const payload = external(tensor) ? undefined : payloadOf(tensor);
    const reference = { no: REFERENCE_FIELD, wireType: WIRE_VARINT, data: varint(payloads.length) };
    if (payload) payloads.push(payload);
    const unknown = payload ? [...others, reference] : others;
    if (unknown.length > 0) tensor.$unknown = unknown;
    else if (tensor.$unknown) delete tensor.$unknown;
  });
  const skeleton = toBytes(schema, message);
  const parts = payloads.length === 0 ? [skeleton] : new Inflater(skeleton, payloads).run(schema);
  return { parts: joinSmall(parts), byteLength: parts.reduce((sum, part) => sum + part.byteLength, 0) };
}

function toBytes(schema: DescMessage, message: Message): Uint8Array {
  try {
    return toBinary(schema, message);
  } catch (error) {
    throw new PareError("internal", "The model cannot be encoded", { found: messageOf(error), cause: error });
  }
}

/** Throws if a message is too long for protobuf. */
export function checkMessageSize(byteLength: number): void {
  if (byteLength > MAX_MESSAGE_BYTES)
    throw new PareError("unsupported", "The model is too large for one protobuf message", {
      found: `${byteLength} bytes`,
      expected: `at most ${MAX_MESSAGE_BYTES} bytes`,
      help: "Save it with external data (a lower external-data threshold)",
    });
}

/** Puts payloads in the place of their references and mends the lengths of all messages around them. */
class Inflater {
  readonly #bytes: Uint8Array;
  readonly #payloads: readonly Payload[];
  #at = 0;

  constructor(bytes: Uint8Array, payloads: readonly Payload[]) {
    this.#bytes = bytes;
    this.#payloads = payloads;
  }

  run(schema: DescMessage): Segment[] {
    return this.#message(schema, this.#bytes.length).parts;
  }

  #message(schema: DescMessage, end: number): { parts: Segment[]; byteLength: number; grown: boolean } {
    const plan = planOf(schema);
    const parts: Segment[] = [];
    let byteLength = 0;
    let runStart = this.#at;
    let grown = false;
    const push = (part: Segment): void => {
      parts.push(part);
      byteLength += part.byteLength;
    };
    const flush = (until: number): void => {
      if (until > runStart) push(this.#bytes.subarray(runStart, until));
    };
    while (this.#at < end) {
      const start = this.#at;
      const tag = this.#varint();
      const tagEnd = this.#at;
      const number = Math.floor(tag / 8);
      if (plan.isTensor && number === REFERENCE_FIELD) {
        const payload = this.#payloads[this.#varint()] as Payload;
        flush(start);
        push(varint(RAW_DATA_TAG));
        push(varint(payload.byteLength));
        push(payload);
        runStart = this.#at;
        grown = true;
      } else if (tag % 8 === WIRE_LENGTH) {
        const length = this.#varint();
        const child = plan.fields.get(number)?.message;
        const childEnd = this.#at + length;
        const inner = child ? this.#message(child, childEnd) : undefined;
        this.#at = childEnd;
        if (!inner?.grown) continue;
        flush(tagEnd);
        push(varint(inner.byteLength));
        for (const part of inner.parts) parts.push(part);
        byteLength += inner.byteLength;
        runStart = childEnd;
        grown = true;
      } else if (tag % 8 === WIRE_FIXED64) this.#at += 8;
      else if (tag % 8 === WIRE_FIXED32) this.#at += 4;
      else this.#varint();
    }
    flush(end);
    return { parts, byteLength, grown };
  }

  #varint(): number {
    let value = 0;
    let scale = 1;
    for (;;) {
      const byte = this.#bytes[this.#at++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
  }
}

/** Joins neighbouring runs of bytes, so that a writer makes few calls. */
function joinSmall(parts: readonly Segment[]): Segment[] {
  const joined: Segment[] = [];
  let run: Uint8Array[] = [];
  const flush = (): void => {
    if (run.length > 0) joined.push(run.length === 1 ? (run[0] as Uint8Array) : concat(run));
    run = [];
  };
  for (const part of parts) {
    if (part instanceof Uint8Array) run.push(part);
    else {
      flush();
      joined.push(part);
    }
  }
  flush();
  return joined;
}

function concat(runs: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(runs.reduce((sum, run) => sum + run.length, 0));
  let at = 0;
  for (const run of runs) {
    bytes.set(run, at);
    at += run.length;
  }
  return bytes;
}
