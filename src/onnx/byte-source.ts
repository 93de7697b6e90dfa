/** Where a file's bytes come from: memory, a Blob, or a server that answers range requests. Files: file-source.node.ts. */
import { PareError, messageOf } from "../base/error.ts";
import type { FileRange } from "../base/file-range.ts";

/** Random access to bytes. Reads never go past the end; asking for more than there is throws `bad-model`. */
export interface ByteSource {
  /** As the user knows it, for messages. */
  readonly name: string;
  readonly byteLength: number;
  /** The bytes if they already lie in memory. */
  readonly resident?: Uint8Array | undefined;
  /** `length` bytes from `offset`; may be a view that must not be written to. */
  read(offset: number, length: number): Promise<Uint8Array>;
  /** Fills `target` from `offset`. */
  readInto(target: Uint8Array, offset: number): Promise<void>;
  /** The same bytes for another thread to read, present where they lie in a file; valid while this source is in use. */
  fileRange?(offset: number, length: number): FileRange;
}

/** Finds the file of a tensor's external `location`, a path relative to the model's folder. */
export type ExternalResolver = (location: string) => Promise<ByteSource>;

/** Throws unless the range lies inside the source. */
export function checkRange(source: ByteSource, offset: number, length: number): void {
  if (offset < 0 || length < 0 || offset + length > source.byteLength)
    throw new PareError("bad-model", "A tensor reaches past the end of its file", {
      where: source.name,
      found: `bytes ${offset} to ${offset + length} of a file of ${source.byteLength} bytes`,
      help: "The file is truncated or does not belong to this model: fetch it again",
    });
}

/** A source over bytes in memory. */
export function memoryByteSource(bytes: Uint8Array, name = "model in memory"): ByteSource {
  const source: ByteSource = {
    name,
    byteLength: bytes.byteLength,
    resident: bytes,
    async read(offset, length) {
      checkRange(source, offset, length);
      return bytes.subarray(offset, offset + length);
    },
    async readInto(target, offset) {
      checkRange(source, offset, target.byteLength);
      target.set(bytes.subarray(offset, offset + target.byteLength));
    },
  };
  return source;
}

/** A source over a Blob or File of a browser page. */
export function blobByteSource(blob: Blob, name = "model"): ByteSource {
  const source: ByteSource = {
    name: "name" in blob && typeof blob.name === "string" ? blob.name : name,
    byteLength: blob.size,
    async read(offset, length) {
      checkRange(source, offset, length);
      return new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
    },
    async readInto(target, offset) {
      target.set(await source.read(offset, target.byteLength));
    },
  };
  return source;
}

/** A source over HTTP range requests; a server that ignores ranges is read whole, once. */
export async function httpByteSource(url: URL | string): Promise<ByteSource> {
  const name = String(url);
  const response = await request(name, { headers: { range: "bytes=0-0" } });
  const total = Number(response.headers.get("content-range")?.split("/")[1]);
  if (response.status !== 206 || !Number.isSafeInteger(total))
    return memoryByteSource(new Uint8Array(await response.arrayBuffer()), name);
  await response.arrayBuffer();
  const source: ByteSource = {
    name,
    byteLength: total,
    async read(offset, length) {
      checkRange(source, offset, length);
      if (length === 0) return new Uint8Array(0);
      const part = await request(name, { headers: { range: `bytes=${offset}-${offset + length - 1}` } });
      const bytes = new Uint8Array(await part.arrayBuffer());
      if (part.status !== 206 || bytes.byteLength !== length)
        throw new PareError("bad-model", "The server answered a range request with something else", {
          where: name,
          found: `status ${part.status}, ${bytes.byteLength} bytes`,
          expected: `status 206, ${length} bytes`,
        });
      return bytes;
    },
    async readInto(target, offset) {
      target.set(await source.read(offset, target.byteLength));
    },
  };
  return source;
}

async function request(url: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    throw new PareError("missing-file", "The server cannot be reached", {
      where: url,
      found: messageOf(error),
      cause: error,
    });
  }
  if (!response.ok)
    throw new PareError("missing-file", "The server refused", { where: url, found: `status ${response.status}` });
  return response;
}
