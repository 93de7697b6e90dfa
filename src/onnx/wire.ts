/** The protobuf wire format: tags, variable-length integers, and which fields of a message lead to tensors. */
import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { TensorProtoSchema } from "./gen/onnx_pb.js";

export const WIRE_VARINT = 0;
export const WIRE_FIXED64 = 1;
export const WIRE_LENGTH = 2;
export const WIRE_FIXED32 = 5;

/**
 * A private field of TensorProto in pare's memory, never in files: an index into a table of payloads, in the place of
 * bytes that stay where they are. The largest field number that protobuf allows.
 */
export const REFERENCE_FIELD: number = 2 ** 29 - 1;

/** Bytes of an unsigned integer below 2^53 as a varint: seven bits a byte, lowest first. */
export function varint(value: number): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

/** What the reader must know about one field. */
export interface FieldPlan {
  readonly name: string;
  readonly wire: number;
  /** A repeated scalar: may also come packed, in one length-prefixed field. */
  readonly packable: boolean;
  /** Smallest bytes of one packed element. */
  readonly elementBytes: number;
  readonly message: DescMessage | undefined;
  /** Elements of a tensor, which may be large and stay in the file. */
  readonly payload: boolean;
}

export interface MessagePlan {
  readonly name: string;
  readonly isTensor: boolean;
  readonly fields: ReadonlyMap<number, FieldPlan>;
}

const PAYLOAD_FIELDS = new Set(["raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"]);
const plans = new Map<string, MessagePlan>();

/** The fields of a message by number. */
export function planOf(schema: DescMessage): MessagePlan {
  const known = plans.get(schema.typeName);
  if (known) return known;
  const isTensor = schema.typeName === TensorProtoSchema.typeName;
  const fields = new Map(schema.fields.map((field) => [field.number, planField(field, isTensor)]));
  const plan = { name: schema.name, isTensor, fields };
  plans.set(schema.typeName, plan);
  return plan;
}

function planField(field: DescField, ofTensor: boolean): FieldPlan {
  const wire = wireOf(field);
  return {
    name: field.name,
    wire,
    packable: field.fieldKind === "list" && wire !== WIRE_LENGTH,
    elementBytes: wire === WIRE_FIXED64 ? 8 : wire === WIRE_FIXED32 ? 4 : 1,
    message: field.message,
    payload: ofTensor && PAYLOAD_FIELDS.has(field.name),
  };
}

function wireOf(field: DescField): number {
  if (field.message) return WIRE_LENGTH;
  switch (field.scalar) {
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return WIRE_LENGTH;
    case ScalarType.FLOAT:
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      return WIRE_FIXED32;
    case ScalarType.DOUBLE:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return WIRE_FIXED64;
    default:
      return WIRE_VARINT;
  }
}

/** A growable run of bytes. */
export class ByteWriter {
  #bytes: Uint8Array<ArrayBuffer>;
  #length = 0;
  readonly #limit: number;
  readonly #onLimit: () => never;

  constructor(capacity: number, limit: number, onLimit: () => never) {
    this.#bytes = new Uint8Array(capacity);
    this.#limit = limit;
    this.#onLimit = onLimit;
  }

  get length(): number {
    return this.#length;
  }

  /** Room for `count` more bytes; returns where they begin. */
  reserve(count: number): number {
    const at = this.#length;
    const length = at + count;
    if (length > this.#limit) this.#onLimit();
    if (length > this.#bytes.length) {
      const grown = new Uint8Array(Math.min(this.#limit, Math.max(length, this.#bytes.length * 2)));
      grown.set(this.#bytes.subarray(0, at));
      this.#bytes = grown;
    }
    this.#length = length;
    return at;
  }

  push(bytes: Uint8Array): void {
    const at = this.reserve(bytes.length);
    this.#bytes.set(bytes, at);
  }

  /** Writes `value` as a varint padded to five bytes at `at`: a length that was not known when its place was passed. */
  patchLength(at: number, value: number): void {
    let rest = value;
    for (let i = 0; i < 4; i++) {
      this.#bytes[at + i] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.#bytes[at + 4] = rest;
  }

  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#length);
  }
}
