/** Any width, depth and input size: the networks that come out are sound, and small images keep enough of a map. */
import { describe, expect, test } from "vitest";
import { inferTypes } from "../../src/analyse/shapes.ts";
import { ARCHITECTURES, buildArchitecture } from "../../src/architectures/build.ts";
import { roundChannels, scaleDepth, stridesFor } from "../../src/architectures/blocks/widths.ts";
import { checkModel } from "../../src/ir/check.ts";
import type { Model } from "../../src/ir/model.ts";

/** Shape of the logits as inference finds it, not as the architecture claims it. */
function inferred(model: Model): unknown {
  const [logits] = model.graph.outputs;
  if (!logits) return undefined;
  logits.shape = undefined;
  return inferTypes(model).types.get(logits)?.shape;
}

/** Height and width of what the global average pooling reads. */
function lastMap(model: Model): readonly unknown[] {
  const pool = model.graph.nodes.findLast(({ opType }) => opType === "GlobalAveragePool");
  const input = pool?.inputs[0];
  return (input && inferTypes(model).types.get(input)?.shape?.slice(2)) ?? [];
}

const SCALED = ["mobilenet-v1", "mobilenet-v2", "mobilenet-v3-large", "mobilenet-v3-small", "efficientnet-b0"].concat([
  "squeezenet",
  "shufflenet-v2",
  "resnet-18",
  "resnet-50",
  "convnext-tiny",
]);

describe("sizes", () => {
  for (const name of SCALED)
    test(`${name} at several widths, depths and images`, () => {
      for (const [side, width, depth] of [
        [28, 0.3, 0.2],
        [32, 0.5, 0.5],
        [50, 0.25, 1.4],
        [96, 0.7, 0.3],
      ] as const) {
        const model = buildArchitecture(name, { input: [2, side, side], classes: 7, width, depth });
        expect(checkModel(model)).toEqual([]);
        expect(inferred(model)).toEqual(["batch", 7]);
        for (const size of lastMap(model)) expect(size).toBeGreaterThanOrEqual(3);
      }
    });

  test("images need not be square", () => {
    for (const name of [...SCALED, "vgg-small", "resnet-20", "lenet-5", "small-cnn", "kws"]) {
      const width = SCALED.includes(name) ? { width: 0.25 } : {};
      const model = buildArchitecture(name, { input: [1, 32, 48], classes: 3, ...width });
      expect(inferred(model), name).toEqual(["batch", 3]);
    }
    expect(inferred(buildArchitecture("vit-tiny", { input: [1, 32, 48], classes: 3, layers: 1 }))).toEqual([
      "batch",
      3,
    ]);
  });

  test("blocks scale with the depth, and the depth never empties a stage", () => {
    const blocks = (depth: number): number =>
      buildArchitecture("mobilenet-v3-small", { depth, width: 0.1 }).graph.nodes.filter(({ name }) =>
        name.endsWith("depthwise.conv"),
      ).length;
    expect(blocks(1)).toBe(11);
    expect(blocks(2)).toBe(22);
    expect(blocks(0.01)).toBe(5); // one of each number of channels
    expect(scaleDepth(3, 0.01)).toBe(1);
  });

  test("strides are left out from the front, and only as many as must be", () => {
    expect(stridesFor([2, 1, 2, 2, 2, 2], 224)).toEqual([2, 1, 2, 2, 2, 2]);
    expect(stridesFor([2, 1, 2, 2, 2, 2], 64)).toEqual([1, 1, 2, 2, 2, 2]);
    expect(stridesFor([2, 1, 2, 2, 2, 2], 32)).toEqual([1, 1, 1, 2, 2, 2]);
    expect(stridesFor([4, 2, 2, 2], 64)).toEqual([2, 2, 2, 2]);
  });

  test("rounded channels are multiples of eight and never much fewer than asked", () => {
    for (let channels = 1; channels < 400; channels++) {
      const rounded = roundChannels(channels);
      expect(rounded % 8).toBe(0);
      expect(rounded).toBeGreaterThanOrEqual(0.9 * channels);
      expect(rounded).toBeLessThanOrEqual(Math.max(8, 1.9 * channels));
    }
  });

  test("sizes that do not go together are refused", () => {
    expect(() => buildArchitecture("gpt-nano", { width: 30, heads: 4 })).toThrow("heads do not divide");
    expect(() => buildArchitecture("vit-tiny", { input: [3, 32, 32], patch: 5 })).toThrow("do not cover the image");
    expect(() => buildArchitecture("resnet-18", { input: [784] })).toThrow("takes images");
    expect(() => buildArchitecture("squeezenet", { input: [3, 8, 8] })).toThrow("16x16");
  });

  test("a zero scale makes residual branches begin as the identity", async () => {
    const model = buildArchitecture("resnet-20", { zeroScale: true });
    const last = await model.graph.initializers.get("stage1.1.2.bn.weight")?.tensor?.data();
    const first = await model.graph.initializers.get("stage1.1.1.bn.weight")?.tensor?.data();
    expect(new Set(Array.from(last ?? [], Number))).toEqual(new Set([0]));
    expect(new Set(Array.from(first ?? [], Number))).toEqual(new Set([1]));
  });

  test("the names of all options mean something to somebody", () => {
    for (const { name, options } of ARCHITECTURES.values())
      for (const [option, field] of Object.entries(options.shape))
        expect((field as { description?: string }).description, `${name} ${option}`).toBeTruthy();
  });
});
