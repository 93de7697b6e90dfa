/** Simulated floats: weights and activations are exactly what the format holds, and the file says that it is a simulation. */
import { describe, expect, it } from "vitest";
import { decodeMinifloat, encodeMinifloat, largestFinite, type Minifloat } from "../../src/base/minifloat.ts";
import { SMALL_FLOATS } from "../../src/base/float8.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { SIMULATION_KEY, simulate } from "../../src/techniques/quantize/simulate.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { unary } from "../support/small-models.ts";
import { cnnModel } from "../support/models.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";

const FLOATS: Readonly<Record<string, { float: Minifloat; scaled: boolean }>> = {
  tf32: { float: { exponentBits: 8, mantissaBits: 10, bias: 127, special: "ieee" }, scaled: false },
  bf16: { float: { exponentBits: 8, mantissaBits: 7, bias: 127, special: "ieee" }, scaled: false },
  fp16: { float: { exponentBits: 5, mantissaBits: 10, bias: 15, special: "ieee" }, scaled: false },
  "fp8-e4m3": { float: SMALL_FLOATS.float8e4m3fn, scaled: true },
  "fp8-e5m2": { float: SMALL_FLOATS.float8e5m2, scaled: true },
  "fp6-e3m2": { float: { exponentBits: 3, mantissaBits: 2, bias: 3, special: "finite" }, scaled: true },
  "fp6-e2m3": { float: { exponentBits: 2, mantissaBits: 3, bias: 1, special: "finite" }, scaled: true },
  "fp4-e2m1": { float: SMALL_FLOATS.float4e2m1, scaled: true },
};

/** x of any size times the identity: what the product reads comes out. */
function identity(size: number): ReturnType<typeof unary> {
  const eye = Float32Array.from({ length: size * size }, (_, i) => (i % (size + 1) === 0 ? 1 : 0));
  return unary("float32", ["n", size], (b, x) =>
    b.op("MatMul", [x, b.constant("w", Tensor.float32([size, size], eye))], { name: "product" }),
  );
}

/** Magnitudes of every size within the format, and halfway points between its numbers. */
function samples(float: Minifloat, scaled: boolean): Float32Array {
  const largest = largestFinite(float);
  const low = scaled ? largest * 2 ** -10 : 1e-3;
  const high = scaled ? largest : 1e3;
  const spread = Array.from({ length: 400 }, (_, i) => low * (high / low) ** (i / 400) * (i % 2 ? 1 : -1));
  // The peak makes the scale 1
  return Float32Array.from([...spread, 0, scaled ? largest : 1]);
}

describe.each(Object.entries(FLOATS))("%s", (name, { float, scaled }) => {
  it("rounds activations as the format's numbers lie", async () => {
    const x = samples(float, scaled);
    const { model } = await runTechnique(simulate, identity(x.length), { as: name, weights: false });
    const session = await openSession(model, { inProcess: true, threads: 1 });
    const { y } = await session.run({ x: { dtype: "float32", shape: [1, x.length], data: x } });
    await session.close();
    const expected = x.map((v) => decodeMinifloat(float, encodeMinifloat(float, v, true)));
    expect(Array.from(y?.data as Float32Array, (v) => v + 0)).toEqual(Array.from(expected, (v) => v + 0));
    expect(expected).not.toEqual(x);
  });

  it("rounds a network's weights, leaves its size alone and says so", async () => {
    const before = cnnModel();
    const { model, journal } = await runTechnique(simulate, before, { as: name });
    expect(model.metadata.get(SIMULATION_KEY)).toBe(`${name} of weights and activations`);
    expect(journal.notes.join()).toContain("neither smaller nor faster");
    expect((await encodeModel(model)).length).toBeGreaterThanOrEqual((await encodeModel(before)).length);
    const error = worstError(await runOnSynthetic(before), await runOnSynthetic(model));
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(2 ** (2 - float.mantissaBits));
  });
});

it("says which opset a rounding at run time needs", async () => {
  const old = unary("float32", ["n", 4], (b, x) => b.op("MatMul", [x, x]), {}, 13);
  await expect(runTechnique(simulate, old, { as: "fp8-e4m3" })).rejects.toMatchObject({ code: "unsupported" });
});
