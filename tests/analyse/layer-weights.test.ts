/** The learned inputs of layers: which tensors hold them, each once, in how many bits. */
import { describe, expect, it } from "vitest";
import { isUnpacking, layerWeights } from "../../src/analyse/layer-weights.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { runTechnique } from "../support/run-technique.ts";
import { weightModel } from "../support/weight-models.ts";

describe("the stored tensors of a layer", () => {
  it.each(["int6", "int5", "int3", "int4", "apot5"] as const)("are listed once: %s", async (to) => {
    const { model } = await runTechnique(quantizeWeights, weightModel(["Conv", "LSTM"], 17), { to, minElements: 1 });
    const layers = model.graph.nodes.filter((node) => !isUnpacking(node, model.opset));
    const kernels = layers
      .flatMap((node) => layerWeights(node, model.opset))
      .filter(({ weight }) => weight.role === "kernel");
    expect(kernels.length).toBe(3);
    for (const { stored, elements, bits } of kernels) {
      expect(new Set(stored.map(({ tensor }) => tensor)).size).toBe(stored.length);
      expect(bits).toBe(Number(to.at(-1)));
      expect(stored[0]?.tensor.byteLength).toBe((elements * bits) / 8); // codes first
    }
  });
});
