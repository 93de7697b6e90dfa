/** A network made for finding a sensitive layer: one of its layers cannot do with few bits, all others can; and its data. */
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import type { Value } from "../../src/ir/graph.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { unary } from "./small-models.ts";

export const WIDTH = 64;
/** Inputs that are always zero in front of a planted layer, one in each block of 32. */
const SILENT = [0, 32];
/** Weights of silent inputs: they stretch the scale of their block and do nothing else. */
const LOUD = 40;
const CLASSES = 8;

/**
 * `layers` layers of x ↦ relu(x·W), then scores. In each layer named in `planted` every block of 32 weights holds one of 40 for an
 * input that is always 0: the network computes the same, but at 4 bits the other weights of the block round to nothing.
 */
export function plantedModel(planted: readonly number[], layers = 5): Model {
  return unary(
    "float32",
    ["n", WIDTH],
    (b, x) => {
      let value: Value = x;
      for (let layer = 0; layer < layers; layer++) {
        const rng = new Rng(layer + 1);
        const weights = Float32Array.from({ length: WIDTH * WIDTH }, () => rng.normal(0, Math.sqrt(2 / WIDTH)));
        for (const silent of SILENT)
          for (let i = 0; i < WIDTH; i++) {
            // The layer before puts nothing there; this one listens loudly.
            weights[i * WIDTH + silent] = 0;
            if (planted.includes(layer)) weights[silent * WIDTH + i] = LOUD;
          }
        const w = b.constant(`w${layer}`, Tensor.float32([WIDTH, WIDTH], weights));
        value = b.op("Relu", [b.op("MatMul", [value, w], { name: `layer${layer}` })], { name: `relu${layer}` });
      }
      const rng = new Rng(99);
      const head = Float32Array.from({ length: WIDTH * CLASSES }, () => rng.normal(0, 2 / Math.sqrt(WIDTH)));
      return b.op("MatMul", [value, b.constant("head", Tensor.float32([WIDTH, CLASSES], head))], { name: "scores" });
    },
    { shape: ["n", CLASSES] },
  );
}

/** Random inputs, silent where they must be; the labels are what the network answers. */
export async function plantedData(model: Model, samples = 128): Promise<Dataset> {
  const rng = new Rng(5);
  const data = Float32Array.from({ length: samples * WIDTH }, (_, i) =>
    SILENT.includes(i % WIDTH) ? 0 : Math.abs(rng.normal()),
  );
  const x = { dtype: "float32", shape: [samples, WIDTH], data } as const;
  const session = await openSession(model, { inProcess: true });
  try {
    const scores = (await session.run({ x }))["y"]?.data as Float32Array;
    const labels = Int32Array.from({ length: samples }, (_, sample) => {
      const row = scores.subarray(sample * CLASSES, (sample + 1) * CLASSES);
      return row.indexOf(Math.max(...row));
    });
    return datasetOf({ fields: { x }, labels: { dtype: "int32", shape: [samples], data: labels } });
  } finally {
    await session.close();
  }
}
