/** A JSON file of the user's, with errors in their words. */
import { readFile } from "node:fs/promises";
import { PareError } from "../base/error.ts";

/** Reads and parses a file. Throws `bad-data` where it is not there or not JSON. */
export async function readJson(path: string): Promise<unknown> {
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new PareError("bad-data", "The file cannot be read", { where: path, cause });
  });
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new PareError("bad-data", "The file is not JSON", { where: path, cause });
  }
}
