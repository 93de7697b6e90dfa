/** Matrix products in integers: exactly σx σy clip(round(X/σx)) clip(round(Y/σy)), run by stock ONNX Runtime. */
import { describe, expect, it } from "vitest";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { quantizeDynamic } from "../../src/techniques/quantize/quantize-dynamic.ts";
import { classifier, randomTensor } from "../support/small-models.ts";
import { mlpModel } from "../support/models.ts";
import { runTechnique } from "../support/run-technique.ts";

const EXACT = { activations: "int8", perChannel: false, minElements: 1 };

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Codes clip(round(x/σ)) and σ = max|x|/127, in single precision. */
function codesOf(x: Float32Array): { codes: number[]; scale: number } {
  const scale = Math.fround(x.reduce((most, v) => Math.max(most, Math.abs(v)), 0) / 127);
  return {
    scale,
    codes: Array.from(x, (v) => Math.max(-128, Math.min(127, roundHalfEven(Math.fround(v / scale))))),
  };
}

async function run(x: Float32Array, options = {}): Promise<Float32Array> {
  const { model } = await runTechnique(quantizeDynamic, classifier(64, 40), { ...EXACT, ...options });
  const session = await openSession(model, { inProcess: true, threads: 1 });
  const { y } = await session.run({ x: { dtype: "float32", shape: [3, 64], data: x } });
  await session.close();
  return y?.data as Float32Array;
}

async function expected(x: Float32Array): Promise<Float64Array> {
  const w = (await randomTensor([64, 40], 1).data()) as Float32Array;
  const [a, b] = [codesOf(x), codesOf(w)];
  const y = new Float64Array(3 * 40);
  for (let i = 0; i < 3; i++)
    for (let j = 0; j < 40; j++)
      for (let k = 0; k < 64; k++)
        y[i * 40 + j] =
          (y[i * 40 + j] as number) +
          a.scale * b.scale * (a.codes[i * 64 + k] as number) * (b.codes[k * 40 + j] as number);
  return y;
}

describe("integer matrix products", () => {
  const x = (randomTensor([3, 64], 5).peek() as Float32Array).slice();

  it("equal the formula", async () => {
    const [actual, wanted] = [await run(x), await expected(x)];
    // Sums are integers; only the last multiplications round
    for (const [i, y] of wanted.entries())
      expect(Math.abs((actual[i] as number) - y)).toBeLessThan(1e-6 * (1 + Math.abs(y)));
    const others = await run(x, { activations: "uint8" });
    expect(others.some((y, i) => Math.abs(y - (wanted[i] as number)) > 1e-3)).toBe(true);
  });

  it("give zeros for zeros", async () => {
    expect(await run(new Float32Array(192))).toEqual(new Float32Array(120));
  });

  it("happen in key layers only when these are named", async () => {
    const { model, journal } = await runTechnique(quantizeDynamic, mlpModel(), { only: ["fc2"], minElements: 1 });
    expect(journal.changed.map(({ what }) => what)).toEqual(["fc2.weight"]);
    expect(journal.skipped).toContainEqual({ what: "fc1.weight", why: "none of the key layers" });
    expect(model.graph.nodes.filter(({ opType }) => opType === "MatMulInteger").length).toBe(1);
  });

  it("need opset 10 where activations are signed", async () => {
    const old = classifier(64, 40);
    old.opsets.set("", 9);
    await expect(runTechnique(quantizeDynamic, old, EXACT)).rejects.toMatchObject({ code: "unsupported" });
  });

  it("read the weight of the model once", async () => {
    const { model } = await runTechnique(quantizeDynamic, classifier(64, 40), EXACT);
    expect(model.graph.initializers.get("w.int8")?.tensor).toBeInstanceOf(Tensor);
    expect(model.graph.initializers.has("w")).toBe(false);
  });
});
