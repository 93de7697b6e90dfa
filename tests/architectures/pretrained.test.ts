/** Weights of published networks, put into the architectures by name, give the published networks' outputs. */
import { expect, it } from "vitest";
import { type BuildOptions, buildArchitecture } from "../../src/architectures/build.ts";
import type { Node, Value } from "../../src/ir/graph.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { describeWithData } from "../support/shared-data.ts";
import { samplesFor } from "./small.ts";

/** A layer with weights, and the batch normalization that follows it. */
interface Layer {
  readonly node: Node;
  readonly norm: Node | undefined;
}

function layersOf(model: Model): Layer[] {
  const layers = model.graph.nodes.filter(({ opType }) => opType === "Conv" || opType === "Gemm");
  return layers.map((node) => {
    const next = node.outputs[0]?.uses[0]?.node;
    return { node, norm: next?.opType === "BatchNormalization" ? next : undefined };
  });
}

const numbers = async (value: Value | undefined): Promise<Float32Array> =>
  ((await value?.tensor?.data()) as Float32Array | undefined) ?? new Float32Array(0);

function put(value: Value | undefined, data: Float32Array): void {
  const shape = value?.tensor?.shape ?? [];
  expect(data.length, value?.name).toBe(shape.reduce((n, size) => n * size, 1));
  (value as Value).tensor = Tensor.of("float32", shape, data);
}

/**
 * Copies layer by layer, in order. Where the published network has a bias in front of its normalization, or no
 * normalization any more, the same is written with this one's statistics.
 */
async function transplant(from: Model, to: Model): Promise<void> {
  const [sources, targets] = [layersOf(from), layersOf(to)];
  expect(targets.map(({ node }) => node.inputs[1]?.tensor?.shape)).toEqual(
    sources.map(({ node }) => node.inputs[1]?.tensor?.shape),
  );
  for (const [i, { node, norm }] of targets.entries()) {
    const source = sources[i] as Layer;
    put(node.inputs[1], await numbers(source.node.inputs[1]));
    const bias = await numbers(source.node.inputs[2]);
    if (!norm) {
      put(node.inputs[2], bias);
      continue;
    }
    const [, scale, shift, mean, variance] = norm.inputs;
    const channels = scale?.tensor?.elements ?? 0;
    const before = (channel: number): number => bias[channel] ?? 0;
    const filled = (value: number): Float32Array => new Float32Array(channels).fill(value);
    const old = source.norm ? await Promise.all(source.norm.inputs.slice(1).map(numbers)) : undefined;
    put(scale, old?.[0] ?? filled(1));
    put(shift, old?.[1] ?? filled(0));
    put(
      mean,
      (old?.[2] ?? filled(0)).map((value, channel) => value - before(channel)),
    );
    const epsilon = norm.float("epsilon", 1e-5);
    const published = source.norm?.float("epsilon", 1e-5) ?? 0; // the two add different constants to the variance
    put(
      variance,
      (old?.[3] ?? filled(1)).map((value) => value + published - epsilon),
    );
  }
}

async function outputOf(model: Model, data: Float32Array, shape: readonly number[]): Promise<Float32Array> {
  const session = await openSession(model, { inProcess: true });
  const name = model.graph.inputs[0]?.name ?? "";
  const outputs = await session.run({ [name]: { dtype: "float32", shape, data } });
  await session.close();
  return outputs[model.graph.outputs[0]?.name ?? ""]?.data as Float32Array;
}

function softmax(scores: Float32Array, classes: number): Float32Array {
  const powers = scores.map(Math.exp);
  const sum = (row: number): number => powers.subarray(row * classes, (row + 1) * classes).reduce((a, b) => a + b, 0);
  return powers.map((power, i) => power / sum(Math.floor(i / classes)));
}

const NETWORKS: readonly { file: string; name: string; options?: BuildOptions; classes?: number }[] = [
  { file: "resnet20-cifar10.onnx", name: "resnet-20" },
  { file: "squeezenet1.1-imagenet.onnx", name: "squeezenet" },
  { file: "mobilenetv2-imagenet.onnx", name: "mobilenet-v2" },
  { file: "dscnn-kws.onnx", name: "kws", classes: 12 }, // ends in Softmax
];

for (const { file, name, classes } of NETWORKS)
  describeWithData(`published weights in ${name}`, `models/${file}`, (path) => {
    it("give the published outputs", { timeout: 60_000 }, async () => {
      const published = await loadFile(path);
      const mine = buildArchitecture(name);
      await transplant(published, mine);
      const batch = await samplesFor(mine, 2).take([0, 1]);
      const { data, shape } = batch.fields["input"] ?? { data: [], shape: [] };
      const wanted = await outputOf(published, data as Float32Array, shape);
      const found = async (): Promise<Float32Array> => {
        const scores = await outputOf(mine, data as Float32Array, shape);
        return classes === undefined ? scores : softmax(scores, classes);
      };
      const largest = Math.max(...wanted.map(Math.abs));
      const error = (values: Float32Array): number =>
        Math.max(...values.map((value, i) => Math.abs(value - (wanted[i] ?? 0))));
      // Rounding of float32 through some dozens of layers; folded and unfolded normalization round differently.
      expect(error(await found())).toBeLessThan(2e-4 * largest);
      // Negative control: one layer's weights gone.
      const { node } = layersOf(mine)[2] as Layer;
      put(node.inputs[1], new Float32Array(node.inputs[1]?.tensor?.elements ?? 0));
      expect(error(await found())).toBeGreaterThan(0.01 * largest);
    });
  });
