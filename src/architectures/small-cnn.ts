/** A small convolutional network for small images, with or without residual connections. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import type { Value } from "../ir/graph.ts";
import { type Architecture, classes, defineArchitecture, inputShape } from "./architecture.ts";
import { convBnRelu, dense, endNet, globalPool, maxPool, startNet } from "./blocks/layers.ts";
import { residualBlock } from "./blocks/residual.ts";

export const smallCnn: Architecture = defineArchitecture({
  name: "small-cnn",
  summary: "Convolution, BatchNorm and ReLU in stages that halve the image and double the channels: 66,000 parameters.",
  options: z.object({
    input: inputShape([1, 28, 28]),
    classes,
    width: z.int().min(1).default(16).describe("channels of the first stage"),
    stages: z.int().min(1).max(6).default(3).describe("stages; each halves the image and doubles the channels"),
    residual: z.boolean().default(false).describe("residual blocks in place of plain convolutions"),
  }),
  build(options, seed) {
    const { net, input } = startNet(new Rng(seed), "small-cnn", options.input);
    let channels = options.input[0] ?? 1;
    let x: Value = convBnRelu(net, "stem", input, channels, options.width);
    channels = options.width;
    for (let stage = 1; stage < options.stages; stage++) {
      const wider = channels * 2;
      const name = `stage${stage}`;
      x = convBnRelu(net, `${name}.1`, maxPool(net, `${name}.pool`, x), channels, wider);
      x = options.residual
        ? residualBlock(net, `${name}.2`, x, wider, wider)
        : convBnRelu(net, `${name}.2`, x, wider, wider);
      channels = wider;
    }
    const features = globalPool(net, "pool", x);
    return endNet(net, dense(net, "fc", features, channels, options.classes, "glorot-uniform"), options.classes);
  },
});
