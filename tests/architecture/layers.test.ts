/** The layer rule: a folder imports itself and the folders above it; Node-only code sits in `.node.ts` files. */
import { posix } from "node:path";
import { describe, expect, it } from "vitest";
import { importsOf, sourceFiles } from "../support/source-files.ts";

/** From the bottom up: each may import itself and those before it. */
const LAYERS = [
  "base",
  "kernels",
  "onnx",
  "ir",
  "ops",
  "run",
  "data",
  "analyse",
  "transform",
  "train",
  "evaluate",
  "architectures",
  "techniques",
  "search",
  "report",
  "catalog",
  "index",
  "cli",
];
/** Neighbours that must not know each other although the order would allow it. */
const STRANGERS = [["train", "transform"]] as const;

/** Packages and modules that exist in Node only. */
const NODE_ONLY = /^(node:|onnxruntime-node|sharp$|commander$|cli-progress$)/;
/** Names that exist in Node only. */
const NODE_GLOBALS = /(?<![\w.$"'`/-])(process\.(?!$)|Buffer\.|__dirname|require\()/;

/** src/ir/graph.ts is of layer "ir", src/catalog.ts and src/catalog.node.ts of "catalog". */
function layerOf(path: string): string {
  return (path.split("/")[1] ?? "").replace(/(\.node)?\.ts$/, "");
}

type Files = ReadonlyMap<string, string>;

function target(path: string, specifier: string): string | undefined {
  return specifier.startsWith(".") ? posix.normalize(posix.join(posix.dirname(path), specifier)) : undefined;
}

function layerProblems(files: Files): string[] {
  const problems: string[] = [];
  for (const [path, source] of files) {
    const from = layerOf(path);
    if (!LAYERS.includes(from)) problems.push(`${path} is in no known layer`);
    for (const { specifier } of importsOf(source)) {
      const other = target(path, specifier);
      if (other === undefined) continue;
      const to = layerOf(other);
      if (!other.startsWith("src/")) problems.push(`${path} imports ${other}, outside src`);
      else if (LAYERS.indexOf(to) > LAYERS.indexOf(from)) problems.push(`${path} imports ${other} from below`);
      if (STRANGERS.some(([a, b]) => a === from && b === to)) problems.push(`${path} imports ${other}: strangers`);
    }
  }
  return problems;
}

function nodeProblems(files: Files): string[] {
  const problems: string[] = [];
  for (const [path, source] of files) {
    if (path.endsWith(".node.ts")) continue;
    for (const { specifier, typeOnly, dynamic } of importsOf(source)) {
      if (typeOnly) continue;
      if (NODE_ONLY.test(specifier)) problems.push(`${path} imports ${specifier}`);
      // A dynamic import is a default that a page replaces before it is reached.
      if (specifier.endsWith(".node.ts") && !dynamic && !path.startsWith("src/cli/") && path !== "src/index.ts")
        problems.push(`${path} imports ${specifier}`);
    }
    const code = source.replaceAll(/\/\*[\s\S]*?\*\//g, "").replaceAll(/\/\/.*$/gm, "");
    const used = NODE_GLOBALS.exec(code);
    if (used) problems.push(`${path} uses ${used[1]}`);
  }
  return problems;
}

const sources = sourceFiles("src", /\.ts$/);
const own = new Map([...sources].filter(([path]) => !path.startsWith("src/kernels/assembly/")));

describe("layers", () => {
  it("are imported upwards only", () => {
    expect(own.size).toBeGreaterThan(50);
    expect(layerProblems(own)).toEqual([]);
  });

  it("are checked by a rule that sees a wrong import", () => {
    const wrong = (path: string, text: string): number => layerProblems(new Map([[path, text]])).length;
    expect(wrong("src/base/a.ts", 'import { x } from "../ir/b.ts";')).toBe(1);
    expect(wrong("src/base/a.ts", 'import {\n  type X,\n  y,\n} from "../ir/b.ts";')).toBe(1);
    expect(wrong("src/ops/a.ts", 'export * from "../data/b.ts";')).toBe(1);
    expect(wrong("src/ir/a.ts", 'const b = await import("../run/b.ts");')).toBe(1);
    expect(wrong("src/train/a.ts", 'import type { X } from "../transform/b.ts";')).toBe(1);
    expect(wrong("src/new/a.ts", "")).toBe(1);
    expect(wrong("src/run/a.ts", 'import { x } from "../ir/b.ts"; // from "../cli/c.ts"')).toBe(0);
  });
});

describe("Node-only code", () => {
  it("sits in .node.ts files, and only they import it", () => {
    expect(nodeProblems(own)).toEqual([]);
  });

  it("is checked by a rule that sees it", () => {
    const wrong = (path: string, text: string): number => nodeProblems(new Map([[path, text]])).length;
    expect(wrong("src/ir/a.ts", 'import { open } from "node:fs";')).toBe(1);
    expect(wrong("src/ir/a.ts", 'import sharp from "sharp";')).toBe(1);
    expect(wrong("src/ir/a.ts", 'import { x } from "./b.node.ts";')).toBe(1);
    expect(wrong("src/ir/a.ts", "const n = process.cwd();")).toBe(1);
    expect(wrong("src/ir/a.node.ts", 'import { open } from "node:fs";')).toBe(0);
    expect(wrong("src/ir/a.ts", 'import type { X } from "./b.node.ts";')).toBe(0);
  });
});
