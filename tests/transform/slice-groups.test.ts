/** Cutting groups of channels out: equal to setting them to zero, on every model and architecture there is. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type ChannelGroups, type Family, type Group, channelGroups } from "../../src/analyse/groups.ts";
import { ARCHITECTURES } from "../../src/architectures/build.ts";
import { checkModel } from "../../src/ir/check.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { freezeDefaults, liftConstants } from "../../src/transform/constants.ts";
import { settleSizes } from "../../src/transform/settle-sizes.ts";
import { sliceGroups } from "../../src/transform/slice-groups.ts";
import { sliceTensor } from "../../src/transform/slice-tensor.ts";
import { smallOf } from "../architectures/small.ts";
import { lively } from "../support/lively.ts";
import { maskGroups, someGroups } from "../support/mask-groups.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { sharedData } from "../support/shared-data.ts";

/** Sums in another order: float32 through some fifty layers; a half float has a thousandth of that. */
const TOLERANCE = 1e-5;
const HALF_TOLERANCE = 4e-3;

/** Models of shared/data without groups, and why; a test below keeps this list true. */
const NO_GROUPS: ReadonlySet<string> = new Set([
  "dtln-1.onnx", // its hidden states are inputs and outputs
]);
const NOT_RUN: ReadonlySet<string> = new Set(["qonnx-tfc-2w2a.onnx"]); // the engine does not know its operators

function prepared(model: Model): Model {
  freezeDefaults(model);
  liftConstants(model);
  settleSizes(model);
  return model;
}

interface Cut {
  readonly model: Model;
  readonly groups: ChannelGroups;
  readonly removed: readonly Group[];
}

function cutOf(original: Model, seed: number, share: number, pick: (family: Family) => boolean): Cut {
  const model = cloneModel(original);
  const groups = channelGroups(model);
  return { model, groups, removed: someGroups(groups, seed, share, pick) };
}

/** Worst distance between the model with some groups at zero and the one with groups cut out, those of `other` seed in the control. */
async function distance(original: Model, share: number, seed: number, other = seed): Promise<number> {
  const exact = ({ mixed }: Family): boolean => mixed === undefined;
  const masked = cutOf(original, seed, share, exact);
  const sliced = cutOf(original, other, share, exact);
  await maskGroups(masked.removed);
  sliceGroups(sliced.model, sliced.groups, sliced.removed);
  const [a, b] = [masked.model, sliced.model];
  const options = { like: original, optimize: "none" } as const;
  return worstError(await runOnSynthetic(a, options), await runOnSynthetic(b, options));
}

/** Cuts that change what is computed (a mean over fewer channels): the model has to be sound and run. */
async function runsWithAll(original: Model, seed: number): Promise<void> {
  const { model, groups, removed } = cutOf(original, seed, 0.4, () => true);
  const outputs = model.graph.outputs.map(({ name, shape }) => `${name} ${shape?.join()}`);
  sliceGroups(model, groups, removed);
  expect(checkModel(model).filter(({ severity }) => severity === "error")).toEqual([]);
  expect(model.graph.outputs.map(({ name, shape }) => `${name} ${shape?.join()}`)).toEqual(outputs);
  await runOnSynthetic(model, { like: original });
}

const root = sharedData("models");
/** Beside the single files, language models that lie in folders with what belongs to them. */
const IN_FOLDERS = [
  "stories260k/model.onnx",
  "stories260k/decoder_with_past.onnx",
  "tiny-random-llama-fp16/model.onnx",
];
const files = root === undefined ? [] : [...readdirSync(root).filter((name) => name.endsWith(".onnx")), ...IN_FOLDERS];

describe.skipIf(root === undefined)("real models (needs shared/data/models)", () => {
  it.each(files)(
    "%s: slicing equals masking, at 30 and 50 %",
    async (file) => {
      const original = prepared(await loadFile(join(root as string, file)));
      const { families } = channelGroups(original);
      expect(families.length === 0).toBe(NO_GROUPS.has(file));
      if (families.length === 0 || NOT_RUN.has(file)) return;
      const tolerance = file.includes("fp16") ? HALF_TOLERANCE : TOLERANCE;
      for (const share of [0.3, 0.5]) expect(await distance(original, share, 1)).toBeLessThan(tolerance);
      // The control: other channels are not the same network.
      expect(await distance(original, 0.4, 1, 77)).toBeGreaterThan(1e-3);
      await runsWithAll(original, 2);
    },
    120_000,
  );
});

describe("architectures", () => {
  it.each([...ARCHITECTURES.keys()])("%s: slicing equals masking", async (name) => {
    const original = prepared(lively(smallOf(name)));
    expect(channelGroups(original).families.length).toBeGreaterThan(0);
    for (const share of [0.3, 0.5]) expect(await distance(original, share, 1)).toBeLessThan(TOLERANCE);
    expect(await distance(original, 0.4, 1, 77)).toBeGreaterThan(1e-4);
    await runsWithAll(original, 3);
  });
});

describe("parts of tensors", () => {
  const tensor = Tensor.of(
    "int32",
    [3, 2, 4],
    Int32Array.from({ length: 24 }, (_, i) => i),
  );

  it("are taken along any axes", async () => {
    const part = sliceTensor(
      tensor,
      new Map([
        [0, [0, 2]],
        [2, [1, 2, 3]],
      ]),
    );
    expect(part.shape).toEqual([2, 2, 3]);
    expect([...(await part.data())]).toEqual([1, 2, 3, 5, 6, 7, 17, 18, 19, 21, 22, 23]);
  });

  it("read only the rows that stay where a file has them", async () => {
    const bytes = await tensor.bytes();
    const read: number[] = [];
    const source = {
      byteLength: bytes.length,
      read: () => Promise.reject(new Error("the whole tensor was read")),
      readInto: (target: Uint8Array, offset: number) => {
        target.set(bytes.subarray(offset, offset + target.length));
        read.push(target.length);
        return Promise.resolve();
      },
    };
    const part = sliceTensor(new Tensor("int32", [3, 2, 4], source), new Map([[0, [1, 2]]]));
    expect([...(await part.data())]).toEqual(Array.from({ length: 16 }, (_, i) => i + 8));
    expect(read).toEqual([64]);
  });
});
