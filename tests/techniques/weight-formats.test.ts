/** Every number format on every operator with weights: bytes in proportion to bits, and outputs equal to the float model with the weights that are stored. */
import * as web from "onnxruntime-web";
import { describe, expect, it } from "vitest";
import { encodeModel } from "../../src/ir/encode.ts";
import type { Model } from "../../src/ir/model.ts";
import { WEIGHT_FORMATS, type WeightFormat, formatNamed } from "../../src/techniques/quantize/weights/formats.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { type Outputs, runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { WEIGHT_CASES, storedWeight, weightModel, weightsOfCase, withWeights } from "../support/weight-models.ts";

type Stored = Exclude<WeightFormat, "float">;
const FORMATS = WEIGHT_FORMATS.filter((name): name is Stored => name !== "float");
const OPERATORS = Object.keys(WEIGHT_CASES);

/** Sums of products in another order: some units in the last place of float32. */
const TOLERANCE = 1e-5;

interface Quantized {
  readonly before: Model;
  readonly model: Model;
  /** The model as it was, with the weights that are stored. */
  readonly plain: Model;
  /** Bytes of each weight. */
  readonly bytes: ReadonlyMap<string, number>;
}

async function quantized(names: readonly string[], to: Stored, opset: number, options = {}): Promise<Quantized> {
  const before = weightModel(names, opset);
  const { model, journal } = await runTechnique(quantizeWeights, before, {
    to,
    compute: "fp32",
    minElements: 1,
    method: "rtn",
    ...options,
  });
  expect(journal.skipped).toEqual([]);
  const weights: Record<string, Float32Array> = {};
  for (const [name, shape] of names.flatMap(weightsOfCase)) weights[name] = await storedWeight(model, name, to, shape);
  const bytes = new Map(journal.changed.map(({ what, bytesAfter = 0 }) => [what, bytesAfter]));
  return { before, model, plain: await withWeights(before, weights), bytes };
}

/** The worst distance of each operator's output. */
function errorsOf(before: Outputs, after: Outputs): Record<string, number> {
  return Object.fromEntries(
    OPERATORS.map((name) => [name, worstError({ y: before[name] as never }, { y: after[name] as never })]),
  );
}

async function runInWasm(model: Model): Promise<Outputs> {
  web.env.wasm.numThreads = 1;
  const session = await web.InferenceSession.create(await encodeModel(model), { executionProviders: ["wasm"] });
  const feeds = model.graph.inputs.map(({ name, shape }) => {
    const sizes = (shape ?? []) as readonly number[];
    const data = Float32Array.from({ length: sizes.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i));
    return [name, new web.Tensor("float32", data, sizes)] as const;
  });
  const results = await session.run(Object.fromEntries(feeds));
  const outputs = Object.entries(results).map(
    ([name, { dims, data }]) =>
      [name, { dtype: "float32", shape: [...dims], data: Float32Array.from(data as Float32Array) }] as const,
  );
  await session.release();
  return Object.fromEntries(outputs);
}

/** Codes, at most 5 bytes of scale and zero point for the shortest group of each operator, a codebook. */
function mostBytes(name: string, elements: number, to: Stored): number {
  const format = formatNamed(to);
  const group = name === "depthwise Conv" ? 9 : 16;
  const scales = format.kind === "half" || format.kind === "codebook" ? 0 : (5 * elements) / group;
  return (elements * format.bits) / 8 + 1 + scales + (format.kind === "codebook" ? 4 * format.entries : 0);
}

/** From opset 25 on there are packed elements of 2 bits; nothing else differs from 21. */
const CASES = [
  [13, FORMATS],
  [21, FORMATS],
  [25, FORMATS.filter((name) => formatNamed(name).bits === 2)],
] as const;

describe.each(CASES)("opset %i", (opset, formats) => {
  it.each(formats)("%s", async (to) => {
    const { before, model, plain, bytes } = await quantized(OPERATORS, to, opset);
    const { bits } = formatNamed(to);
    for (const operator of OPERATORS)
      for (const [name, shape] of weightsOfCase(operator)) {
        const elements = shape.reduce((a, b) => a * b, 1);
        expect(bytes.get(name)).toBeGreaterThanOrEqual((elements * bits) / 8);
        expect(bytes.get(name)).toBeLessThanOrEqual(mostBytes(operator, elements, to));
      }
    const outputs = await runOnSynthetic(model);
    for (const [name, error] of Object.entries(errorsOf(await runOnSynthetic(plain), outputs)))
      expect(error, name).toBeLessThan(TOLERANCE);
    // The weights did change: the check above can fail
    if (opset === 21 && bits < 8)
      for (const [name, error] of Object.entries(errorsOf(await runOnSynthetic(before), outputs)))
        expect(error, name).toBeGreaterThan(100 * TOLERANCE);
  });
});

describe("onnxruntime-web, WebAssembly", () => {
  it.each(FORMATS)("%s", async (to) => {
    const { model, plain } = await quantized(OPERATORS, to, 21);
    for (const [name, error] of Object.entries(errorsOf(await runInWasm(plain), await runInWasm(model))))
      expect(error, name).toBeLessThan(TOLERANCE);
  });
});

describe("packed kernels that round activations to 8 bits", () => {
  it.each(["int8", "int4", "int2"] as const)("%s, in Node and in WebAssembly", async (to) => {
    const names = ["MatMul", "Gemm", "Gather"];
    for (const symmetric of [true, false]) {
      const { model, plain } = await quantized(names, to, 21, { compute: "int8", symmetric });
      const packed = model.graph.nodes.map(({ opType }) => opType);
      expect(packed.filter((op) => op === "MatMulNBits").length).toBe(2);
      expect(packed).toContain("GatherBlockQuantized");
      for (const run of [runOnSynthetic, runInWasm]) {
        const [actual, expected] = [await run(model), await run(plain)];
        // Activations up to 3 in steps of 1/127 of a block's peak, 64 products with weights of 0.2: deviation 0.01, outliers of five
        for (const name of names)
          expect(worstError({ y: expected[name] as never }, { y: actual[name] as never }), name).toBeLessThan(0.05);
      }
    }
  });
});

describe("scales", () => {
  it.each(["int4", "int6", "ternary", "binary", "nf4", "apot5", "fp8-e4m3", "codebook16"] as const)(
    "%s: per tensor, channel and block, more of them never losing more",
    async (to) => {
      const errors: number[] = [];
      for (const block of ["tensor", "channel", 32]) {
        const { before, model, plain } = await quantized(["MatMul"], to, 21, { block, form: "folded", method: "mse" });
        expect(worstError(await runOnSynthetic(plain), await runOnSynthetic(model))).toBeLessThan(TOLERANCE);
        const [w, stored] = [before, plain].map((one) => one.graph.find("MatMul w0")?.tensor);
        const [a, b] = [(await w?.data()) as Float32Array, (await stored?.data()) as Float32Array];
        errors.push(a.reduce((sum, x, i) => sum + (x - (b[i] as number)) ** 2, 0));
      }
      // Scales are searched, not solved: a tenth of slack
      expect(errors[1]).toBeLessThan(1.1 * (errors[0] as number));
      expect(errors[2]).toBeLessThan(1.1 * (errors[1] as number));
    },
  );
});

describe("options", () => {
  it("refuse a format and a number of bits together", async () => {
    const run = runTechnique(quantizeWeights, weightModel(["MatMul"], 21), { to: "nf4", bits: 8 });
    await expect(run).rejects.toMatchObject({ code: "bad-option", found: "to=nf4, bits=8" });
  });

  it("say what a model's opset lacks", async () => {
    const { journal } = await runTechnique(quantizeWeights, weightModel(["MatMul"], 12), { to: "bf16" });
    expect(journal.skipped[0]?.why).toBe("bf16 needs opset 13, the model has 12");
  });
});
