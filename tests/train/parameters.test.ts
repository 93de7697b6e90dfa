/** What counts as learned: weights and biases, but not the masks that attention adds to its scores. */
import { describe, expect, test } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { simplify } from "../../src/techniques/simplify/simplify.ts";
import { compress } from "../../src/techniques/pipeline.node.ts";
import { trainableParameters } from "../../src/train/parameters.ts";

const names = (model: Model): string[] => trainableParameters(model).map(({ name }) => name);

describe("learned parameters", () => {
  test("a causal mask is not learned, before or after it is folded into a constant", async () => {
    const model = buildArchitecture("gpt-nano", { layers: 1, width: 8, heads: 2, sequence: 4, vocabulary: 5 });
    const masks = (of: Model): string[] => names(of).filter((name) => name.startsWith("mask"));
    expect(masks(model)).toEqual([]);
    const { model: folded } = await compress(model, [simplify()], { seed: 1 });
    const stored = [...folded.graph.initializers.values()].map(({ tensor }) => tensor?.shape.join("x"));
    expect(stored).toContain("1x1x4x4"); // it is there
    expect(masks(folded)).toEqual([]);
  });

  test("the bias of a model that ends in Softmax is learned", () => {
    const model = new Model(undefined, 21, 10);
    const b = new Builder(model.graph);
    const x = b.input("x", "float32", ["batch", 3]);
    const weight = b.constant("weight", Tensor.of("float32", [3, 2], new Float32Array(6).fill(1)));
    const bias = b.constant("bias", Tensor.of("float32", [2], new Float32Array(2)));
    b.output(b.op("Softmax", [b.op("Add", [b.op("MatMul", [x, weight]), bias])]), "y");
    expect(names(model)).toEqual(["weight", "bias"]);
  });
});
