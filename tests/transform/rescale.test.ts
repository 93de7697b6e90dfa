/** Channels between layers may be rescaled freely: the model computes the same, and only where that is so are they offered. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { Builder } from "../../src/ir/builder.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { rescale, scaleFamilies } from "../../src/transform/rescale.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { randomTensor } from "../support/small-models.ts";

/** A network of convolutions: `body` makes (n, channels, 6, 6) out of (n, 4, 6, 6), a classifier follows. */
function convNet(body: (net: Net) => Value, channels: number): Model {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", 4, 6, 6]);
  let seed = 1;
  const net: Net = {
    b,
    x,
    conv(name, input, i, o, { group = 1, kernel = 3 } = {}) {
      const w = b.constant(`${name}.w`, randomTensor([o, i / group, kernel, kernel], seed++, 0.4));
      const bias = b.constant(`${name}.b`, randomTensor([o], seed++, 0.2));
      const pad = (kernel - 1) / 2;
      return b.op("Conv", [input, w, bias], { name, attributes: { group, pads: [pad, pad, pad, pad] } });
    },
  };
  const flat = b.op("Flatten", [b.op("GlobalAveragePool", [body(net)])]);
  const y = b.op("Gemm", [
    flat,
    b.constant("fc", randomTensor([channels, 3], seed++)),
    b.constant("fcb", randomTensor([3], 9)),
  ]);
  [y.dtype, y.shape] = ["float32", ["n", 3]];
  b.output(y, "y");
  inferShapes(model);
  return model;
}

interface Net {
  readonly b: Builder;
  readonly x: Value;
  conv(name: string, x: Value, inputs: number, outputs: number, more?: { group?: number; kernel?: number }): Value;
}

const NETS: Record<string, { readonly model: () => Model; readonly families: readonly string[] }> = {
  chain: {
    model: () => convNet(({ b, x, conv }) => conv("c2", b.op("Relu", [conv("c1", x, 4, 8)]), 8, 6), 6),
    families: ["c1", "c2"],
  },
  depthwise: {
    model: () =>
      convNet(({ b, x, conv }) => {
        const wide = b.op("LeakyRelu", [conv("expand", x, 4, 8, { kernel: 1 })]);
        return conv("project", b.op("Relu", [conv("depthwise", wide, 8, 8, { group: 8 })]), 8, 5, { kernel: 1 });
      }, 5),
    families: ["expand", "depthwise", "project"],
  },
  grouped: {
    model: () =>
      convNet(
        ({ b, x, conv }) =>
          conv(
            "c2",
            b.op("MaxPool", [conv("c1", x, 4, 8)], { attributes: { kernel_shape: [3, 3], pads: [1, 1, 1, 1] } }),
            8,
            6,
            { group: 2 },
          ),
        6,
      ),
    families: ["c1", "c2"],
  },
  residual: {
    model: () =>
      convNet(({ b, x, conv }) => {
        const stem = b.op("Relu", [conv("stem", x, 4, 6)]);
        return b.op("Relu", [b.op("Add", [conv("b2", b.op("Relu", [conv("b1", stem, 6, 7)]), 7, 6), stem])]);
      }, 6),
    families: ["stem", "b1"],
  },
  concat: {
    model: () =>
      convNet(
        ({ b, x, conv }) =>
          b.op("Concat", [conv("left", x, 4, 3), conv("right", x, 4, 4)], { attributes: { axis: 1 } }),
        7,
      ),
    families: ["left", "right"],
  },
  flatten: {
    model: () => {
      const model = convNet(({ x, conv }) => conv("c1", x, 4, 2), 72);
      const pool = model.graph.nodes.find(({ opType }) => opType === "GlobalAveragePool");
      const [from, to] = [pool?.inputs[0], pool?.outputs[0]];
      if (pool && from && to) {
        to.replaceUses(from);
        model.graph.remove(pool);
      }
      inferShapes(model, { fresh: true });
      return model;
    },
    families: ["c1"],
  },
  "slopes per channel": {
    model: () =>
      convNet(({ b, x, conv }) => {
        const slope = b.constant("slope", randomTensor([6, 1, 1], 4, 0.3));
        return conv("c2", b.op("PRelu", [conv("c1", x, 4, 6), slope]), 6, 5);
      }, 5),
    families: ["c1", "c2"],
  },
  "a constant that is added": {
    model: () =>
      convNet(({ b, x, conv }) => {
        const shift = b.constant("shift", randomTensor([1, 6, 1, 1], 4));
        return conv("c2", b.op("Relu", [b.op("Add", [conv("c1", x, 4, 6), shift])]), 6, 5);
      }, 5),
    families: ["c1", "c2"],
  },
};

/** Factors in e^±1.5. */
function factors(size: number, seed: number): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length: size }, () => Math.exp(rng.uniform(-1.5, 1.5)));
}

describe("channels whose scale is free", () => {
  it.each(Object.entries(NETS))("%s: any factors leave the outputs as they were", async (_, { model, families }) => {
    const before = model();
    expect(scaleFamilies(before).families.map(({ name }) => name)).toEqual(families);
    const wanted = await runOnSynthetic(before);
    await fc.assert(
      fc.asyncProperty(fc.nat(1000), async (seed) => {
        const after = cloneModel(before);
        for (const [i, family] of scaleFamilies(after).families.entries())
          await rescale(family, factors(family.size, seed + i));
        // The same products with other factors: some units in the last place of float32, times the ratio of factors.
        expect(worstError(wanted, await runOnSynthetic(after))).toBeLessThan(2e-5);
      }),
      { numRuns: 5 },
    );
  });

  it.each(Object.entries(NETS))("%s: a factor on one side alone is noticed", async (_, { model }) => {
    const before = model();
    const after = cloneModel(before);
    const [family] = scaleFamilies(after).families;
    if (!family) throw new Error("no family");
    await rescale(
      { ...family, constants: family.constants.filter(({ power }) => power === -1) },
      factors(family.size, 1),
    );
    expect(worstError(await runOnSynthetic(before), await runOnSynthetic(after))).toBeGreaterThan(1e-3);
  });

  it.each<[string, (net: Net) => Value, string]>([
    [
      "a Sigmoid",
      ({ b, x, conv }) => conv("c2", b.op("Sigmoid", [conv("c1", x, 4, 6)]), 6, 5),
      "does not follow a scale",
    ],
    [
      "a scalar that is added",
      ({ b, x, conv }) =>
        conv("c2", b.op("Add", [conv("c1", x, 4, 6), b.constant("one", Tensor.float32([], [1]))]), 6, 5),
      "has an operand that does not follow its scale",
    ],
    [
      "a gate",
      ({ b, x, conv }) => {
        const y = conv("c1", x, 4, 6);
        return conv("c2", b.op("Mul", [y, b.op("GlobalAveragePool", [y])]), 6, 5);
      },
      "does not follow a scale",
    ],
    [
      "a sum over channels",
      ({ b, x, conv }) => {
        const y = conv("c1", x, 4, 6);
        const sum = b.op("ReduceMean", [y], { attributes: { axes: [1], keepdims: 1 } });
        return b.op("Concat", [conv("c2", y, 6, 4), sum], { attributes: { axis: 1 } });
      },
      "sums over it",
    ],
  ])("is not offered through %s", (_, body, why) => {
    const { families, skipped } = scaleFamilies(convNet(body, 5));
    expect(families.map(({ name }) => name)).not.toContain("c1");
    expect(skipped.find(({ what }) => what === "c1")?.why).toContain(why);
  });

  it("lists a clamp as a limit", () => {
    const model = convNet(({ b, x, conv }) => {
      const bound = (name: string, value: number): Value => b.constant(name, Tensor.float32([], [value]));
      return conv("c2", b.op("Clip", [conv("c1", x, 4, 6), bound("low", 0), bound("six", 6)]), 6, 5);
    }, 5);
    const family = scaleFamilies(model).families.find(({ name }) => name === "c1");
    expect(family?.limits.map(({ low, high }) => [low, high])).toEqual([[0, 6]]);
  });
});
