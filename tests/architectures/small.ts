/** Every architecture in a size that runs in a moment, and samples that fit it. */
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { type BuildOptions, buildArchitecture } from "../../src/architectures/build.ts";
import { Rng } from "../../src/base/rng.ts";
import type { Model } from "../../src/ir/model.ts";
import type { NdArray } from "../../src/run/session.ts";

const IMAGE: BuildOptions = { input: "3x32x32", classes: 4 };

/** Options that make a network small; those that are not named run at their own size. */
const SMALL: Readonly<Record<string, BuildOptions>> = {
  "vgg-small": { input: "3x16x16", classes: 4, width: 0.125 },
  "resnet-20": { ...IMAGE, width: 8, blocks: 1 },
  "resnet-32": { ...IMAGE, width: 8, blocks: 2 },
  "resnet-56": { ...IMAGE, width: 8, blocks: 2 },
  "resnet-18": { ...IMAGE, width: 0.125 },
  "resnet-50": { ...IMAGE, width: 0.125, depth: 0.3 },
  "mobilenet-v1": { ...IMAGE, width: 0.25, depth: 0.5 },
  "mobilenet-v2": { ...IMAGE, width: 0.25, depth: 0.5 },
  "mobilenet-v3-large": { ...IMAGE, width: 0.25, depth: 0.5 },
  "mobilenet-v3-small": { ...IMAGE, width: 0.25, depth: 0.5 },
  squeezenet: { ...IMAGE, width: 0.5, normalize: true },
  "efficientnet-b0": { ...IMAGE, width: 0.25, depth: 0.5 },
  "shufflenet-v2": { ...IMAGE, width: 0.5, depth: 0.5 },
  "convnext-tiny": { ...IMAGE, width: 0.125, depth: 0.3 },
  "vit-tiny": { ...IMAGE, width: 24, layers: 2 },
  "bert-mini": { classes: 5, vocabulary: 50, sequence: 12, width: 32, layers: 2, heads: 2 },
  "gpt-nano": { vocabulary: 20, sequence: 16, width: 32, layers: 2, heads: 2 },
  "lstm-lm": { vocabulary: 20, sequence: 8, width: 16 },
};

export function smallOf(name: string, more: BuildOptions = {}): Model {
  return buildArchitecture(name, { ...SMALL[name], ...more });
}

/** Random samples for a model: normal images, tokens below 20, whole masks; labels in turn, or a token per position. */
export function samplesFor(model: Model, size: number): Dataset {
  const rng = new Rng(3);
  const fields: Record<string, NdArray> = {};
  for (const { name, dtype, shape: dims } of model.graph.inputs.filter((input) => !input.tensor)) {
    const shape = [size, ...((dims ?? []).slice(1) as number[])];
    const length = shape.reduce((n, each) => n * each, 1);
    const token = (): bigint =>
      name.endsWith("mask") ? 1n : name.startsWith("token_type") ? 0n : BigInt(rng.below(20));
    fields[name] =
      dtype === "int64"
        ? { dtype, shape, data: BigInt64Array.from({ length }, token) }
        : { dtype: "float32", shape, data: Float32Array.from({ length }, () => rng.normal()) };
  }
  const [, ...scores] = (model.graph.outputs[0]?.shape ?? []) as number[];
  const classes = scores.at(-1) ?? 1;
  const rows = [size, ...scores.slice(0, -1)];
  const labels = Int32Array.from({ length: rows.reduce((n, each) => n * each, 1) }, (_, i) => i % classes);
  const kind = rows.length > 1 ? "tokens" : "classes";
  return datasetOf({ fields, labels: { dtype: "int32", shape: rows, data: labels }, kind });
}
