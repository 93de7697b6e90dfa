/** Multilayer perceptrons: fully connected layers with ReLU between them. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { type Architecture, classes, defineArchitecture, inputShape } from "./architecture.ts";
import { dense, endNet, flatten, relu, startNet } from "./blocks/layers.ts";

function buildMlp(
  name: string,
  input: readonly number[],
  hidden: readonly number[],
  outputs: number,
  seed: number,
): Model {
  const { net, input: start } = startNet(new Rng(seed), name, input);
  let x: Value = input.length > 1 ? flatten(net, "flatten", start) : start;
  let width = input.reduce((n, size) => n * size, 1);
  for (const [i, size] of hidden.entries()) {
    x = relu(net, `relu${i + 1}`, dense(net, `fc${i + 1}`, x, width, size));
    width = size;
  }
  return endNet(net, dense(net, `fc${hidden.length + 1}`, x, width, outputs, "glorot-uniform"), outputs);
}

const widths = (fallback: readonly number[]): z.ZodType<number[]> => {
  const fromText = (text: unknown): unknown => (typeof text === "string" ? text.split("-").map(Number) : text);
  const schema = z.preprocess(fromText, z.array(z.int().positive()));
  return schema.default([...fallback]).describe("widths of the hidden layers, such as 300-100") as unknown as z.ZodType<
    number[]
  >;
};

export const mlp: Architecture = defineArchitecture({
  name: "mlp",
  summary: "Fully connected layers with ReLU between them.",
  options: z.object({ input: inputShape([1, 28, 28]), classes, hidden: widths([128, 64]) }),
  build: (options, seed) => buildMlp("mlp", options.input, options.hidden, options.classes, seed),
});

/** LeCun et al. 1998; the network of Han et al. 2015: 266,610 parameters on 28×28 images. */
export const lenet300100: Architecture = defineArchitecture({
  name: "lenet-300-100",
  summary: "Two hidden layers of 300 and 100 units: 266,610 parameters on 28x28 images.",
  options: z.object({ input: inputShape([1, 28, 28]), classes }),
  build: (options, seed) => buildMlp("lenet-300-100", options.input, [300, 100], options.classes, seed),
});
