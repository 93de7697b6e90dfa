/** Static int8 models as the engine runs them: which kernels, and what it may leave in floating point. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { feedChunks } from "../../src/run/feeds.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { optimizedGraph } from "../../src/run/optimized-graph.node.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { convertOpset } from "../../src/transform/opset.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, unary } from "../support/small-models.ts";

/** Two residual blocks, the second with a strided slice and padded channels as its shortcut (ResNet's option A). */
function residualNet(): Model {
  return unary(
    "float32",
    ["n", 4, 8, 8],
    (b, x) => {
      const conv = (name: string, from: typeof x, i: number, o: number, stride = 1): typeof x =>
        b.op(
          "Conv",
          [
            from,
            b.constant(`${name}.w`, randomTensor([o, i, 3, 3], i + o, 0.3)),
            b.constant(`${name}.b`, randomTensor([o], o, 0.1)),
          ],
          {
            name,
            attributes: { pads: [1, 1, 1, 1], strides: [stride, stride] },
          },
        );
      const stem = b.op("Relu", [conv("stem", x, 4, 4)]);
      const first = b.op("Relu", [b.op("Add", [conv("a", stem, 4, 4), stem])]);
      const ints = (name: string, list: number[]): typeof x => b.constant(name, Tensor.int64(list));
      const half = b.op("Slice", [
        first,
        ints("starts", [0, 0]),
        ints("ends", [100, 100]),
        ints("axes", [2, 3]),
        ints("steps", [2, 2]),
      ]);
      const wide = b.op("Pad", [
        half,
        ints("pads", [0, 2, 0, 0, 0, 2, 0, 0]),
        b.constant("zero", Tensor.float32([], [0])),
      ]);
      const second = b.op("Relu", [b.op("Add", [conv("b", first, 4, 8, 2), wide])]);
      const flat = b.op("Flatten", [b.op("GlobalAveragePool", [second])]);
      return b.op("Gemm", [flat, b.constant("fc", randomTensor([8, 3], 5)), b.constant("fcb", randomTensor([3], 6))]);
    },
    { shape: ["n", 3] },
    17,
  );
}

function samples(): Dataset {
  const rng = new Rng(2);
  // Smooth images: with independent inputs, no rounding would be better than the nearest.
  let x = 0;
  const data = Float32Array.from(
    { length: 16 * 4 * 64 },
    (_, i) => (x = i % 64 === 0 ? rng.normal() : 0.9 * x + 0.3 * rng.normal()),
  );
  return datasetOf({ fields: { x: { dtype: "float32", shape: [16, 4, 8, 8], data } } });
}

async function outputs(model: Model): Promise<Float32Array> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  const data = samples();
  const batch = await data.take(Array.from({ length: data.size }, (_, i) => i));
  try {
    const [y] = Object.values(await session.run(feedChunks(session.inputs, batch)[0]?.feeds ?? {}));
    return y?.data as Float32Array;
  } finally {
    await session.close();
  }
}

/** A residual block between two convolutions; gives an image. */
function imageNet(): Model {
  return unary(
    "float32",
    ["n", 4, 8, 8],
    (b, x) => {
      const conv = (name: string, from: typeof x, i: number, o: number): typeof x =>
        b.op(
          "Conv",
          [
            from,
            b.constant(`${name}.w`, randomTensor([o, i, 3, 3], i + 2 * o, 0.2)),
            b.constant(`${name}.b`, randomTensor([o], o, 0.1)),
          ],
          {
            name,
            attributes: { pads: [1, 1, 1, 1] },
          },
        );
      const stem = b.op("Relu", [conv("stem", x, 4, 8)]);
      const sum = b.op("Add", [conv("b", b.op("Relu", [conv("a", stem, 8, 8)]), 8, 8), stem]);
      return conv("last", b.op("Relu", [sum]), 8, 4);
    },
    { shape: ["n", 4, 8, 8] },
    17,
  );
}

/** ‖ŷ − y‖/‖y‖. */
async function errorOf(model: Model, original = residualNet()): Promise<number> {
  const [wanted, got] = [await outputs(original), await outputs(model)];
  const norm = (list: Float32Array): number => Math.sqrt(list.reduce((sum, x) => sum + x * x, 0));
  return norm(wanted.map((y, i) => y - (got[i] ?? 0))) / norm(wanted);
}

describe("static int8", () => {
  it("runs everything between layers on int8: sums, rectifiers, slices and padding", async () => {
    const { model } = await runTechnique(quantize, residualNet(), { calibration: "min-max" }, samples());
    const { operators } = await optimizedGraph(model, { threads: 1, inProcess: true });
    expect(operators).toMatchObject({
      "com.microsoft::QLinearConv": 3,
      "com.microsoft::QLinearAdd": 2,
      "com.microsoft::QLinearGlobalAveragePool": 1,
      "com.microsoft::QGemm": 1,
      QuantizeLinear: 1, // of the input
    });
    for (const op of ["Conv", "Add", "Relu", "Gemm", "DequantizeLinear"]) expect(operators).not.toHaveProperty(op);
  });

  it("rectifies the codes where the grid goes below zero, and keeps all on integers", async () => {
    const model = unary(
      "float32",
      ["n", 4, 8, 8],
      (b, x) => {
        const conv = (name: string, from: typeof x): typeof x =>
          b.op("Conv", [from, b.constant(`${name}.w`, randomTensor([4, 4, 1, 1], name.length, 0.5))], { name });
        // Both parts of a concatenation share a grid, and one has negative numbers.
        const both = b.op("Concat", [b.op("Relu", [conv("a", x)]), conv("bb", x)], { attributes: { axis: 1 } });
        return b.op("Conv", [both, b.constant("w", randomTensor([3, 8, 1, 1], 5))], { name: "last" });
      },
      { shape: ["n", 3, 8, 8] },
      17,
    );
    const result = await runTechnique(quantize, model, { calibration: "min-max" }, samples());
    const { operators } = await optimizedGraph(result.model, { threads: 1, inProcess: true });
    expect(operators).toMatchObject({ "com.microsoft::QLinearConv": 3, Clip: 1 });
    for (const op of ["Conv", "Relu"]) expect(operators).not.toHaveProperty(op);
    expect(await errorOf(result.model, model)).toBeLessThan(0.03); // 8 bits
  });
});

describe("fitting to the original", () => {
  const options = { calibration: "min-max", equalize: "never", balance: false };

  it("shifts biases so that the outputs come nearer", async () => {
    const plain = await runTechnique(quantize, residualNet(), { ...options, to: "int4", fit: "none" }, samples());
    const fitted = await runTechnique(quantize, residualNet(), { ...options, to: "int4", fit: "biases" }, samples());
    expect(await errorOf(fitted.model)).toBeLessThan(0.9 * (await errorOf(plain.model)));
  });

  it.each(["layers", "blocks"])(
    "learns the rounding of 4-bit weights, and keeps what lowers a part's error: %s",
    async (fit) => {
      const learned = { ...options, to: "int4", fit, iterations: 60 };
      const { journal } = await runTechnique(quantize, imageNet(), learned, samples());
      const left = /: (\d+) % of each part's error/.exec(journal.notes.join("\n"))?.[1];
      expect(Number(left)).toBeLessThan(97);
    },
    240_000,
  ); // a training session for every part

  it("stores 4-bit codes packed, below and from opset 21, and the engine runs int8 kernels on them", async () => {
    for (const opset of [17, 21]) {
      const model = residualNet();
      if (opset > 17) convertOpset(model, opset);
      const { model: result } = await runTechnique(
        quantize,
        model,
        { ...options, to: "int4", layers: { "op:Gemm": "int8" }, fit: "none" },
        samples(),
      );
      const kernels = [...result.graph.initializers.values()].filter(({ name }) => name.endsWith(".packed"));
      expect(kernels.map(({ tensor }) => tensor?.byteLength)).toEqual([72, 72, 144]); // 4·4·9, 4·4·9 and 8·4·9 codes
      const { operators } = await optimizedGraph(result, { threads: 1, inProcess: true });
      expect(operators).toMatchObject({ "com.microsoft::QLinearConv": 3, "com.microsoft::QGemm": 1 });
      expect(operators).not.toHaveProperty("Cast");
    }
  });
});
