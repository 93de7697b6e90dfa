/** Sparse storage: every form gives back every bit, in pare and in the engine, over shapes, densities, patterns and types; and real files shrink. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type DType, dtypeBits, viewAs } from "../../src/base/dtype.ts";
import { Rng } from "../../src/base/rng.ts";
import { Builder } from "../../src/ir/builder.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { load } from "../../src/ir/load.ts";
import { Model } from "../../src/ir/model.ts";
import { isStoredSparse, sparseFormOf } from "../../src/ir/sparse/sparse-storage.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { compress, runSteps } from "../../src/techniques/pipeline.node.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { FORMS } from "../../src/techniques/prune/storage/sparse-choice.ts";
import { storeSparse } from "../../src/techniques/prune/storage/store-sparse.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { bits, runOnSynthetic } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { describeWithData } from "../support/shared-data.ts";

/** y = rows of w: every bit of a weight of any type, as the engine sees it. */
function rowsOf(tensor: Tensor, opset = 17): Model {
  const model = new Model(undefined, opset, 8);
  const b = new Builder(model.graph);
  const rows = b.input("rows", "int64", ["n"]);
  const y = b.op("Gather", [b.constant("w", tensor), rows], { name: "take" });
  y.dtype = tensor.dtype;
  y.shape = ["n", ...tensor.shape.slice(1)];
  b.output(y, "y");
  return model;
}

async function seen(model: Model | Uint8Array, rows: number): Promise<Uint8Array> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  try {
    const data = BigInt64Array.from({ length: rows }, (_, i) => BigInt(i));
    const { y } = await session.run({ rows: { dtype: "int64", shape: [rows], data } });
    const found = y?.data as Float32Array;
    return new Uint8Array(found.buffer, found.byteOffset, found.byteLength).slice();
  } finally {
    await session.close();
  }
}

type Structure = "free" | "2:4" | "1:8 columns" | "blocks";

/** Random bytes where the structure keeps an element, else zeros; with a NaN, an infinity and −0 among floats. */
function sparseTensor(
  dtype: DType,
  shape: readonly number[],
  density: number,
  structure: Structure,
  seed: number,
): Tensor {
  const rng = new Rng(seed);
  const elements = shape.reduce((product, size) => product * size, 1);
  const cols = elements / (shape[0] as number);
  const width = dtypeBits(dtype) / 8;
  const bytes = new Uint8Array(elements * width);
  const blocks = Array.from({ length: elements }, () => rng.uniform(0, 1) < density);
  for (let i = 0; i < elements; i++) {
    const [row, col, group] = [Math.floor(i / cols), i % cols, i >> 2];
    const kept =
      structure === "free"
        ? rng.uniform(0, 1) < density
        : structure === "2:4"
          ? i % 4 === group % 4 || i % 4 === (group + 1 + (row % 3)) % 4
          : structure === "1:8 columns"
            ? row % 8 === col % 8
            : blocks[Math.floor(row / 4) * Math.ceil(cols / 4) + Math.floor(col / 4)];
    if (kept) for (let b = 0; b < width; b++) bytes[i * width + b] = 1 + rng.below(100);
  }
  if (structure === "free" && dtype === "float32" && elements > 8) {
    const floats = viewAs("float32", bytes) as Float32Array;
    [floats[1], floats[4], floats[6]] = [Number.NaN, -0, Number.POSITIVE_INFINITY];
  }
  return Tensor.of(dtype, shape, viewAs(dtype, bytes));
}

/** Types whose elements are stored as they are. Half floats are compared by their bits. */
const TYPES: readonly DType[] = ["float32", "float16", "float64", "int8", "uint8"];

describe("store-sparse", () => {
  it.each(FORMS)("gives back every bit as %s", async (form) => {
    const structures: Structure[] =
      form === "blocks"
        ? ["blocks"]
        : form === "pattern"
          ? ["2:4", "1:8 columns"]
          : ["free", "2:4", "1:8 columns", "blocks"];
    let applied = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...TYPES),
        fc.constantFrom([64, 24], [40, 7], [96, 3, 3, 5], [512], [16, 64]),
        fc.constantFrom(...(form === "blocks" ? [0.1, 0.3] : [0, 0.001, 0.05, 0.3, 0.7])),
        fc.constantFrom<Structure>(...structures),
        fc.nat(1000),
        async (dtype, shape, density, structure, seed) => {
          const tensor = sparseTensor(dtype, shape, density, structure, seed);
          const before = rowsOf(tensor);
          // gain 0: also where nothing is won but by a hair
          const { model } = await runTechnique(storeSparse, before, { form, gain: 0 });
          const value = model.graph.initializers.get("w");
          if (!value || !isStoredSparse(value)) return;
          applied++;
          expect(await value.tensor?.bytes()).toEqual(await tensor.bytes());
          const file = await encodeModel(model);
          const again = await load(file);
          const read = again.graph.initializers.get("w");
          expect(read && isStoredSparse(read)).toBe(true);
          expect(await read?.tensor?.bytes()).toEqual(await tensor.bytes());
          expect(Buffer.compare(await encodeModel(again), file)).toBe(0);
          const original = await seen(before, shape[0] as number);
          expect(Buffer.compare(await seen(file, shape[0] as number), original)).toBe(0);
        },
      ),
      { numRuns: 14, seed: 7 },
    );
    expect(applied).toBeGreaterThan(1);
  });

  it("notices one wrong bit of the index, and refuses an index that leaves the tensor", async () => {
    const tensor = sparseTensor("float32", [64, 64], 0.1, "free", 3);
    for (const form of ["mask", "gaps", "nibbles"] as const) {
      const { model } = await runTechnique(storeSparse, rowsOf(tensor), { form });
      const value = model.graph.initializers.get("w");
      const stored = value && sparseFormOf(value);
      const codes = (await stored?.codes.bytes()) as Uint8Array;
      const file = await encodeModel(model);
      const at = Buffer.from(file).indexOf(codes);
      expect(at).toBeGreaterThan(0);
      const wrong = file.slice();
      wrong[at + 20] = (wrong[at + 20] as number) ^ 1;
      const read = (await load(wrong)).graph.initializers.get("w")?.tensor;
      const outcome = await read?.bytes().then(
        (bytes) => Buffer.compare(bytes, Buffer.from((tensor.peek() as Float32Array).buffer)),
        (error: { code: string }) => error.code,
      );
      expect(outcome).not.toBe(0);
      const far = file.slice();
      far.fill(255, at, at + codes.length);
      const beyond = (await load(far)).graph.initializers.get("w")?.tensor;
      await expect(beyond?.bytes()).rejects.toMatchObject({ code: "bad-model" });
    }
  });

  it("leaves operators alone that only look like an expansion", async () => {
    const { model } = await runTechnique(storeSparse, rowsOf(sparseTensor("float32", [64, 64], 0.1, "free", 3)), {
      form: "gaps",
    });
    const read = await load(await encodeModel(model));
    expect(read.graph.nodes.map(({ opType }) => opType)).toEqual(["Gather"]);
    const text = Buffer.from(await encodeModel(model)).toString("latin1");
    const other = Buffer.from(text.replaceAll("CumSum", "ReluRe"), "latin1");
    expect((await load(new Uint8Array(other))).graph.nodes.length).toBeGreaterThan(4);
  });

  it("picks patterns and blocks by themselves, and says when nothing is smaller", async () => {
    const pick = async (structure: Structure, shape: number[], density = 0.1): Promise<string> => {
      const tensor = sparseTensor("float32", shape, density, structure, 5);
      const { journal } = await runTechnique(storeSparse, rowsOf(tensor), {});
      return journal.changed[0]?.how ?? journal.skipped[0]?.why ?? "";
    };
    expect(await pick("2:4", [512, 512])).toMatch(/2:4 patterns/);
    expect(await pick("blocks", [256, 256], 0.2)).toMatch(/blocks of 4x4/);
    expect(await pick("free", [256, 256], 0.01)).toMatch(/distances of 8 bits/);
    expect(await pick("free", [256, 256], 0.1)).toMatch(/distances of 4 bits/);
    expect(await pick("free", [256, 256], 0.4)).toMatch(/bit mask/);
    expect(await pick("free", [256, 256], 0.97)).toMatch(/the smallest form .* is no gain/);
  });

  it.each([
    ["int8", 0.01],
    ["int4", 0.12],
  ] as const)("stores values as %s, and the engine computes the very same numbers", async (values, worst) => {
    for (const form of ["mask", "gaps", "nibbles", "pattern", "blocks"] as const) {
      const structure = form === "pattern" ? "2:4" : form === "blocks" ? "blocks" : "free";
      const rng = new Rng(4);
      const shaped = sparseTensor("int8", [64, 64], 0.2, structure, 9).peek() as Int8Array;
      const tensor = Tensor.float32(
        [64, 64],
        Float32Array.from(shaped, (x) => (x === 0 ? 0 : rng.normal())),
      );
      const { model, journal } = await runTechnique(storeSparse, rowsOf(tensor), { form, values });
      expect(journal.changed[0]?.error).toBeGreaterThan(0);
      expect(journal.changed[0]?.error).toBeLessThan(worst);
      const file = await encodeModel(model);
      const dense = (await model.graph.initializers.get("w")?.tensor?.bytes()) as Uint8Array;
      expect(Buffer.compare(await seen(file, 64), dense)).toBe(0);
      const again = await load(file);
      expect(Buffer.compare(await encodeModel(again), file)).toBe(0);
    }
  });

  it("raises an opset that lacks the operators", async () => {
    const tensor = sparseTensor("float32", [64, 64], 0.1, "free", 3);
    const { model, journal } = await runTechnique(storeSparse, rowsOf(tensor, 8), {});
    expect(model.opset).toBe(11);
    expect(journal.notes.join()).toMatch(/opset was raised from 8 to 11/);
    expect(Buffer.compare(await seen(model, 64), (await tensor.bytes()) as Uint8Array)).toBe(0);
  });
});

const REAL = ["lenet5-mnist", "resnet20-cifar10", "mobilenetv2-imagenet"];

for (const name of REAL)
  describeWithData(`pruned ${name}`, `models/${name}.onnx`, (path) => {
    it.each([
      [0.9, 4],
      [0.95, 7],
    ])("at %d zeros is %d times smaller and computes the same", async (ratio, times) => {
      const original = await loadFile(path);
      const dense = await runSteps(original, [pruneWeights({ ratio, store: "dense" })]);
      const sparse = await runSteps(original, [pruneWeights({ ratio })]);
      const [before, after] = [await encodeModel(dense.model), await encodeModel(sparse.model)];
      expect(before.length / after.length).toBeGreaterThan(times);
      expect(bits(await runOnSynthetic(after, { like: original }))).toEqual(
        bits(await runOnSynthetic(before, { like: original })),
      );
    });
  });

describeWithData("a recipe with pruning", "models/lenet5-mnist.onnx", (path) => {
  it("sees dense weights in all steps and files, and stores them sparsely at its end", async () => {
    const original = await loadFile(path);
    const { model, report } = await compress(original, [pruneWeights({ ratio: 0.9 })]);
    expect(report.steps.map(({ technique }) => technique)).toEqual(["prune-weights", "store-sparse"]);
    expect(report.result.nonzero).toBeLessThan(0.15 * report.result.parameters);
    const again = await load(await encodeModel(model));
    const quantized = await compress(again, [quantizeWeights({ bits: 8, symmetric: true, form: "folded" })]);
    expect(quantized.report.steps.map(({ technique }) => technique)).toEqual(["quantize-weights", "store-sparse"]);
    expect(quantized.report.result.bytes).toBeLessThan(0.5 * report.result.bytes);
    expect(quantized.report.verified.sqnrDb).toBeGreaterThan(30);
  });
});
