/** Random small networks in random formats with random options: what is stored loads, and computes what the stored numbers say; bad options are refused in words. */
import { describe, expect, it } from "vitest";
import { PareError } from "../../src/base/error.ts";
import { Rng } from "../../src/base/rng.ts";
import type { Attribute } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { WEIGHT_FORMATS, type WeightFormat } from "../../src/techniques/quantize/weights/formats.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { type WeightSite, weightSites } from "../../src/transform/weight-sites.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor } from "../support/small-models.ts";
import { storedWeight, withWeights } from "../support/weight-models.ts";

const RUNS = 40;
/** Sums of up to 100 products in another order, through four layers. */
const TOLERANCE = 1e-4;

const FORMATS = WEIGHT_FORMATS.filter((name): name is Exclude<WeightFormat, "float"> => name !== "float");

const choose = <T>(rng: Rng, list: readonly T[]): T => list[rng.below(list.length)] as T;

/** A chain of up to four layers of odd sizes on a matrix or an image; some weights are read twice, some through a Transpose. */
function randomModel(rng: Rng): Model {
  const opset = choose(rng, [13, 17, 21]);
  const model = new Model(undefined, opset, opset >= 21 ? 10 : 8);
  const b = new Builder(model.graph);
  const size = (): number => 3 + rng.below(40);
  const weight = (shape: readonly number[]): Value =>
    b.constant(`w${model.graph.initializers.size}`, randomTensor(shape, rng.below(1 << 20), 0.3));
  const image = rng.below(2) === 0;
  let channels = image ? 2 * size() : size();
  let x = b.input("x", "float32", image ? [2, channels, 6, 5] : [3, channels]);
  for (let layer = 1 + rng.below(4); layer > 0; layer--) {
    const next = 2 * size();
    const op = (type: string, inputs: Value[], attributes: Record<string, number | number[] | Attribute> = {}): Value =>
      b.op(type, inputs, { attributes, name: `${type}${layer}` });
    if (image && rng.below(2) === 0)
      x = op("Conv", [x, weight([next, channels, 3, 1 + 2 * rng.below(2)])], { pads: [1, 1, 1, 1] });
    else if (image) x = op("Conv", [x, weight([next, channels / 2, 1, 1])], { group: 2 });
    else
      switch (rng.below(4)) {
        case 0:
          x = op("MatMul", [x, weight([channels, next])]);
          break;
        case 1:
          x = op("Gemm", [x, weight([next, channels]), b.constant(`b${layer}`, randomTensor([next], layer, 0.2))], {
            transB: 1,
          });
          break;
        case 2:
          x = op("MatMul", [x, op("Transpose", [weight([next, channels])], { perm: [1, 0] })]);
          break;
        default: {
          const shared = weight([channels, next]);
          x = op("Add", [
            op("MatMul", [x, shared]),
            b.op("MatMul", [b.op("Neg", [x]), shared], { name: `again${layer}` }),
          ]);
        }
      }
    x = b.op("Tanh", [x]);
    channels = next;
  }
  x.dtype = "float32";
  b.output(x, "y");
  return model;
}

function randomOptions(rng: Rng): Record<string, unknown> & { to: Exclude<WeightFormat, "float"> } {
  return {
    to: choose(rng, FORMATS),
    block: choose(rng, [undefined, 16, 32, 64, "channel", "tensor"]),
    symmetric: rng.below(2) === 0,
    method: choose(rng, ["rtn", "mse", "hqq"]),
    balance: rng.below(2) === 0,
    form: choose(rng, ["auto", "folded"]),
    scales: choose(rng, ["float32", "float16"]),
    minElements: choose(rng, [1, 256]),
    compute: "fp32",
  };
}

describe("random networks, formats and options", () => {
  it.each(Array.from({ length: RUNS }, (_, i) => i + 1))("seed %i", async (seed) => {
    const rng = new Rng(seed);
    const before = randomModel(rng);
    const options = randomOptions(rng);
    const { model, journal } = await runTechnique(quantizeWeights, before, options);
    const weights: Record<string, Float32Array> = {};
    const done = new Set(journal.changed.map(({ what }) => what));
    const sites = weightSites(before);
    // Each weight was stored or left alone with a reason
    expect([...done, ...journal.skipped.map(({ what }) => what)].sort()).toEqual(
      sites.map(({ value }) => value.name).sort(),
    );
    for (const { value, tensor, uses } of sites) {
      if (!done.has(value.name)) continue;
      const byColumns = (uses[0]?.weight.reductionAxis === 0) !== (uses[0]?.transpose !== undefined);
      weights[value.name] = await storedWeight(model, value.name, options.to, tensor.shape, byColumns);
    }
    const plain = await withWeights(before, weights);
    const outputs = await runOnSynthetic(await encodeModel(model));
    expect(worstError(await runOnSynthetic(plain), outputs), JSON.stringify(options)).toBeLessThan(TOLERANCE);
  });
});

describe("hostile options", () => {
  const parse = (options: Record<string, unknown>): unknown => quantizeWeights.options.parse(options);

  it.each([
    { bits: 7 },
    { bits: "4; rm" },
    { to: "int99" },
    { to: "__proto__" },
    { block: 17 },
    { block: -32 },
    { samples: 0 },
    { damping: Number.NaN },
    { damping: -1 },
    { passes: 1.5 },
    { compensate: 0 },
    { compensate: 1e9 },
    { minElements: -1 },
    { layers: { "*": "int0" } },
    { method: "best" },
  ])("%j is refused before anything is done", (options) => {
    expect(() => parse(options)).toThrow();
  });

  it("that fit no format or model end in a PareError, or leave the model as it was with a reason", async () => {
    const model = randomModel(new Rng(3));
    await expect(runTechnique(quantizeWeights, model, { to: "nf4", bits: 4 })).rejects.toBeInstanceOf(PareError);
    const impossible = await runTechnique(quantizeWeights, model, { to: "nf4", form: "dequantize" });
    expect(impossible.journal.changed).toEqual([]);
    for (const { why } of impossible.journal.skipped) expect(why).toMatch(/form=auto|too few/);
    const none = await runTechnique(quantizeWeights, model, { only: ["no such layer"] });
    expect(none.journal.changed).toEqual([]);
    expect(none.journal.notes.join()).toContain("no such layer");
  });

  it("weights that are not finite are refused by solvers, in words", async () => {
    const model = randomModel(new Rng(5));
    const [site] = weightSites(model) as [WeightSite];
    ((await site.tensor.data()) as Float32Array)[0] = Number.NaN;
    const run = runTechnique(quantizeWeights, model, { method: "hqq", minElements: 1 });
    await expect(run).rejects.toMatchObject({ code: "bad-data" });
  });
});
