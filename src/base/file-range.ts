/** Bytes of an open file, named so that any thread of this process can read them. */
import { PareError } from "./error.ts";

export interface FileRange {
  /** The file as the user knows it, for messages. */
  readonly name: string;
  /** Of the open file: valid in every thread while the source that gave it is in use. */
  readonly descriptor: number;
  readonly offset: number; // bytes
  readonly byteLength: number;
}

/** What is thrown where a file ends before its bytes do. */
export function shortFile(name: string): PareError {
  return new PareError("bad-model", "The file became shorter while it was read", { where: name });
}
