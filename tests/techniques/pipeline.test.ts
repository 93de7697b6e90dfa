import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { openDataset } from "../../src/data/open.node.ts";
import { Builder } from "../../src/ir/builder.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { saveFile } from "../../src/ir/save.node.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { compressFile } from "../../src/techniques/compress-file.node.ts";
import { compress, runSteps } from "../../src/techniques/pipeline.node.ts";
import { proveLayers } from "../../src/techniques/prove-layers.node.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { type Step, defineTechnique } from "../../src/techniques/technique.ts";
import { finetune } from "../../src/techniques/tune/finetune.ts";

const lenet = (): Model => buildArchitecture("lenet-300-100", { seed: 1 });

/** A technique that does `harm` to a model. */
function harmful(harm: (model: Model) => void): Step {
  return defineTechnique({
    name: "harm",
    family: "prune",
    summary: "Breaks a model.",
    needs: [],
    options: z.object({}),
    run: (model) => {
      harm(model);
      return Promise.resolve(model);
    },
  })();
}

/** Replaces the first matrix by one full of `value`. */
function fillFirstWeight(model: Model, fill: number): void {
  const weight = [...model.graph.initializers.values()].find((value) => value.tensor?.shape.length === 2);
  if (weight?.tensor)
    weight.tensor = Tensor.float32(weight.tensor.shape, new Float32Array(weight.tensor.elements).fill(fill));
}

describe("a file in, a proven file out", () => {
  let folder = "";
  let input = "";
  const at = (name: string): string => join(folder, name);
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "pare-pipeline-"));
    input = at("lenet.onnx");
    await saveFile(lenet(), input);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("writes what it proved, and says how it was made", async () => {
    const report = await compressFile(input, at("small.onnx"), [
      pruneWeights({ ratio: 0.5 }),
      quantizeWeights({ bits: 8 }),
    ]);
    const small = await loadFile(at("small.onnx"));
    expect(small.metadata.get("pare.recipe")).toBe("prune-weights quantize-weights:bits=8");
    expect(small.metadata.get("pare.input")).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(report.ratio).toBeGreaterThan(3);
    expect(report.verified.samples).toBeGreaterThan(0);
    expect(report.steps.map((step) => step.changed.length)).toEqual([3, 3, 2]);
  });

  it("keeps the recipe of a model that was compressed before", async () => {
    await compressFile(at("small.onnx"), at("smaller.onnx"), [pruneWeights({ ratio: 0.5 })]);
    expect((await loadFile(at("smaller.onnx"))).metadata.get("pare.recipe")).toBe(
      "prune-weights quantize-weights:bits=8 prune-weights",
    );
  });

  it("puts large weights beside the model when asked, and moves both files into place", async () => {
    await compressFile(input, at("split.onnx"), [pruneWeights({ ratio: 0.5 })], { externalDataThreshold: 1000 });
    expect(existsSync(at("split.onnx.data"))).toBe(true);
    expect((await loadFile(at("split.onnx"))).graph.nodes.length).toBeGreaterThan(3);
  });

  it("can replace its own input", async () => {
    await saveFile(lenet(), at("own.onnx"));
    const before = readFileSync(at("own.onnx")).byteLength;
    await compressFile(at("own.onnx"), at("own.onnx"), [quantizeWeights({ bits: 4 })], { force: true });
    expect(readFileSync(at("own.onnx")).byteLength).toBeLessThan(before / 4);
  });

  it.each([
    ["answers NaN", (model: Model) => fillFirstWeight(model, Number.NaN), /NaN/],
    [
      "has another output",
      (model: Model) => void ((model.graph.outputs[0] as { name: string }).name = "other"),
      /outputs/,
    ],
    ["has a cycle", (model: Model) => model.graph.nodes[0]?.setInput(0, model.graph.outputs[0]), /invalid model/],
    [
      "does not open",
      (model: Model) => void ((model.graph.nodes[0] as { opType: string }).opType = "NoSuchOperator"),
      /./,
    ],
  ])("writes nothing when the result %s", async (_, harm, message) => {
    const before = readdirSync(folder).sort();
    const result = compressFile(input, at("broken.onnx"), [harmful(harm)]);
    await expect(result).rejects.toMatchObject({
      code: "verification",
      message: expect.stringMatching(message) as string,
    });
    expect(readdirSync(folder).sort()).toEqual(before);
  });

  it.runIf(existsSync("/proc/self"))("says at once where no file can be made", async () => {
    const result = compressFile(input, "/proc/self/small.onnx", [pruneWeights({ ratio: 0.5 })]);
    await expect(result).rejects.toMatchObject({ code: "output", where: "/proc/self/small.onnx" });
  });

  it("replaces what a killed process with the same number left behind", async () => {
    const left = at(`.again.onnx.${process.pid}.tmp`);
    mkdirSync(left);
    writeFileSync(join(left, "again.onnx.data"), "half a file");
    await compressFile(input, at("again.onnx"), [pruneWeights({ ratio: 0.5 })]);
    expect(readdirSync(folder).filter((name) => name.includes("again"))).toEqual(["again.onnx"]);
  });

  it("blames the original when it does not run on the inputs of the proof", async () => {
    const model = new Model();
    const b = new Builder(model.graph);
    const rows = b.op("Reshape", [b.input("x", "float32", ["n", 4]), b.constant("two", Tensor.int64([2, 4]))]);
    b.output(b.op("MatMul", [rows, b.constant("w", Tensor.float32([4, 64], new Float32Array(256).fill(0.5)))]));
    await expect(compress(model, [pruneWeights({ ratio: 0.5 })])).rejects.toThrow(
      /The original does not run.*--evaluate/,
    );
  });

  it("does not prove anything against an original that answers NaN", async () => {
    const model = lenet();
    fillFirstWeight(model, Number.NaN);
    await expect(compress(model, [pruneWeights({ ratio: 0.5 })])).rejects.toThrow(/The original answers NaN.*check/);
  });

  it("blames the original when it was invalid before", async () => {
    const model = lenet();
    for (const node of model.graph.nodes) if (node.opType === "Relu") node.domain = "not.imported";
    const result = compress(model, [pruneWeights({ ratio: 0.5 })]);
    await expect(result).rejects.toMatchObject({
      code: "bad-model",
      message: expect.stringMatching(/^(?!.*made)/) as string,
    });
  });

  it("leaves nothing behind when it is stopped", async () => {
    const controller = new AbortController();
    const before = readdirSync(folder).sort();
    const stop = harmful(() => controller.abort());
    const result = compressFile(input, at("stopped.onnx"), [stop, quantizeWeights()], { signal: controller.signal });
    await expect(result).rejects.toMatchObject({ code: "aborted" });
    expect(readdirSync(folder).sort()).toEqual(before);
  });
});

describe("steps", () => {
  it("do not touch the model they are given", async () => {
    const model = lenet();
    const before = await model.graph.initializers.values().next().value?.tensor?.bytes();
    await compress(model, [quantizeWeights({ bits: 4 })]);
    expect(model.graph.nodes.some((node) => node.opType === "MatMulNBits")).toBe(false);
    expect(await model.graph.initializers.values().next().value?.tensor?.bytes()).toEqual(before);
  });

  it("are refused before anything runs when their needs are not met", async () => {
    let ran = false;
    const first = harmful(() => (ran = true));
    await expect(runSteps(lenet(), [first, quantize()])).rejects.toMatchObject({ code: "bad-option" });
    const unlabelled = await openDataset("glyphs:?count=10");
    const data = { ...unlabelled, labels: undefined, name: unlabelled.name } as never;
    await expect(runSteps(lenet(), [first, finetune()], { data })).rejects.toMatchObject({ code: "bad-data" });
    expect(ran).toBe(false);
  });

  it("say when nothing changed and when the result grew", async () => {
    const grow = harmful((model) => {
      model.graph.addInitializer("ballast", Tensor.float32([1000], new Float32Array(1000)));
    });
    const { report } = await compress(lenet(), [grow]);
    expect(report.notes.join(" ")).toMatch(/larger than the input.*harm changed nothing/);
  });
});

describe("the proof layer by layer", () => {
  const typed = (model: Model): Model => {
    const copy = cloneModel(model);
    inferShapes(copy);
    return copy;
  };

  it("finds a quantized model near and a broken one far", async () => {
    const model = lenet();
    const { model: small } = await compress(model, [quantizeWeights({ bits: 8 })]);
    const near = await proveLayers(typed(model), typed(small), { seed: 1 });
    expect(near?.layers.length).toBeGreaterThanOrEqual(3);
    expect(near?.sqnrDb).toBeGreaterThan(30);
    const broken = cloneModel(model);
    fillFirstWeight(broken, 0);
    expect((await proveLayers(typed(model), typed(broken), { seed: 1 }))?.sqnrDb).toBeLessThan(10);
  });
});
