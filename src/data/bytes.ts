/** Files of the readers: existence, gzip, and fixed-length records that lie in memory or are read when asked for. */
import { messageOf, PareError } from "../base/error.ts";
import type { Host } from "./host.ts";
import type { NameOptions } from "./options.ts";

/** Files of up to this size are kept in memory as they are: a seek per shuffled sample is dearer than the bytes. */
const RESIDENT_BYTES = 256 * 2 ** 20;

/** Throws `missing-file` unless the path is a folder. */
export async function requireFolder(host: Host, path: string, name: string): Promise<void> {
  const kind = await host.kind(path);
  if (kind === "folder") return;
  throw new PareError("missing-file", kind ? "This is a file, not a folder" : "There is no such folder", {
    where: name,
    found: path === "" ? "no path" : path,
    expected: "a folder",
    help: "Paths are relative to the working directory",
  });
}

/** Throws `missing-file` unless the path is a file. */
export async function requireFile(host: Host, path: string, name: string): Promise<void> {
  const kind = await host.kind(path);
  if (kind === "file") return;
  throw new PareError("missing-file", kind ? "This is a folder, not a file" : "There is no such file", {
    where: name,
    found: path === "" ? "no path" : path,
    expected: "a file",
    help: "Paths are relative to the working directory",
  });
}

/** A path named in an option: relative to the data's folder, else to the working directory. Both are tried, in that order. */
export async function resolveBeside(host: Host, folder: string, path: string, options: NameOptions): Promise<string> {
  for (const candidate of [host.join(folder, path), path])
    if ((await host.kind(candidate)) === "file") return candidate;
  throw new PareError("missing-file", "There is no such file", {
    where: options.name,
    found: path,
    expected: `a file at ${host.join(folder, path)} or, from the working directory, at ${path}`,
  });
}

/** Undoes gzip; `limit` bounds what comes out. Throws `bad-data` on a truncated or damaged file. */
export async function gunzip(bytes: Uint8Array, limit: number, path: string): Promise<Uint8Array> {
  const stream = new Blob([bytes as Uint8Array<ArrayBuffer>]).stream().pipeThrough(new DecompressionStream("gzip"));
  const reader = stream.getReader();
  const chunks: Uint8Array[] = [];
  let total = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      total += value.byteLength;
      if (total > limit) break;
      chunks.push(value);
    }
  } catch (cause) {
    throw new PareError("bad-data", "The gzip file is truncated or damaged", {
      where: path,
      found: messageOf(cause),
      help: "Fetch it again",
      cause,
    });
  }
  if (total > limit) {
    await reader.cancel();
    throw new PareError("bad-data", "The gzip file holds more than its contents declare", {
      where: path,
      found: `more than ${limit} bytes`,
    });
  }
  const whole = new Uint8Array(total);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.byteLength;
  }
  return whole;
}

/** Records of one length behind a header. */
export interface Records {
  readonly count: number;
  /** Bytes that hold record i, and where it begins in them. */
  at(index: number): { bytes: Uint8Array; start: number } | Promise<{ bytes: Uint8Array; start: number }>;
}

/** Records in memory. */
export function residentRecords(bytes: Uint8Array, header: number, length: number): Records {
  return {
    count: Math.floor((bytes.byteLength - header) / length),
    at: (index) => ({ bytes, start: header + index * length }),
  };
}

/** Records of a file: read once when the file is small, each when it is asked for when it is large. */
export async function fileRecords(host: Host, path: string, header: number, length: number): Promise<Records> {
  const size = await host.byteLength(path);
  if (size <= RESIDENT_BYTES) return residentRecords(await host.read(path), header, length);
  return {
    count: Math.floor((size - header) / length),
    at: async (index) => ({ bytes: await host.read(path, header + index * length, length), start: 0 }),
  };
}
