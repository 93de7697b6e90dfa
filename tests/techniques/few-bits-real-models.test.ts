/** Recurrent and convolutional networks below 8 bits: all their weights in packed bits, in files that load and compute what the stored numbers say. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { isUnpacking, layerWeights } from "../../src/analyse/layer-weights.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import type { Model } from "../../src/ir/model.ts";
import { Journal } from "../../src/techniques/journal.ts";
import { prepareConstants } from "../../src/techniques/prepare.ts";
import { foldComputedWeights } from "../../src/techniques/quantize/weights/computed-weights.ts";
import { type WeightFormat, formatNamed } from "../../src/techniques/quantize/weights/formats.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { weightSites } from "../../src/transform/weight-sites.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { describeWithData } from "../support/shared-data.ts";
import { storedWeight, withWeights } from "../support/weight-models.ts";

type Stored = Exclude<WeightFormat, "float">;

/** Weights with fewer elements stay as they are: of some, the nodes that unpack them would be larger. */
const LEAST = 1024;
/** Sums of products in another order, through all layers of a network. */
const TOLERANCE = 1e-3;

const RECURRENT = [
  "charrnn-lstm-shakespeare.onnx",
  "dtln-1.onnx",
  "gtcrn.onnx",
  "silero-vad.onnx",
  "seq2seq-lstm.onnx",
];
const CONVOLUTIONAL = [
  "carvana-unet-upsample-small.onnx",
  "mcunet-imagenet.onnx",
  "mnist-8.onnx",
  "resnet20-cifar10.onnx",
  "ultraface-rfb-320.onnx",
];
const CASES: [string, readonly Stored[]][] = [
  ...RECURRENT.map((file): [string, readonly Stored[]] => [
    file,
    ["int4", "int3", "int2", "nf4", "ternary", "codebook16"],
  ]),
  ["punctuation-restorer.onnx", ["int3"]],
  ...CONVOLUTIONAL.map((file): [string, readonly Stored[]] => [file, ["int4", "int3", "codebook4"]]),
];

interface Case {
  /** As it was, its constants ready to be quantized. */
  readonly before: Model;
  readonly model: Model;
  /** `before` with the weights that are stored. */
  readonly plain: Model;
}

async function quantized(path: string, to: Stored): Promise<Case> {
  const before = await loadFile(path);
  const { model, journal } = await runTechnique(quantizeWeights, before, {
    to,
    compute: "fp32",
    method: "rtn",
    minElements: LEAST,
  });
  prepareConstants(before, new Journal());
  await foldComputedWeights(before, new Journal());
  const sites = weightSites(before).filter(({ tensor }) => tensor.elements >= LEAST);
  expect(journal.changed.map(({ what }) => what).sort()).toEqual(sites.map(({ value }) => value.name).sort());
  for (const { why } of journal.skipped) expect(why).toMatch(/elements are too few/);
  const weights: Record<string, Float32Array> = {};
  for (const { value, tensor, uses } of sites) {
    const byColumns = (uses[0]?.weight.reductionAxis === 0) !== (uses[0]?.transpose !== undefined);
    weights[value.name] = await storedWeight(model, value.name, to, tensor.shape, byColumns);
  }
  return { before, model, plain: await withWeights(before, weights) };
}

/** Bits of every learned kernel or table, as a reader of the finished file finds them. */
function bitsOf(model: Model): number[] {
  const layers = [...model.graph.allNodes()].filter((node) => !isUnpacking(node, model.opset));
  return layers
    .flatMap((node) => layerWeights(node, model.opset))
    .filter(({ weight, elements }) => (weight.role === "kernel" || weight.role === "table") && elements >= LEAST)
    .map(({ bits }) => bits);
}

/** Bytes of all constants but for the tables that unpack codes, which all weights of a graph share (up to 4 kB for each width). */
function constantBytes(model: Model): number {
  const values = [...model.graph.allGraphs()].flatMap((graph) => [...graph.initializers.values()]);
  return values.reduce((sum, { name, tensor }) => sum + (name.startsWith("pare.") ? 0 : (tensor?.byteLength ?? 0)), 0);
}

describeWithData("few bits on real networks", "models", (folder) => {
  describe.each(CASES)("%s", (file, formats) => {
    it.each(formats)("%s", async (to) => {
      const { before, model, plain } = await quantized(join(folder, file), to);
      const found = bitsOf(model);
      expect(found.length).toBeGreaterThan(0);
      expect([...new Set(found)]).toEqual([formatNamed(to).bits]);
      const outputs = await runOnSynthetic(await encodeModel(model), { like: before });
      expect(worstError(await runOnSynthetic(plain, { like: before }), outputs)).toBeLessThan(TOLERANCE);
    });

    it("takes bytes in proportion to bits", async () => {
      const before = await loadFile(join(folder, file));
      const bytes = [4, 3, 2].map(async (bits) => {
        const { model, journal } = await runTechnique(quantizeWeights, before, {
          bits,
          form: "folded",
          method: "rtn",
          minElements: LEAST,
        });
        return [constantBytes(model), journal.changed.reduce((sum, { bytesBefore = 0 }) => sum + bytesBefore / 4, 0)];
      });
      const [[four = 0, elements = 0], [three = 0], [two = 0]] = (await Promise.all(bytes)) as [
        number[],
        number[],
        number[],
      ];
      // The same scales: what differs is the codes, their last bytes filled up
      expect(Math.abs((8 * (four - two)) / elements - 2)).toBeLessThan(0.05);
      expect(Math.abs((8 * (three - two)) / elements - 1)).toBeLessThan(0.05);
    });
  });

  it("is noticed where weights are not those that are stored", async () => {
    const { before, model } = await quantized(join(folder, "dtln-1.onnx"), "int4");
    expect(worstError(await runOnSynthetic(before), await runOnSynthetic(model))).toBeGreaterThan(10 * TOLERANCE);
    expect(Math.max(...bitsOf(before))).toBe(32);
  });
});
