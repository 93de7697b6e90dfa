/** Real models and data sets that may lie beside the checkout in shared/data: found, or skipped with a word. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, it } from "vitest";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..", "shared", "data");

/** The path of `shared/data/<relative>`, or undefined when it is not there. */
export function sharedData(relative: string): string | undefined {
  const path = join(root, relative);
  return existsSync(path) ? path : undefined;
}

/** A `describe` that is given the path; reported as skipped, naming what it needs, when the data is absent. */
export function describeWithData(name: string, relative: string, body: (path: string) => void): void {
  const path = sharedData(relative);
  if (path === undefined) describe(name, () => it.skip(`skipped: needs shared/data/${relative}`, () => undefined));
  else describe(name, () => body(path));
}
