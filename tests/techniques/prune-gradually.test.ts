/** Pruning in rounds: the course of the cuts, the training between them, and where it ends. */
import { describe, expect, it } from "vitest";
import { costOf } from "../../src/analyse/cost.ts";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { pruneGradually } from "../../src/techniques/prune/channels/prune-gradually.ts";
import { runTechnique } from "../support/run-technique.ts";

const [INPUTS, HIDDEN, CLASSES, SAMPLES] = [4, 32, 2, 64];
const rng = new Rng(5);
const normal = (shape: readonly number[]): Tensor =>
  Tensor.float32(
    shape,
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => rng.normal()),
  );

function network(): Model {
  const model = new Model();
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", INPUTS]);
  const first = b.op("MatMul", [x, b.constant("w1", normal([INPUTS, HIDDEN]))], { name: "hidden" });
  const y = b.op("MatMul", [b.op("Relu", [first]), b.constant("w2", normal([HIDDEN, CLASSES]))], { name: "out" });
  [y.dtype, y.shape] = ["float32", ["n", CLASSES]];
  b.output(y, "y");
  return model;
}

const DATA = datasetOf({
  fields: {
    x: {
      dtype: "float32",
      shape: [SAMPLES, INPUTS],
      data: Float32Array.from({ length: SAMPLES * INPUTS }, () => rng.normal()),
    },
  },
  labels: { dtype: "int32", shape: [SAMPLES], data: Int32Array.from({ length: SAMPLES }, (_, i) => i % CLASSES) },
});

describe("prune-gradually", () => {
  it.each([
    ["cubic", [15, 8]],
    ["linear", [24, 16, 8]],
  ] as const)("cuts along a %s course to the target, training after each cut", async (course, wanted) => {
    const original = network();
    const options = { macs: 0.75, rounds: 3, course, score: "taylor", batch: 16, learningRate: 0.05 };
    const { model, journal } = await runTechnique(pruneGradually, original, options, DATA);
    const widths = journal.changed.flatMap(({ what, how }) =>
      what === "hidden" ? [Number(/-> (\d+)/.exec(how)?.[1])] : [],
    );
    // MACs are proportional to the width here: 1 − 0.75·(1 − (1 − t/3)³) of 32, where the third cut has nothing left to do
    expect(widths).toEqual(wanted);
    expect(1 - costOf(model).macs / costOf(original).macs).toBeGreaterThanOrEqual(0.75);
    const trained = journal.notes.filter((note) => note.startsWith("training loss per epoch"));
    expect(trained).toHaveLength(3);
  });

  it("divides a ratio of channels, too", async () => {
    const options = { ratio: 0.5, rounds: 2, batch: 16, course: "linear" };
    const { model } = await runTechnique(pruneGradually, network(), options, DATA);
    expect(model.graph.initializers.get("w1")?.tensor?.shape).toEqual([INPUTS, HIDDEN / 2]);
  });
});
