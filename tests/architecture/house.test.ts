/** House rules: sizes, names, opening sentences, exports, and nothing of one machine in the repository. */
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, it } from "vitest";
import { REPOSITORY, sourceFiles } from "../support/source-files.ts";

/** Files that may be longer: tables that are one idea however long. Each with its reason. */
const LONG_TABLES: Readonly<Record<string, string>> = {};
const LINES_LIMIT = 500;

const code = new Map(
  ["src", "tests", "tools", "bench", "experiments", "examples"].flatMap((folder) => {
    try {
      return [...sourceFiles(folder, /\.(ts|mjs|js)$/)];
    } catch {
      return []; // a folder that this version does not have
    }
  }),
);

describe("house rules", () => {
  it(`no file has more than ${LINES_LIMIT} lines`, () => {
    const long = [...code].filter(
      ([path, text]) => text.split("\n").length - 1 > LINES_LIMIT && !(path in LONG_TABLES),
    );
    expect(long.map(([path]) => path)).toEqual([]);
    for (const path of Object.keys(LONG_TABLES)) expect(code.has(path), `${path} is excepted but gone`).toBe(true);
  });

  it("files have kebab-case names", () => {
    const name = /^[a-z0-9]+(-[a-z0-9]+)*(\.(node|test|config|d))*\.(ts|mjs|js)$/;
    expect([...code.keys()].filter((path) => !name.test(basename(path)))).toEqual([]);
    expect(name.test("fooBar.ts")).toBe(false);
    expect(name.test("read_file.ts")).toBe(false);
  });

  it("every source file opens with a sentence that says what lives there", () => {
    // A doc comment before any code, in which a line or the comment ends like a sentence.
    const opening = /^(#!.*\n)?\/\*\*(?:(?!\*\/)[\s\S]){10,}?[.:;)?!]["`]?\s*(\n|\*\/)/;
    const silent = [...code].filter(([path, text]) => path.startsWith("src/") && !opening.test(text));
    expect(silent.map(([path]) => path)).toEqual([]);
    expect(opening.test('import { x } from "./x.ts";\n/** Later it says what it is. */')).toBe(false);
    expect(opening.test("/** Short. */\n")).toBe(false);
  });

  it("no file has a default export", () => {
    const exported = /^export default\b|\bas default\b/m;
    const found = [...code].filter(([path, text]) => path.startsWith("src/") && exported.test(text));
    expect(found.map(([path]) => path)).toEqual([]);
  });

  it("nothing names a path of one machine", () => {
    // Home folders, and this repository's neighbours by absolute path. Made of pieces so that this file passes.
    const machine = new RegExp(`(?<![\\w.])/(${["home", "root", "Users", "work"].join("|")})/[a-z]`);
    const texts = sourceFiles("", /\.(ts|mjs|js|json|md|ya?ml|html|css|toml|svg)$|^(run|\.npmrc|\.gitignore|LICENSE)$/);
    const found = [...texts].filter(([, text]) => machine.test(text));
    expect(found.map(([path]) => path)).toEqual([]);
    expect(machine.test(`at ${["", "home", "someone", "x.ts"].join("/")}`)).toBe(true);
  });

  it("the lock file names packages, not the registry that served them", () => {
    const lock = readFileSync(join(REPOSITORY, "package-lock.json"), "utf8");
    expect(lock).not.toMatch(/"resolved"/);
    const hosts = new Set([...lock.matchAll(/https?:\/\/([^/"]+)/g)].map((match) => match[1]));
    // Where to give money to a project; not a place to fetch packages from.
    for (const host of hosts)
      expect(host).toMatch(/^(www\.)?(github\.com|opencollective\.com|tidelift\.com|[\w.-]*patreon\.com)$/);
  });
});
