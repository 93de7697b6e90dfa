/** Lines kept in files of the user's cache folder: $PARE_CACHE, $XDG_CACHE_HOME/pare or ~/.cache/pare. */
import { appendFile, mkdir, readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { PareError, messageOf } from "./error.ts";
import type { LineStore } from "./line-store.ts";

/** The folder of everything that can be made again. */
export function cacheFolder(): string {
  const { PARE_CACHE: own, XDG_CACHE_HOME: shared } = process.env;
  return own ?? join(shared ?? join(homedir(), ".cache"), "pare");
}

/**
 * The lines of `name`, a path of plain words such as `sensitivity/0123abcd`. A
 * process that was killed may have left half a line: callers pass over what they cannot parse.
 */
export function openLines(name: string, folder: string = cacheFolder()): LineStore {
  const path = join(folder, `${name}.jsonl`);
  let torn = false;
  return {
    async read() {
      let text: string;
      try {
        text = await readFile(path, "utf8");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
        throw unusable(path, error);
      }
      const lines = text.split("\n");
      torn = lines.pop() !== "";
      return lines;
    },
    async append(line) {
      try {
        await mkdir(join(path, ".."), { recursive: true });
        await appendFile(path, `${torn ? "\n" : ""}${line}\n`);
        torn = false;
      } catch (error) {
        throw unusable(path, error);
      }
    },
  };
}

function unusable(path: string, error: unknown): PareError {
  return new PareError("output", "What was measured cannot be kept between runs", {
    where: path,
    found: messageOf(error),
    help: "Name another folder in PARE_CACHE, or turn the cache off",
    cause: error,
  });
}
