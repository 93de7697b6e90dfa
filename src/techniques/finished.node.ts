/** Finished parts of a recipe in a folder beside its output. */
import { createHash } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { Finished } from "./finished.ts";

/** Names the run whose parts lie in the folder. */
const IDENTITY = "run.txt";

/**
 * Parts of the run that `identity` names (input, recipe, data, seed, version; asked once there is something to keep), in `.<output>.finished`. Parts of any other run there are
 * given up when this one keeps its first. Remove it when the output is in its place.
 */
export class FinishedFolder implements Finished {
  readonly #folder: string;
  readonly #identity: () => Promise<string>;
  #text: Promise<string> | undefined;
  #own: Promise<boolean> | undefined;

  constructor(output: string, identity: () => Promise<string>) {
    this.#folder = join(dirname(resolve(output)), `.${basename(output)}.finished`);
    this.#identity = identity;
  }

  async get(key: string): Promise<Uint8Array | undefined> {
    if (!(await this.#isOwn())) return undefined;
    return readFile(this.#file(key)).catch(() => undefined);
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    if (!(await this.#isOwn())) {
      await rm(this.#folder, { recursive: true, force: true });
      await mkdir(this.#folder);
      await this.#write(join(this.#folder, IDENTITY), Buffer.from(await this.#name()));
      this.#own = Promise.resolve(true);
    }
    await this.#write(this.#file(key), bytes);
  }

  async remove(): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
  }

  #isOwn(): Promise<boolean> {
    this.#own ??= readFile(join(this.#folder, IDENTITY), "utf8").then(
      async (text) => text === (await this.#name()),
      () => false,
    );
    return this.#own;
  }

  #name(): Promise<string> {
    this.#text ??= this.#identity();
    return this.#text;
  }

  #file(key: string): string {
    return join(this.#folder, createHash("sha256").update(key).digest("hex").slice(0, 32));
  }

  async #write(path: string, bytes: Uint8Array): Promise<void> {
    await writeFile(`${path}.tmp`, bytes);
    await rename(`${path}.tmp`, path);
  }
}
