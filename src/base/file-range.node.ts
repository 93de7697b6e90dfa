/** Reads a range of an open file in the calling thread, which waits: for worker threads. */
import { readSync } from "node:fs";
import { PareError } from "./error.ts";
import { type FileRange, shortFile } from "./file-range.ts";

/** Fills `target` from byte `offset` of the range. Throws `bad-model` where the file has become shorter. */
export function readFileRange(file: FileRange, target: Uint8Array, offset: number): void {
  if (offset < 0 || offset + target.byteLength > file.byteLength)
    throw new PareError("internal", "A read past the end of a tensor", { where: file.name });
  for (let done = 0; done < target.byteLength; ) {
    const read = readSync(file.descriptor, target, done, target.byteLength - done, file.offset + offset + done);
    if (read === 0) throw shortFile(file.name);
    done += read;
  }
}
