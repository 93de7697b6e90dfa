/** Whole residual blocks: which there are, that taking one out is multiplying its branch by zero, and what goes first. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { costOf } from "../../src/analyse/cost.ts";
import { type ResidualBlock, residualBlocks, residualUnits } from "../../src/analyse/residual-blocks.ts";
import { Rng } from "../../src/base/rng.ts";
import { Builder } from "../../src/ir/builder.ts";
import { checkModel } from "../../src/ir/check.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Value } from "../../src/ir/graph.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { pruneBlocks } from "../../src/techniques/prune/blocks/prune-blocks.ts";
import { freezeDefaults, liftConstants } from "../../src/transform/constants.ts";
import { removeBlocks } from "../../src/transform/remove-blocks.ts";
import { smallOf } from "../architectures/small.ts";
import { lively } from "../support/lively.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { sharedData } from "../support/shared-data.ts";

/** The same sums in the same order, in another session: fused kernels round differently. */
const TOLERANCE = 1e-5;
const root = sharedData("models");

function prepared(model: Model): Model {
  freezeDefaults(model);
  liftConstants(model);
  return model;
}

/** The block's branch times zero, where it enters the sum. A bias that the sum itself adds to the branch goes with it. */
function zeroed(model: Model, { sum, branch }: ResidualBlock): void {
  const b = new Builder(model.graph, { prefix: "zero/", before: sum });
  const f = sum.inputs[branch] as Value;
  const zero = b.constant(
    "zero",
    Tensor.of(
      f.dtype === "float16" ? "float16" : "float32",
      [],
      f.dtype === "float16" ? (Uint16Array.of(0) as never) : Float32Array.of(0),
    ),
  );
  sum.setInput(branch, b.op("Mul", [f, zero]));
  if (sum.inputs[4]) sum.setInput(4, undefined);
}

async function distances(original: Model, indices: readonly number[]): Promise<{ same: number; whole: number }> {
  const [masked, cut] = [cloneModel(original), cloneModel(original)];
  const blocks = residualBlocks(masked);
  for (const index of indices) zeroed(masked, blocks[index] as ResidualBlock);
  const own = residualBlocks(cut);
  removeBlocks(
    cut,
    indices.map((index) => own[index] as ResidualBlock),
  );
  expect(checkModel(cut).filter(({ severity }) => severity === "error")).toEqual([]);
  expect(cut.graph.nodes.length).toBeLessThan(original.graph.nodes.length);
  const options = { like: original };
  const result = await runOnSynthetic(cut, options);
  return {
    same: worstError(await runOnSynthetic(masked, options), result),
    whole: worstError(await runOnSynthetic(original, options), result),
  };
}

describe("residual blocks", () => {
  it.each(["resnet-20", "mobilenet-v2", "convnext-tiny", "vit-tiny", "bert-mini", "gpt-nano", "efficientnet-b0"])(
    "%s: a block taken out is its branch times zero",
    async (name) => {
      const original = prepared(lively(smallOf(name)));
      const blocks = residualBlocks(original);
      expect(blocks.length).toBeGreaterThan(0);
      const rng = new Rng(5).fork(name);
      for (const indices of [[rng.below(blocks.length)], [...blocks.keys()]]) {
        const { same, whole } = await distances(original, indices);
        expect(same).toBeLessThan(TOLERANCE);
        expect(whole).toBeGreaterThan(1e-6);
      }
    },
  );

  it("are none where nothing is added to what it came from", () => {
    expect(residualBlocks(prepared(smallOf("lenet-5")))).toEqual([]);
    expect(residualBlocks(prepared(smallOf("squeezenet")))).toEqual([]);
  });

  it("are not the sums inside of activations and rotary embeddings", () => {
    const model = new Model();
    const b = new Builder(model.graph);
    const x = b.input("x", "float32", [1, 4]);
    const cubed = b.op("Mul", [x, b.op("Mul", [x, x])]);
    b.output(b.op("Add", [x, cubed]), "y");
    expect(residualBlocks(model)).toEqual([]);
  });
});

describe.skipIf(root === undefined)("real models (needs shared/data/models)", () => {
  it.each([
    ["stories260k/model.onnx", 10, 5, 1e-2],
    // Its random weights are so small that its answers are some 10⁻⁹ apart.
    ["tiny-distilbert-cls.onnx", 4, 2, 1e-10],
    ["kwt1-keyword-transformer.onnx", 24, 12, 1e-2],
    ["cifar10-vit-ibp_3_3_8.onnx", 6, 3, 1e-2],
    ["resnet20-cifar10.onnx", 7, 7, 1e-2],
    ["mobilenetv2-imagenet.onnx", 10, 10, 1e-2],
  ])("%s: %i blocks in %i layers", async (file, count, layers, least) => {
    const original = prepared(await loadFile(join(root as string, file)));
    const blocks = residualBlocks(original);
    expect(blocks.length).toBe(count);
    expect(residualUnits(blocks, "layer").length).toBe(layers);
    const { same, whole } = await distances(original, [1, count - 1]);
    expect(same).toBeLessThan(TOLERANCE);
    expect(whole).toBeGreaterThan(least);
  });

  it("behind fused sums and normalizations go too, but not those that fill a cache", async () => {
    const original = prepared(await loadFile(join(root as string, "tiny-random-gpt2.onnx")));
    const blocks = residualBlocks(original);
    expect(blocks.map(({ kind }) => kind)).toEqual(
      Array.from({ length: 10 }, (_, i) => (i % 2 ? "dense" : "attention")),
    );
    expect(blocks.filter(({ reason }) => reason !== undefined).map(({ reason }) => reason)).toEqual(
      [0, 1, 2, 3, 4].map((i) => `it makes the model's output 'present_${i}'`),
    );
    const { same, whole } = await distances(original, [1, 9]);
    expect(same).toBeLessThan(TOLERANCE);
    expect(whole).toBeGreaterThan(1e-4);
  });
});

/** Four blocks x + W₂ relu(W₁ x), of which the third adds next to nothing. */
function stack(): Model {
  const model = new Model();
  const b = new Builder(model.graph);
  const rng = new Rng(2);
  let x = b.input("x", "float32", ["n", 6]);
  for (const [i, gain] of [0.6, 0.5, 0.001, 0.4].entries()) {
    const weight = (name: string, scale: number): Value =>
      b.constant(
        `${name}${i}`,
        Tensor.float32(
          [6, 6],
          Float32Array.from({ length: 36 }, () => scale * rng.normal()),
        ),
      );
    const hidden = b.op("Relu", [b.op("MatMul", [x, weight("first", 1)], { name: `block${i}` })]);
    x = b.op("Add", [x, b.op("MatMul", [hidden, weight("second", gain)])]);
    [x.dtype, x.shape] = ["float32", ["n", 6]];
  }
  b.output(x, "y");
  return model;
}

describe("prune-blocks", () => {
  it.each(["output", "influence", "magnitude"])("finds the block that does least, by %s", async (score) => {
    const { model, journal } = await runTechnique(pruneBlocks, stack(), { count: 1, score, samples: 8 });
    expect(journal.changed.map(({ what }) => what)).toEqual(["block2"]);
    expect([...model.graph.initializers.keys()].some((name) => name.endsWith("2"))).toBe(false);
    expect(model.graph.nodes.length).toBe(12);
  });

  it("reaches a share of the parameters, and says when it cannot", async () => {
    const original = stack();
    const { model } = await runTechnique(pruneBlocks, original, { parameters: 0.5, score: "magnitude" });
    expect(costOf(model).parameters).toBe(costOf(original).parameters / 2);
    const { journal } = await runTechnique(pruneBlocks, original, {
      parameters: 0.5,
      score: "magnitude",
      keep: ["block[0-2]"],
    });
    expect(journal.notes.join()).toContain("at most 25.0 % can be removed of the 50.0 % asked for");
    expect(journal.skipped).toHaveLength(3);
  });

  it("scores what is left anew when it is greedy", async () => {
    const { model, journal } = await runTechnique(pruneBlocks, stack(), {
      count: 3,
      greedy: true,
      score: "influence",
      samples: 8,
    });
    expect(journal.changed[0]?.what).toBe("block2");
    expect(journal.changed).toHaveLength(3);
    expect(model.graph.nodes.length).toBe(4);
    await runOnSynthetic(model);
  });

  it("takes whole layers of a transformer, by the caller's own score", async () => {
    const original = smallOf("gpt-nano");
    const names: string[] = [];
    const { model, journal } = await runTechnique(pruneBlocks, original, {
      unit: "layer",
      count: 1,
      score: ({ name, blocks }: { name: string; blocks: readonly ResidualBlock[] }) => {
        names.push(blocks.map(({ kind }) => kind).join());
        return name.length;
      },
    });
    expect(new Set(names)).toEqual(new Set(["attention,dense"]));
    expect(journal.changed[0]?.how).toContain("attention and dense");
    await runOnSynthetic(model, { like: original });
  });

  it("does nothing at count 0, and nothing where there is no block", async () => {
    const { journal } = await runTechnique(pruneBlocks, stack(), { count: 0 });
    expect(journal.changed).toEqual([]);
    const none = await runTechnique(pruneBlocks, smallOf("lenet-5"));
    expect(none.journal.notes.join()).toContain("No residual block");
  });
});
