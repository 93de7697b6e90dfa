/** results.json in a folder: read when it is there, written atomically. */
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PareError, messageOf } from "../base/error.ts";
import { parseResults, resultsJson } from "./results-json.ts";
import type { ResultsStore } from "./sweep.ts";

/** Keeps results in `folder`/results.json. `fresh`: what is there is not read, and replaced. */
export function folderStore(folder: string, options: { readonly fresh?: boolean | undefined } = {}): ResultsStore {
  const path = join(folder, "results.json");
  return {
    async read() {
      if (options.fresh) return undefined;
      let text: string;
      try {
        text = await readFile(path, "utf8");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
        throw new PareError("output", `Cannot read the results so far: ${messageOf(error)}`, {
          where: path,
          cause: error,
        });
      }
      return parseResults(text, path);
    },
    async write(results) {
      const temporary = join(folder, `.results.${process.pid}.tmp`);
      try {
        await mkdir(folder, { recursive: true });
        await writeFile(temporary, resultsJson(results));
        await rename(temporary, path);
      } catch (error) {
        await rm(temporary, { force: true }).catch(() => undefined);
        throw new PareError("output", `Cannot write the results: ${messageOf(error)}`, {
          where: path,
          help: "Name a folder that can be written and has room",
          cause: error,
        });
      }
    },
  };
}
