/** Small files written whole or not at all, and output folders, with errors in a user's words. */
import { existsSync } from "node:fs";
import { mkdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { PareError } from "../base/error.ts";

/** Writes a text beside its place and moves it there; on any error nothing is left. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    await writeFile(temporary, text);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Makes an output folder (one level: its parent must exist). Throws `output` when something else is there or it cannot be made. */
export async function makeOutputFolder(path: string): Promise<void> {
  const there = await stat(path).catch(() => undefined);
  if (there && !there.isDirectory())
    throw new PareError("output", "The output is a file", {
      where: path,
      expected: "a folder, or a name that is free",
    });
  if (there) return;
  if (!existsSync(dirname(resolve(path))))
    throw new PareError("output", "The folder around the output does not exist", {
      where: path,
      help: `Make it: mkdir -p '${dirname(path)}'`,
    });
  await mkdir(path);
}
