/** The repository's own files as text, for tests about the code itself. */
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository's root folder. */
export const REPOSITORY: string = join(dirname(fileURLToPath(import.meta.url)), "..", "..");

/** Folders that are made, fetched or generated. */
const SKIPPED = new Set(["node_modules", "dist", ".git", ".tmp", "gen", "pare-demo"]);

/** Text of the files under `folder` ("" for all) whose names match, by path from the root with forward slashes. */
export function sourceFiles(folder: string, pattern: RegExp): Map<string, string> {
  const files = new Map<string, string>();
  const walk = (path: string): void => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const inside = join(path, entry.name);
      if (entry.isDirectory() && !SKIPPED.has(entry.name)) walk(inside);
      else if (entry.isFile() && pattern.test(entry.name))
        files.set(relative(REPOSITORY, inside).split(sep).join("/"), readFileSync(inside, "utf8"));
    }
  };
  walk(join(REPOSITORY, folder));
  return files;
}

/** One import or re-export of a module. */
export interface ImportOf {
  readonly specifier: string;
  /** Types only: gone when the code runs. */
  readonly typeOnly: boolean;
  /** `import()` of code that runs only when it is needed. */
  readonly dynamic: boolean;
}

/** Every import of a TypeScript source, comments left out. */
export function importsOf(source: string): ImportOf[] {
  const code = source.replaceAll(/\/\*[\s\S]*?\*\//g, "").replaceAll(/^\s*\/\/.*$/gm, "");
  const found: ImportOf[] = [];
  for (const match of code.matchAll(/^\s*(?:import|export)\s+(type\s)?(?:[\w*{][^"';]*?\sfrom\s+)?"([^"]+)"/gm))
    found.push({ specifier: match[2] as string, typeOnly: match[1] !== undefined, dynamic: false });
  for (const match of code.matchAll(/\bimport\(\s*"([^"]+)"\s*\)/g))
    found.push({ specifier: match[1] as string, typeOnly: false, dynamic: true });
  return found;
}
