/** Static int8 models as the engine runs them: which kernels, and what it may leave in floating point. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { optimizedGraph } from "../../src/run/optimized-graph.node.ts";
import { quantize } from "../../src/techniques/quantize/quantize.ts";
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
  const data = Float32Array.from({ length: 16 * 4 * 64 }, () => rng.normal());
  return datasetOf({ fields: { x: { dtype: "float32", shape: [16, 4, 8, 8], data } } });
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

  it("keeps a rectifier whose grid goes below zero", async () => {
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
    expect(result.model.graph.nodes.filter(({ opType }) => opType === "Relu")).toHaveLength(1);
  });
});
