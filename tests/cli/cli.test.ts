import { type SpawnSyncReturns, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { saveFile } from "../../src/ir/save.node.ts";

const command = join(import.meta.dirname, "..", "..", "dist", "cli", "main.node.js");
let folder = "";
let model = "";
const at = (name: string): string => join(folder, name);
const pare = (...args: string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, [command, ...args], { cwd: folder, encoding: "utf8", timeout: 120_000 });

/** A user's mistake: exit code 2, nothing on stdout, one line on stderr, no stack trace. */
function expectMistake(result: SpawnSyncReturns<string>, ...words: RegExp[]): void {
  expect(result.status).toBe(2);
  expect(result.stdout).toBe("");
  for (const word of words) expect(result.stderr).toMatch(word);
  expect(result.stderr).not.toMatch(/\n\s+at /);
  expect(
    result.stderr
      .trim()
      .split("\n")
      .filter((line) => line.startsWith("pare: ")),
  ).toHaveLength(1);
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "pare-cli-"));
  model = at("lenet.onnx");
  await saveFile(buildArchitecture("lenet-300-100", { seed: 1 }), model);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("help", () => {
  it("lists instruments and techniques without arguments", () => {
    const { status, stdout } = pare();
    expect(status).toBe(0);
    for (const verb of ["demo", "inspect", "compress", "quantize-weights", "prune-weights", "simplify"])
      expect(stdout).toContain(verb);
  });

  it("describes every option of a technique with its default", () => {
    const { status, stdout } = pare("quantize-weights", "--help");
    expect(status).toBe(0);
    expect(stdout).toMatch(/--bits .*\n?.*default: 4/);
  });
});

describe("mistakes", () => {
  it("names the nearest verb", () => expectMistake(pare("quantise-weights", model), /Unknown verb.*quantize-weights/));
  it("names a missing file", () => expectMistake(pare("inspect", "absent.onnx"), /absent\.onnx/));

  it("says what a file really is", () => {
    const header = JSON.stringify({ w: { dtype: "F32", shape: [1], data_offsets: [0, 4] } });
    const bytes = Buffer.alloc(8 + header.length + 4);
    bytes.writeBigUInt64LE(BigInt(header.length));
    bytes.write(header, 8);
    writeFileSync(at("weights.safetensors"), bytes);
    expectMistake(pare("inspect", "weights.safetensors"), /safetensors/);
  });

  it("refuses unknown options and values", () => {
    expectMistake(pare("quantize-weights", model, "-o", "x.onnx", "--bitz", "4"), /bitz/);
    expectMistake(pare("quantize-weights", model, "-o", "x.onnx", "--bits", "7"), /bits/);
    expectMistake(pare("compress", model, "-o", "x.onnx", "--step", "quantize-weights:bitz=4"), /Did you mean 'bits'/);
    expectMistake(
      pare("compress", model, "-o", "x.onnx", "--step", "prune-weight:ratio=0.5"),
      /Did you mean 'prune-weights'/,
    );
    expectMistake(pare("compress", model, "-o", "x.onnx"), /No step/);
    expect(existsSync(at("x.onnx"))).toBe(false);
  });

  it("needs data where a technique needs it", () => {
    expectMistake(pare("quantize", model, "-o", "x.onnx"), /needs samples/, /--data/);
    expectMistake(pare("quantize", model, "-o", "x.onnx", "--data", "idxx:nowhere"), /idx/);
  });

  it("names both shapes when data do not fit the model", () => {
    expectMistake(pare("evaluate", model, "--data", "glyphs:?size=20&layout=flat&count=10"), /28, 28/, /400/);
  });

  it("does not overwrite without --force", () => {
    writeFileSync(at("there.onnx"), "precious");
    expectMistake(pare("quantize-weights", model, "-o", "there.onnx"), /--force/);
    expect(readFileSync(at("there.onnx"), "utf8")).toBe("precious");
  });

  it("names an output folder that is not there", () => {
    expectMistake(pare("simplify", model, "-o", "no/where/x.onnx"), /folder/);
  });

  it("says that a provider is absent instead of falling back", () => {
    expectMistake(pare("benchmark", model, "--provider", "cuda"), /cuda/i);
  });
});

describe("a technique's verb", () => {
  it("writes a smaller, proven model and reports it as JSON", () => {
    const { status, stdout, stderr } = pare("quantize-weights", model, "-o", "small.onnx", "--bits", "4", "--json");
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const report = JSON.parse(stdout) as {
      output: string;
      input: { bytes: number };
      result: { bytes: number };
      ratio: number;
      steps: { changed: unknown[] }[];
      verified: { session: boolean; samples: number; sqnrDb: number };
    };
    expect(report.output).toBe("small.onnx");
    expect(report.result.bytes).toBe(statSync(at("small.onnx")).size);
    expect(report.input.bytes).toBe(statSync(model).size);
    expect(report.ratio).toBeGreaterThan(5);
    expect(report.verified).toMatchObject({ session: true });
    expect(report.verified.sqnrDb).toBeGreaterThan(10);
    expect(report.verified.sqnrDb).toBeLessThan(60); // lossless would mean that nothing was quantized
    expect(report.steps[0]?.changed.length).toBeGreaterThanOrEqual(2);
    expect(readdirSync(folder).filter((name) => name.startsWith("."))).toEqual([]);
  });

  it("gives the same bytes for the same seed, and others for another", () => {
    const write = (name: string, seed: string) => {
      expect(
        pare("prune-weights", model, "-o", name, "--score", "random", "--ratio", "0.5", "--seed", seed).status,
      ).toBe(0);
      return readFileSync(at(name));
    };
    expect(write("r1.onnx", "1").equals(write("r2.onnx", "1"))).toBe(true);
    expect(write("r3.onnx", "2").equals(readFileSync(at("r1.onnx")))).toBe(false);
  });

  it("writes nothing on a dry run", () => {
    const { status, stdout } = pare("quantize-weights", model, "-o", "dry.onnx", "--dry-run");
    expect(status).toBe(0);
    expect(stdout).toMatch(/changed/);
    expect(existsSync(at("dry.onnx"))).toBe(false);
  });

  it("ends with 1 when a requirement is not met", () => {
    expect(pare("simplify", model, "-o", "req.onnx", "--require", "ratio>=100").status).toBe(1);
    expect(pare("simplify", model, "-o", "req.onnx", "--force", "--require", "ratio>0.5").status).toBe(0);
    expectMistake(
      pare("simplify", model, "-o", "req.onnx", "--force", "--require", "ratioo>0.5"),
      /Did you mean 'ratio'/,
    );
  });
});

describe("several steps", () => {
  it("runs a recipe file", () => {
    writeFileSync(
      at("recipe.yaml"),
      "steps:\n  - simplify\n  - prune-weights: { ratio: 0.8 }\n  - quantize-weights: { bits: 8 }\n",
    );
    const { status, stdout } = pare("compress", model, "--recipe", "recipe.yaml", "-o", "recipe.onnx", "--json");
    expect(status).toBe(0);
    const report = JSON.parse(stdout) as {
      result: { nonzero: number; parameters: number };
      steps: { technique: string }[];
    };
    expect(report.steps.map(({ technique }) => technique)).toEqual([
      "simplify",
      "prune-weights",
      "quantize-weights",
      "store-sparse",
    ]);
    expect(report.result.nonzero / report.result.parameters).toBeLessThan(0.25);
  });

  it("says where a recipe is wrong", () => {
    writeFileSync(at("bad.yaml"), "steps:\n  - quantize-weights: { bits: four }\n");
    expectMistake(pare("compress", model, "--recipe", "bad.yaml", "-o", "bad.onnx"), /bits/);
    writeFileSync(at("broken.yaml"), "steps: [\n");
    expectMistake(pare("compress", model, "--recipe", "broken.yaml", "-o", "bad.onnx"), /broken\.yaml/);
  });
});

describe("instruments", () => {
  it("inspects as promised", () => {
    const found = JSON.parse(pare("inspect", model, "--json").stdout) as Record<string, unknown>;
    expect(found).toMatchObject({ bytes: statSync(model).size, parameters: 266_610, macs: 266_200 });
    expect(Object.keys(found)).toEqual(
      expect.arrayContaining(["opset", "irVersion", "inputs", "outputs", "nodes", "operators", "layers"]),
    );
  });

  it("tells a model from its quantized copy, and from itself", () => {
    pare("quantize-weights", model, "-o", "diff.onnx");
    expect(pare("diff", model, model).status).toBe(0);
    const { status, stdout } = pare("diff", model, "diff.onnx");
    expect(status).toBe(1);
    expect(stdout).toContain("MatMulNBits");
  });

  it("converts to text and back to the same bytes", () => {
    expect(pare("convert", model, "-o", "model.onnxtxt").status).toBe(0);
    expect(pare("convert", "model.onnxtxt", "-o", "back.onnx").status).toBe(0);
    expect(pare("diff", model, "back.onnx").stdout).toContain("same");
  });

  it("fixes an input and its shape", () => {
    writeFileSync(
      at("branching.onnxtxt"),
      `<ir_version: 8, opset_import: ["": 16]>
g (float32[n] x, int64[] rate) => (float32[n] y) {
  two = Constant <value_int: int = 2> ()
  is_two = Equal (rate, two)
  y = If <
    then_branch: graph = first () => (float32[n] doubled) { doubled = Add (x, x) },
    else_branch: graph = second () => (float32[n] negated) { negated = Neg (x) }
  > (is_two)
}`,
    );
    const convert = (...args: string[]): SpawnSyncReturns<string> =>
      pare("convert", "branching.onnxtxt", "-o", "fixed.onnx", ...args);
    expect(convert("--fix-input", "rate=1", "--fix-shape", "x=4").stdout).toContain(
      "Fixed rate, x; 1 condition was decided by it",
    );
    const { inputs, operators } = JSON.parse(pare("inspect", "fixed.onnx", "--json").stdout);
    expect(inputs).toEqual([{ name: "x", dtype: "float32", shape: [4] }]);
    expect(operators).not.toHaveProperty("If");
    expectMistake(convert("--force", "--fix-input", "rat=1"), /no such input.*Did you mean 'rate'/);
    expectMistake(convert("--force", "--fix-input", "rate=one"), /rate=one/);
    expectMistake(convert("--force", "--fix-shape", "x=0"), /x=0/);
  });

  it("checks", () => {
    expect(pare("check", model, "--weights").stdout).toContain("no problem");
    writeFileSync(at("cut.onnx"), readFileSync(model).subarray(0, 5000));
    expect(pare("check", "cut.onnx").status).toBe(2);
  });
});

describe("Ctrl-C", () => {
  it("stops training at once and leaves nothing behind", async () => {
    const before = readdirSync(folder).sort();
    const child = spawn(
      process.execPath,
      [command, "train", "lenet-5", "--data", "glyphs:?count=20000&scale=255", "--epochs", "50", "-o", "trained.onnx"],
      { cwd: folder, stdio: ["ignore", "pipe", "pipe"] },
    );
    const exited = new Promise((resolve) => child.on("exit", resolve));
    let stderr = "";
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    await new Promise((resolve) => setTimeout(resolve, 4000));
    const sent = performance.now();
    child.kill("SIGINT");
    const code = await exited;
    expect(performance.now() - sent).toBeLessThan(5000);
    expect(code).toBe(2);
    expect(stderr).toMatch(/Stop/);
    expect(readdirSync(folder).sort()).toEqual(before);
  });
});
