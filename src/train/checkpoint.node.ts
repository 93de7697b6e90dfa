/** Checkpoints in a file, written whole or not at all. */
import { open, readFile, rename, rm } from "node:fs/promises";
import { PareError, messageOf } from "../base/error.ts";
import { type CheckpointStore, decodeCheckpoint, encodeCheckpoint } from "./checkpoint.ts";

/** Keeps the newest checkpoint at `path`; a crash at any moment leaves the one before it. */
export function checkpointFile(path: string): CheckpointStore {
  return {
    async read() {
      let bytes: Uint8Array;
      try {
        bytes = await readFile(path);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
        throw error;
      }
      return decodeCheckpoint(bytes, path);
    },
    async write(checkpoint) {
      const temporary = `${path}.tmp`; // one name: what a killed process left is replaced
      try {
        const file = await open(temporary, "w");
        try {
          await file.writeFile(encodeCheckpoint(checkpoint));
          await file.sync();
        } finally {
          await file.close();
        }
        await rename(temporary, path);
      } catch (error) {
        await rm(temporary, { force: true });
        throw new PareError("output", "The checkpoint could not be written", {
          where: path,
          found: messageOf(error),
          help: "Name a writable place with enough space, or train without checkpoints",
          cause: error,
        });
      }
    },
  };
}
