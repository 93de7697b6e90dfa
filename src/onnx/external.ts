/** External data: where a tensor's bytes lie beside the model, read from and written to `external_data` entries. */
import { create } from "@bufbuild/protobuf";
import { PareError } from "../base/error.ts";
import type { ExternalResolver } from "./byte-source.ts";
import { StringStringEntryProtoSchema, type TensorProto, TensorProto_DataLocation } from "./gen/onnx_pb.js";
import { MAX_LOCATION_LENGTH } from "./limits.ts";
import { type Payload, deferredPayload } from "./payload.ts";

const PLACE_KEYS = new Set(["location", "offset", "length", "checksum"]);

/** Throws `unsafe-path` unless the location stays inside the model's folder: relative, and without `..`. */
export function checkLocation(location: string): void {
  const escapes =
    location === "" ||
    location.length > MAX_LOCATION_LENGTH ||
    /^([a-zA-Z]:|[/\\])/.test(location) ||
    /^[a-zA-Z][a-zA-Z0-9+.-]*:\/\//.test(location) ||
    location.includes("\0") ||
    location.split(/[/\\]/).includes("..");
  if (escapes)
    throw new PareError("unsafe-path", "External data must lie inside the model's folder", {
      where: `location ${JSON.stringify(location.slice(0, 200))}`,
      help: "Do not trust this file; if you made it, put the data file beside the model",
    });
}

/** True if the tensor's bytes lie in another file. */
export function isExternal(tensor: TensorProto): boolean {
  return tensor.dataLocation === TensorProto_DataLocation.EXTERNAL;
}

/**
 * The bytes of an external tensor. Its offset and length are checked here against `byteLength` (what dtype and dims ask
 * for); its location when it is read, so that a hostile or incomplete model can still be inspected.
 */
export function externalPayload(tensor: TensorProto, byteLength: number, resolve: ExternalResolver): Payload {
  const entries = new Map(tensor.externalData.map(({ key, value }) => [key, value]));
  const where = `tensor '${tensor.name}'`;
  const location = entries.get("location");
  if (location === undefined) throw new PareError("bad-model", "External data without a location", { where });
  const offset = parseSize(entries.get("offset"), 0, where);
  const length = parseSize(entries.get("length"), byteLength, where);
  if (length !== byteLength)
    throw new PareError("bad-model", "External data has the wrong length", {
      where,
      found: `${length} bytes`,
      expected: `${byteLength} bytes`,
    });
  return deferredPayload(
    async () => {
      checkLocation(location);
      return resolve(location);
    },
    offset,
    byteLength,
  );
}

function parseSize(text: string | undefined, fallback: number, where: string): number {
  if (text === undefined || text === "") return fallback;
  const size = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(size))
    throw new PareError("bad-model", "External data with an impossible offset or length", {
      where,
      found: JSON.stringify(text.slice(0, 40)),
    });
  return size;
}

/** Removes place and checksum of external data, which no longer hold once the bytes move; other entries stay. */
export function clearExternal(tensor: TensorProto): void {
  tensor.externalData = tensor.externalData.filter(({ key }) => !PLACE_KEYS.has(key));
  tensor.dataLocation = TensorProto_DataLocation.DEFAULT;
}

/** Points a tensor at bytes of another file. */
export function setExternal(tensor: TensorProto, location: string, offset: number, length: number): void {
  const entries = [
    ["location", location],
    ["offset", String(offset)],
    ["length", String(length)],
  ] as const;
  clearExternal(tensor);
  tensor.externalData.unshift(...entries.map(([key, value]) => create(StringStringEntryProtoSchema, { key, value })));
  tensor.dataLocation = TensorProto_DataLocation.EXTERNAL;
}
