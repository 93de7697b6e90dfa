/** Files as byte sources, and external data found safely beside a model file. */
import { type Stats, close, closeSync, fstatSync, open, read } from "node:fs";
import { lstat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { PareError, messageOf } from "../base/error.ts";
import { type FileRange, shortFile } from "../base/file-range.ts";
import { type ByteSource, type ExternalResolver, checkRange } from "./byte-source.ts";
import { checkLocation } from "./external.ts";

const openAsync = promisify(open);
const readAsync = promisify(read);

/** Closes the descriptors of sources that are no longer reachable. */
const descriptors = new FinalizationRegistry<number>((descriptor) => close(descriptor));

/**
 * A file, kept open while the source is in use: replacing it by a rename (as saving does) leaves the source valid.
 * Throws `missing-file` for anything but a readable regular file.
 */
export async function fileByteSource(path: string): Promise<ByteSource> {
  const descriptor = await openFile(path);
  const stat: Stats = fstatSync(descriptor);
  if (stat.isFile()) return new FileSource(path, stat.size, descriptor);
  closeSync(descriptor);
  throw new PareError(
    "missing-file",
    stat.isDirectory() ? "This is a folder, not a file" : "This is not a regular file",
    {
      where: path,
    },
  );
}

class FileSource implements ByteSource {
  readonly name: string;
  readonly byteLength: number;
  readonly #descriptor: number;

  constructor(name: string, byteLength: number, descriptor: number) {
    this.name = name;
    this.byteLength = byteLength;
    this.#descriptor = descriptor;
    descriptors.register(this, descriptor);
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    checkRange(this, offset, length);
    const bytes = new Uint8Array(length);
    await this.readInto(bytes, offset);
    return bytes;
  }

  async readInto(target: Uint8Array, offset: number): Promise<void> {
    checkRange(this, offset, target.byteLength);
    for (let done = 0; done < target.byteLength; ) {
      // The engine of Node reads at most 2^31 - 1 bytes at once.
      const length = Math.min(target.byteLength - done, 2 ** 30);
      const { bytesRead } = await readAsync(this.#descriptor, target, done, length, offset + done);
      if (bytesRead === 0) throw shortFile(this.name);
      done += bytesRead;
    }
  }

  fileRange(offset: number, byteLength: number): FileRange {
    checkRange(this, offset, byteLength);
    return { name: this.name, descriptor: this.#descriptor, offset, byteLength };
  }
}

async function openFile(path: string): Promise<number> {
  try {
    return await openAsync(path, "r");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const message =
      code === "ENOENT" || code === "ENOTDIR"
        ? "There is no such file"
        : code === "EACCES" || code === "EPERM"
          ? "The file may not be read"
          : "The file cannot be opened";
    throw new PareError("missing-file", message, { where: path, found: code ?? messageOf(error), cause: error });
  }
}

/**
 * External data beside the model file at `path`. Locations that leave its folder, also through symbolic links, throw
 * `unsafe-path`; absent files `missing-file`.
 */
export function besideFile(path: string): ExternalResolver {
  const folder = dirname(path);
  const known = new Map<string, Promise<ByteSource>>();
  const find = async (location: string): Promise<ByteSource> => {
    checkLocation(location);
    let at = folder;
    for (const part of location.split(/[/\\]/)) {
      at = join(at, part);
      const stat = await lstat(at).catch(() => undefined);
      if (!stat)
        throw new PareError("missing-file", "The model keeps weights in a file that is not there", {
          where: path,
          found: `external data '${location}'`,
          expected: `a file ${join(folder, location)}`,
          help: `Fetch it too, and put it beside ${basename(path)}`,
        });
      if (stat.isSymbolicLink())
        throw new PareError("unsafe-path", "External data must not be a symbolic link", {
          where: at,
          help: "Replace the link by the file itself (a hard link works too)",
        });
    }
    return fileByteSource(at);
  };
  return (location) => {
    const found = known.get(location) ?? find(location);
    known.set(location, found);
    found.catch(() => known.delete(location));
    return found;
  };
}
