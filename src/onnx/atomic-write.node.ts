/** Files that appear whole or not at all: written under a temporary name in the same folder, then renamed. */
import { type Stats, unlinkSync } from "node:fs";
import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { PareError, messageOf } from "../base/error.ts";
import { COPY_CHUNK_BYTES } from "./limits.ts";

/** Temporary files of this process, removed at exit if nothing else did. */
const temporaries = new Set<string>();
let watching = false;
let counter = 0;

function watchExit(): void {
  if (watching) return;
  watching = true;
  process.on("exit", () => {
    for (const path of temporaries) {
      try {
        unlinkSync(path);
      } catch {
        // Already gone.
      }
    }
  });
}

/** What lies at a path, or undefined. */
export async function statOf(path: string): Promise<Stats | undefined> {
  return stat(path).catch(() => undefined);
}

/** Throws `output` if something lies at `path` and `force` is not set, or if it is not a file that can be replaced. */
export async function checkReplaceable(path: string, force: boolean): Promise<void> {
  const found = await statOf(path);
  if (!found) return;
  if (!found.isFile())
    throw new PareError("output", found.isDirectory() ? "The output is a folder" : "The output is not a regular file", {
      where: path,
      help: "Name a file",
    });
  if (!force)
    throw new PareError("output", "The output already exists", {
      where: path,
      help: "Give --force to replace it, or another name",
    });
}

/** A file being written, in large chunks: one is filled while the one before is on its way to the disk. */
export class TemporaryFile {
  readonly path: string;
  readonly target: string;
  readonly #handle: FileHandle;
  #filling: Uint8Array = new Uint8Array(COPY_CHUNK_BYTES);
  #spare: Uint8Array = new Uint8Array(COPY_CHUNK_BYTES);
  #filled = 0;
  #pending: Promise<unknown> = Promise.resolve();
  /** Bytes handed over so far. */
  length = 0;

  private constructor(path: string, target: string, handle: FileHandle) {
    this.path = path;
    this.target = target;
    this.#handle = handle;
  }

  /** Opens a temporary file in the folder of `target`. */
  static async create(target: string): Promise<TemporaryFile> {
    watchExit();
    const path = join(dirname(target), `.${basename(target)}.${process.pid}-${counter++}.tmp`);
    try {
      const handle = await open(path, "wx");
      temporaries.add(path);
      return new TemporaryFile(path, target, handle);
    } catch (error) {
      throw outputError(error, target);
    }
  }

  /** Appends bytes; they may be reused by the caller after the call unless they are larger than a chunk. */
  async write(bytes: Uint8Array): Promise<void> {
    if (bytes.byteLength >= COPY_CHUNK_BYTES) {
      await this.#flush();
      await this.#send(bytes);
    } else {
      if (this.#filled + bytes.byteLength > COPY_CHUNK_BYTES) await this.#flush();
      this.#filling.set(bytes, this.#filled);
      this.#filled += bytes.byteLength;
    }
    this.length += bytes.byteLength;
  }

  /** Appends `byteLength` bytes that `readInto` delivers in parts, straight into the write buffers. */
  async pump(
    byteLength: number,
    readInto: (target: Uint8Array, offset: number) => Promise<void>,
    onChunk: () => void,
  ): Promise<void> {
    for (let done = 0; done < byteLength; ) {
      if (this.#filled === COPY_CHUNK_BYTES) await this.#flush();
      const part = Math.min(byteLength - done, COPY_CHUNK_BYTES - this.#filled);
      await readInto(this.#filling.subarray(this.#filled, this.#filled + part), done);
      this.#filled += part;
      this.length += part;
      done += part;
      onChunk();
    }
  }

  /** Appends zeros up to the next multiple of `alignment`. */
  async align(alignment: number): Promise<void> {
    const missing = (alignment - (this.length % alignment)) % alignment;
    if (missing > 0) await this.write(new Uint8Array(missing));
  }

  async #flush(): Promise<void> {
    if (this.#filled === 0) return;
    const full = this.#filling.subarray(0, this.#filled);
    await this.#send(full);
    [this.#filling, this.#spare] = [this.#spare, this.#filling];
    this.#filled = 0;
  }

  /** Waits for the write before this one, then starts this one. */
  async #send(bytes: Uint8Array): Promise<void> {
    await this.#settled();
    this.#pending = this.#writeAll(bytes);
    this.#pending.catch(() => undefined); // reported by whoever waits next
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.byteLength; ) {
      const { bytesWritten } = await this.#handle.write(bytes, done, Math.min(bytes.byteLength - done, 2 ** 30));
      done += bytesWritten;
    }
  }

  async #settled(): Promise<void> {
    try {
      await this.#pending;
    } catch (error) {
      throw outputError(error, this.target);
    }
  }

  /** Writes what is left and closes the file. */
  async finish(): Promise<void> {
    await this.#flush();
    await this.#settled();
    try {
      await this.#handle.close();
    } catch (error) {
      throw outputError(error, this.target);
    }
  }

  /** Closes and removes the file, whatever happened to it. */
  async discard(): Promise<void> {
    await this.#pending.catch(() => undefined);
    await this.#handle.close().catch(() => undefined);
    await rm(this.path, { force: true }).catch(() => undefined);
    temporaries.delete(this.path);
  }

  /** Marks the file as renamed to its target. */
  settle(): void {
    temporaries.delete(this.path);
  }
}

/**
 * Renames finished files to their targets, in order, all or none: if one cannot be renamed, the ones before are undone and
 * what they replaced is put back.
 */
export async function publish(files: readonly TemporaryFile[]): Promise<void> {
  const undo: (() => Promise<void>)[] = [];
  const backups: string[] = [];
  try {
    for (const file of files) {
      // The last rename replaces its target in one step; earlier ones keep a way back.
      if (file !== files.at(-1) && (await statOf(file.target))) {
        const backup = `${file.path}.old`;
        await rename(file.target, backup);
        temporaries.add(backup);
        backups.push(backup);
        undo.push(() => rename(backup, file.target));
      }
      await rename(file.path, file.target);
      if (file !== files.at(-1)) undo.push(() => rename(file.target, file.path));
      file.settle();
    }
  } catch (error) {
    for (const step of undo.reverse()) await step();
    for (const backup of backups) temporaries.delete(backup);
    for (const file of files) await rm(file.path, { force: true });
    throw outputError(error, files.at(-1)?.target ?? "");
  }
  for (const backup of backups) {
    await rm(backup, { force: true });
    temporaries.delete(backup);
  }
}

/** An error of the file system as a user meets it. */
export function outputError(error: unknown, path: string): PareError {
  if (error instanceof PareError) return error;
  const code = (error as NodeJS.ErrnoException).code;
  const known: Readonly<Record<string, readonly [string, string]>> = {
    ENOSPC: ["The disk is full", "Free some space, or write to another disk; nothing was written"],
    EDQUOT: ["The disk quota is used up", "Free some space, or write to another disk; nothing was written"],
    EFBIG: ["The file is too large for this file system", "Write to another disk; nothing was written"],
    EACCES: ["The output may not be written", "Choose a folder that you may write to"],
    EPERM: ["The output may not be written", "Choose a folder that you may write to"],
    EROFS: ["The disk is read-only", "Choose a folder that you may write to"],
    ENOENT: ["The output's folder does not exist", `Create it first: mkdir -p ${dirname(path)}`],
    ENOTDIR: ["The output's folder is not a folder", "Choose another path"],
    ENAMETOOLONG: ["The output's name is too long", "Choose a shorter name"],
    EMFILE: ["Too many files are open", "Close some, or raise the limit (ulimit -n)"],
  };
  const [message, help] = known[code ?? ""] ?? ["The output cannot be written", "Nothing was written"];
  return new PareError("output", message, { where: path, found: code ?? messageOf(error), help, cause: error });
}
