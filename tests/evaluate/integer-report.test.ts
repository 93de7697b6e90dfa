/** What the engine made of a quantized model, and what makes one slow. */
import { describe, expect, it } from "vitest";
import { kernelsOf } from "../../src/analyse/engine-kernels.ts";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { extraTimes, integerLines, integerReport, summaryOf } from "../../src/evaluate/integer-report.node.ts";
import type { Model } from "../../src/ir/model.ts";
import { optimizedGraph } from "../../src/run/optimized-graph.node.ts";
import { syntheticFeeds } from "../../src/run/synthetic.ts";
import { inputPorts } from "../../src/run/feed-stream.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { compress } from "../../src/techniques/pipeline.node.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, unary } from "../support/small-models.ts";

/** Two convolutions with `between` behind the first, and a matrix product. */
function network(between: string): Model {
  return unary(
    "float32",
    ["n", 4, 8, 8],
    (b, x) => {
      const conv = (name: string, from: typeof x): typeof x =>
        b.op("Conv", [from, b.constant(`${name}.w`, randomTensor([4, 4, 3, 3], name.length, 0.3))], {
          name,
          attributes: { pads: [1, 1, 1, 1] },
        });
      const second = b.op("Relu", [conv("second", b.op(between, [conv("one", x)], { name: "between" }))], {
        name: "r",
      });
      const flat = b.op("Flatten", [b.op("GlobalAveragePool", [second], { name: "pool" })], { name: "flat" });
      return b.op("Gemm", [flat, b.constant("fc", randomTensor([4, 3], 5))], { name: "head" });
    },
    { shape: ["n", 3] },
    17,
  );
}

function samples(): Dataset {
  const rng = new Rng(2);
  const data = Float32Array.from({ length: 16 * 4 * 64 }, () => rng.normal());
  return datasetOf({ fields: { x: { dtype: "float32", shape: [16, 4, 8, 8], data } } });
}

const PLAIN = { calibration: "min-max", equalize: "never" };
const OPTIONS = { threads: 1, inProcess: true };

async function quantized(model: Model, options: object = {}): Promise<Model> {
  return (await runTechnique(quantize, model, { ...PLAIN, ...options }, samples())).model;
}

describe("what the engine runs on integers", () => {
  it("is everything between the input and the last product", async () => {
    const [before, after] = [network("Relu"), await quantized(network("Relu"))];
    const feeds = syntheticFeeds(inputPorts(before), { batch: 2 });
    const report = await integerReport(before, after, feeds, OPTIONS);
    expect(report).toMatchObject({ float: [], macShare: 1, conversions: 1, time: { batch: 2 } });
    expect(report?.integer).toBeGreaterThanOrEqual(4);
  });

  it("leaves out what has no integer kernel, and says so", async () => {
    const model = await quantized(network("Tanh"));
    const kernels = kernelsOf(model, (await optimizedGraph(model, OPTIONS)).model);
    const { float, conversions } = summaryOf(kernels, new Map());
    expect(float).toEqual([{ name: "between", op: "Tanh", why: "the engine has no integer kernel for it here" }]);
    expect(conversions).toBe(3); // of the input, before the Tanh and behind it
  });

  it("leaves out a layer with weights in floating point, and says so", async () => {
    const model = await quantized(network("Relu"), { keep: ["second"] });
    const kernels = kernelsOf(model, (await optimizedGraph(model, OPTIONS)).model);
    const { float, macShare } = summaryOf(
      kernels,
      new Map([
        ["one", 30],
        ["second", 10],
      ]),
    );
    expect(float).toContainEqual({ name: "second", op: "Conv", why: "its constant operand is in floating point" });
    expect(macShare).toBe(0.75);
  });

  it("is nothing where weights alone are packed", async () => {
    const { model } = await runTechnique(quantizeWeights, network("Relu"), { bits: 8, minElements: 1 });
    const feeds = syntheticFeeds(inputPorts(model), { batch: 1 });
    expect(await integerReport(network("Relu"), model, feeds, OPTIONS)).toBeUndefined();
  });

  it("is part of the report of a compression", async () => {
    const { report } = await compress(network("Tanh"), [quantize(PLAIN)], { data: samples(), threads: 1 });
    expect(report.integer?.float[0]?.name).toBe("between");
    expect(report.notes.join("\n")).toMatch(/1 in floating point \(Tanh between: the engine has no integer kernel/);
  });
});

describe("what makes a quantized model slow", () => {
  const kernel = { op: "com.microsoft::QLinearConv", kind: "integer", layerOp: "Conv", why: undefined } as const;
  const kernels = [
    { ...kernel, name: "input.q", op: "QuantizeLinear", kind: "conversion", layer: undefined, layerOp: undefined },
    { ...kernel, name: "one_token_1", layer: "one" },
    { ...kernel, name: "second_token_2", layer: "second" },
  ] as const;
  const original = [
    { ...kernel, name: "one_nchwc", op: "com.microsoft.nchwc::Conv", kind: "float", layer: "one" },
    { ...kernel, name: "second_nchwc", op: "com.microsoft.nchwc::Conv", kind: "float", layer: "second" },
  ] as const;

  it("is named with the most time first, beside the original's time", () => {
    const times = new Map([
      ["input.q", 3e-6],
      ["one_token_1", 9e-6],
      ["second_token_2", 4e-6],
    ]);
    const timesBefore = new Map([
      ["one_nchwc", 2e-6],
      ["second_nchwc", 5e-6],
    ]);
    const macs = new Map([["one", 1200]]);
    const extra = extraTimes({ kernels, times }, { kernels: original, times: timesBefore }, macs);
    expect(extra).toEqual([
      { what: "one", why: "QLinearConv on 1,200 multiply-accumulates a sample", seconds: 9e-6, before: 2e-6 },
      {
        what: "conversions between floats and integers",
        why: "at the borders of what runs on integers",
        seconds: 3e-6,
        before: 0,
      },
    ]); // the second convolution became faster
    const ratio = { value: 1.5, low: 1.4, high: 1.6 };
    const report = { integer: 2, macShare: 1, float: [], conversions: 1, layouts: 0, time: { ratio, batch: 1 } };
    expect(integerLines({ ...report, longer: extra })[1]).toBe(
      "Slower than the original here: 1.50 times its time (1.40 to 1.60) on batches of 1. What takes longer: one 0.0090 ms instead of 0.0020 ms (QLinearConv on 1,200 multiply-accumulates a sample); conversions between floats and integers 0.0030 ms (at the borders of what runs on integers).",
    );
    const little = {
      ...report,
      time: { ratio: { value: 0.8, low: 0.7, high: 0.9 }, batch: 8 },
      longer: extra.slice(0, 1),
    };
    expect(integerLines(little)[1]).toBe(
      "No more than 1.25 times as fast as the original here (1.11 to 1.43), on batches of 8. What takes longer: one 0.0090 ms instead of 0.0020 ms (QLinearConv on 1,200 multiply-accumulates a sample).",
    );
    expect(integerLines({ ...report, time: { ratio: { value: 0.5, low: 0.4, high: 0.6 }, batch: 1 } })).toHaveLength(1);
  });
});
