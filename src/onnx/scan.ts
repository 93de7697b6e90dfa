/** Walks a model file in bounded windows and copies everything but large tensor payloads, which become ranges of the file. */
import type { DescMessage } from "@bufbuild/protobuf";
import { PareError } from "../base/error.ts";
import type { ByteSource } from "./byte-source.ts";
import {
  MAX_FIELDS,
  MAX_MESSAGES,
  MAX_MESSAGE_DEPTH,
  MAX_RESIDENT_PAYLOAD_BYTES,
  MAX_SKELETON_BYTES,
  SCAN_WINDOW_BYTES,
} from "./limits.ts";
import {
  ByteWriter,
  type FieldPlan,
  type MessagePlan,
  REFERENCE_FIELD,
  WIRE_FIXED32,
  WIRE_FIXED64,
  WIRE_LENGTH,
  WIRE_VARINT,
  planOf,
  varint,
} from "./wire.ts";

/** A payload left in the file: which field of TensorProto it is, and where its bytes lie. */
export interface PayloadRange {
  readonly field: number;
  readonly offset: number;
  readonly length: number;
}

/** The file without its large payloads: each is replaced by field {@link REFERENCE_FIELD}, an index into `ranges`. */
export interface Skeleton {
  readonly bytes: Uint8Array;
  readonly ranges: readonly PayloadRange[];
  /** True if the outermost message has no field that its schema does not know. */
  readonly known: boolean;
}

interface Frame {
  readonly plan: MessagePlan;
  /** Where the message ends in the file. */
  readonly end: number;
  /** Where its length is to be patched in the skeleton; -1 for the file itself. */
  readonly lengthAt: number;
}

/**
 * Checks and copies a message. Throws `bad-model` naming the byte where the file stops making sense or passes a limit;
 * memory is bounded by {@link MAX_SKELETON_BYTES}, time by the size of the graph.
 */
export async function scan(source: ByteSource, schema: DescMessage): Promise<Skeleton> {
  const scanner = new Scanner(source);
  await scanner.run(schema);
  return { bytes: scanner.out.finish(), ranges: scanner.ranges, known: scanner.known };
}

class Scanner {
  readonly out: ByteWriter;
  readonly ranges: PayloadRange[] = [];
  known = true;
  readonly #source: ByteSource;
  readonly #stack: Frame[] = [];
  #window: Uint8Array;
  #windowStart = 0;
  #at = 0;
  #messages = 0;
  #fields = 0;

  constructor(source: ByteSource) {
    this.#source = source;
    this.#window = source.resident ?? new Uint8Array(0);
    this.out = new ByteWriter(Math.min(source.byteLength + 1024, 1 << 20), MAX_SKELETON_BYTES, () =>
      this.#tooLarge("the graph without its weights", `${MAX_SKELETON_BYTES} bytes`),
    );
  }

  async run(schema: DescMessage): Promise<void> {
    this.#stack.push({ plan: planOf(schema), end: this.#source.byteLength, lengthAt: -1 });
    for (let frame = this.#stack.at(-1); frame; frame = this.#stack.at(-1)) {
      if (this.#at === frame.end) {
        this.#stack.pop();
        if (frame.lengthAt >= 0) this.out.patchLength(frame.lengthAt, this.out.length - frame.lengthAt - 5);
        continue;
      }
      // A tag, a length and a fixed64 take at most 5 + 10 + 8 bytes.
      if (!this.#has(24)) await this.#fill();
      const pending = this.#field(frame);
      if (pending > 0) await this.#copyLong(pending);
    }
  }

  /** True if the window holds `count` bytes from here, or everything up to the end of the file. */
  #has(count: number): boolean {
    const end = this.#windowStart + this.#window.length;
    return this.#at >= this.#windowStart && (this.#at + count <= end || end === this.#source.byteLength);
  }

  async #fill(): Promise<void> {
    const length = Math.min(SCAN_WINDOW_BYTES, this.#source.byteLength - this.#at);
    this.#window = await this.#source.read(this.#at, length);
    this.#windowStart = this.#at;
  }

  /** Reads one field; returns how many of its bytes are still to be copied because they lie outside the window. */
  #field(frame: Frame): number {
    const start = this.#at;
    const tag = this.#varint(frame);
    const number = Math.floor(tag / 8);
    const wire = tag % 8;
    if (tag > 0xffff_ffff || number === 0) this.#bad("An impossible field number", start);
    const field = frame.plan.fields.get(number);
    if (!field && this.#stack.length === 1) this.known = false;
    if (++this.#fields > MAX_FIELDS) this.#tooLarge("fields", String(MAX_FIELDS));
    if (field && wire !== field.wire && !(field.packable && wire === WIRE_LENGTH))
      this.#bad(`Field ${frame.plan.name}.${field.name} has the wrong wire type ${wire}`, start);
    if (number === REFERENCE_FIELD && frame.plan.isTensor) this.#bad("Field number 536870911 is reserved", start);
    switch (wire) {
      case WIRE_VARINT:
        this.#varint(frame);
        return this.#copy(start, this.#at - start);
      case WIRE_FIXED64:
        return this.#copyFixed(frame, start, 8);
      case WIRE_FIXED32:
        return this.#copyFixed(frame, start, 4);
      case WIRE_LENGTH:
        return this.#lengthPrefixed(frame, start, number, field);
      default:
        return this.#bad(`Wire type ${wire}, which no model uses`, start);
    }
  }

  #lengthPrefixed(frame: Frame, start: number, number: number, field: FieldPlan | undefined): number {
    const tagEnd = this.#at;
    const length = this.#varint(frame);
    const body = this.#at;
    if (body + length > frame.end) this.#pastEnd(frame, start, body + length, field);
    if (field?.message) {
      if (this.#stack.length >= MAX_MESSAGE_DEPTH) this.#tooLarge("nested messages", String(MAX_MESSAGE_DEPTH));
      if (++this.#messages > MAX_MESSAGES) this.#tooLarge("messages", String(MAX_MESSAGES));
      this.#copy(start, tagEnd - start);
      const lengthAt = this.out.reserve(5);
      this.#stack.push({ plan: planOf(field.message), end: body + length, lengthAt });
      this.#at = body;
      return 0;
    }
    if (field?.payload && length > MAX_RESIDENT_PAYLOAD_BYTES) {
      this.out.push(varint(REFERENCE_FIELD * 8 + WIRE_VARINT));
      this.out.push(varint(this.ranges.length));
      this.ranges.push({ field: number, offset: body, length });
      this.#at = body + length;
      return 0;
    }
    if (field?.packable) {
      this.#fields += Math.ceil(length / field.elementBytes);
      if (this.#fields > MAX_FIELDS) this.#tooLarge("elements", String(MAX_FIELDS));
    }
    return this.#copy(start, body - start + length);
  }

  #copyFixed(frame: Frame, start: number, bytes: number): number {
    if (this.#at + bytes > frame.end) this.#pastEnd(frame, start, this.#at + bytes, undefined);
    return this.#copy(start, this.#at - start + bytes);
  }

  /** Copies bytes from `start`, which lies in the window; returns how many lie beyond the window. */
  #copy(start: number, length: number): number {
    const from = start - this.#windowStart;
    const part = Math.min(length, this.#window.length - from);
    this.out.push(this.#window.subarray(from, from + part));
    this.#at = start + part;
    return length - part;
  }

  async #copyLong(length: number): Promise<void> {
    for (let rest = length; rest > 0; ) {
      await this.#fill();
      if (this.out.length + rest > MAX_SKELETON_BYTES)
        this.#tooLarge("the graph without its weights", `${MAX_SKELETON_BYTES} bytes`);
      rest = this.#copy(this.#at, rest);
    }
  }

  /** An unsigned varint; exact below 2^53, more than enough to be refused above. */
  #varint(frame: Frame): number {
    const start = this.#at;
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 10; i++) {
      if (this.#at >= frame.end) this.#pastEnd(frame, start, this.#at + 1, undefined);
      const byte = this.#window[this.#at - this.#windowStart] as number;
      this.#at++;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
    return this.#bad("An integer of more than ten bytes", start);
  }

  #pastEnd(frame: Frame, at: number, end: number, field: FieldPlan | undefined): never {
    const what = field ? `${frame.plan.name}.${field.name}` : frame.plan.name;
    if (end > this.#source.byteLength)
      throw new PareError("bad-model", `The file ends in the middle of ${what}`, {
        where: `${this.#source.name}, byte ${at}`,
        found: `${this.#source.byteLength} bytes`,
        expected: `at least ${end} bytes`,
        help: "It is truncated or damaged: fetch it again",
      });
    return this.#bad(`${what} is longer than the message that holds it`, at);
  }

  #bad(message: string, at: number): never {
    throw new PareError("bad-model", message, {
      where: `${this.#source.name}, byte ${at}`,
      help: "The file is damaged or is not an ONNX model",
    });
  }

  #tooLarge(what: string, limit: string): never {
    throw new PareError("bad-model", `The file has too many or too large ${what}`, {
      where: `${this.#source.name}, byte ${this.#at}`,
      expected: `at most ${limit}`,
    });
  }
}
