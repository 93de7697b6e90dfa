/** Models that take and give 8-bit codes: the same numbers, with the conversions left to the caller. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { inspect } from "../../src/analyse/inspect.ts";
import { inspectText } from "../../src/analyse/inspect-text.ts";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import { evaluate } from "../../src/evaluate/evaluate.node.ts";
import { Builder } from "../../src/ir/builder.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { saveFile } from "../../src/ir/save.node.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { portGrids, toCodes } from "../../src/run/port-grids.ts";
import type { NdArray, SessionOptions } from "../../src/run/session.ts";
import { compress } from "../../src/techniques/pipeline.node.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { integerPorts } from "../../src/transform/integer-ports.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, unary } from "../support/small-models.ts";

/** Slices of the image (as a detector's first layer takes them) → convolution → classes, as probabilities if asked. */
function network(softmax = false): Model {
  return unary(
    "float32",
    ["n", 3, 8, 8],
    (b, x) => {
      const cut = (axis: number, from: number, to: number): typeof x => {
        const ints = (list: number[]): typeof x => b.constant("i", Tensor.int64(list));
        return b.op("Slice", [x, ints([from]), ints([to]), ints([axis])]);
      };
      const both = b.op("Concat", [cut(2, 0, 4), cut(2, 4, 8)], { attributes: { axis: 1 } });
      const conv = b.op("Conv", [both, b.constant("w", randomTensor([4, 6, 3, 3], 3, 0.3))], { name: "conv" });
      const flat = b.op("Flatten", [b.op("GlobalAveragePool", [b.op("Relu", [conv])])]);
      const scores = b.op("Gemm", [flat, b.constant("fc", randomTensor([4, 3], 5, 3))], { name: "fc" });
      return softmax ? b.op("Softmax", [scores], { attributes: { axis: 1 } }) : scores;
    },
    { shape: ["n", 3] },
    17,
  );
}

const rng = new Rng(3);
const x: NdArray = {
  dtype: "float32",
  shape: [32, 3, 8, 8],
  data: Float32Array.from({ length: 32 * 192 }, () => rng.normal()),
};
const labels: NdArray = {
  dtype: "int64",
  shape: [32],
  data: BigInt64Array.from({ length: 32 }, (_, i) => BigInt(i % 3)),
};
const data = datasetOf({ fields: { x }, labels });
const PLAIN = { calibration: "min-max", equalize: "never" };
const BOTH = { ...PLAIN, inputs: "integer", outputs: "integer" };

async function outputs(model: Model, options: SessionOptions = {}): Promise<NdArray> {
  const session = await openSession(model, { ...options, inProcess: true, threads: 1 });
  try {
    const grid = options.ports === "stored" ? portGrids(model).get("x") : undefined;
    const { y } = await session.run({ x: grid ? toCodes(x, grid) : x });
    return y as NdArray;
  } finally {
    await session.close();
  }
}

describe("integer inputs and outputs", () => {
  it.each(["qdq", "qoperator"])("stand for the numbers that the model with float ports gives: %s", async (form) => {
    const { model } = await runTechnique(quantize, network(), { ...BOTH, form }, data);
    expect(model.graph.inputs[0]?.dtype).toBe("uint8");
    expect(model.graph.outputs[0]).toMatchObject({ name: "y", dtype: "uint8" });
    if (form === "qoperator")
      for (const { opType } of model.graph.nodes) expect(opType).not.toMatch(/^(De)?[Qq]uantizeLinear/);
    const inner = await runTechnique(quantize, network(), { ...PLAIN, inputs: "integer" }, data);
    const [real, floats] = [await outputs(model), await outputs(inner.model)];
    const grid = portGrids(model).get("y");
    // The outputs' own grid is all that integer outputs add.
    const rounded = toCodes(floats, grid as NonNullable<typeof grid>);
    expect(await outputs(model, { ports: "stored" })).toMatchObject({ dtype: "uint8", data: rounded.data });
    expect(real.dtype).toBe("float32");
    const { scale = 0, zeroPoint = 0 } = grid ?? {};
    expect(real.data).toEqual(Float32Array.from(rounded.data as Uint8Array, (code) => (code - zeroPoint) * scale));
  });

  it("are judged, compared and timed like any other model", async () => {
    const { model, report } = await compress(network(), [quantize(BOTH)], { data, threads: 1 });
    expect(report.verified.sqnrDb).toBeGreaterThan(25);
    const folder = await mkdtemp(join(tmpdir(), "pare-ports-"));
    try {
      const path = join(folder, "m.onnx");
      await saveFile(model, path);
      const accuracy = async (subject: Model | string): Promise<number | undefined> =>
        (await evaluate(subject, data, { inProcess: true, threads: 1 })).metrics["accuracy"]?.value;
      expect(await accuracy(path)).toBe(await accuracy(model));
      expect(await accuracy(model)).toBeCloseTo((await accuracy(network())) ?? 0, 1);
      const loaded = await loadFile(path);
      const { inputs, outputs: given } = await inspect(loaded);
      expect(inputs[0]).toMatchObject({ name: "x", dtype: "uint8", ...gridNumbers(loaded, "x") });
      expect(given[0]).toMatchObject({ name: "y", dtype: "uint8", ...gridNumbers(loaded, "y") });
      expect(inspectText(await inspect(loaded))).toMatch(/x: uint8 .*standing for \(code − \d+\) × 0\.\d+/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("are wrong when numbers are fed as codes: the conversion does something", async () => {
    const { model } = await runTechnique(quantize, network(), BOTH, data);
    const right = await evaluate(model, data, { inProcess: true, threads: 1 });
    model.metadata.set("pare.quantized.x", JSON.stringify({ dtype: "uint8", scale: 1, zeroPoint: 0 }));
    const wrong = await evaluate(model, data, { inProcess: true, threads: 1 });
    expect(wrong.metrics["loss"]?.value).not.toBeCloseTo(right.metrics["loss"]?.value ?? 0, 2);
  });

  it("can stand behind what computes in floating point, and before it", async () => {
    const { model, journal } = await runTechnique(quantize, network(true), { ...BOTH, keep: ["conv"] }, data);
    expect(journal.notes.join("\n")).toMatch(/'y' is uint8 now/);
    const probabilities = (await outputs(model)).data as Float32Array;
    const wanted = (await outputs(network(true))).data as Float32Array;
    for (const [i, p] of wanted.entries()) expect(Math.abs(p - (probabilities[i] ?? 0))).toBeLessThan(0.05);
  });

  it("leave alone what is no float, and say so", () => {
    const model = new Model(undefined, 17);
    const b = new Builder(model.graph);
    const ids = b.input("ids", "int64", ["n"]);
    b.output(b.op("Neg", [ids], { name: "neg" }), "out");
    const { changed, left } = integerPorts(model, { inputs: true, outputs: true });
    expect(changed).toEqual([]);
    expect(left[0]).toEqual({ what: "ids", why: "it is int64" });
    expect(left).toHaveLength(2);
  });

  it("are not believed of a file whose metadata does not fit its ports", () => {
    const model = network();
    for (const text of ["{", "null", '{"dtype":"uint8","scale":0.1,"zeroPoint":3}', '{"dtype":"int9"}']) {
      model.metadata.set("pare.quantized.x", text);
      expect(portGrids(model).size).toBe(0); // x is float32
    }
    for (const input of model.graph.inputs) input.dtype = "uint8";
    for (const text of [
      '{"dtype":"uint8","scale":0,"zeroPoint":3}',
      '{"dtype":"uint8","scale":1e999,"zeroPoint":0.5}',
    ]) {
      model.metadata.set("pare.quantized.x", text);
      expect(portGrids(model).size).toBe(0);
    }
    model.metadata.set("pare.quantized.x", '{"dtype":"uint8","scale":0.1,"zeroPoint":3}');
    expect(portGrids(model).size).toBe(1);
  });
});

function gridNumbers(model: Model, name: string): { scale?: number; zeroPoint?: number } {
  const { scale, zeroPoint } = portGrids(model).get(name) ?? {};
  return { ...(scale === undefined ? {} : { scale }), ...(zeroPoint === undefined ? {} : { zeroPoint }) };
}
