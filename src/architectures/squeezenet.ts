/** SqueezeNet 1.1 (Iandola et al. 2016): fire modules and no dense layer. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import {
  type Architecture,
  classCount,
  defineArchitecture,
  dropoutRatio,
  imageOf,
  inputShape,
  multiplier,
} from "./architecture.ts";
import { fire } from "./blocks/fire.ts";
import { batchNorm, conv, dropout, endNet, globalPool, maxPool, relu, startNet } from "./blocks/layers.ts";
import { roundChannels, scaleDepth, stridesFor } from "./blocks/widths.ts";

/** Squeezed channels of the fire modules between the poolings; each module expands to four times as many, twice. */
const STAGES = [
  [16, 16],
  [32, 32],
  [48, 48, 64, 64],
] as const;
const EXPANSION = 4;
/** A 3×3 convolution and three poolings halve the image. */
const STRIDES = [2, 2, 2, 2] as const;

export const squeezenet: Architecture = defineArchitecture({
  name: "squeezenet",
  summary: "SqueezeNet 1.1, fire modules: 1.2 million parameters, 349 million MACs on 224x224 images.",
  options: z.object({
    input: inputShape([3, 224, 224]),
    classes: classCount(1000),
    width: multiplier("channels"),
    depth: multiplier("blocks per stage"),
    dropout: dropoutRatio(0.5),
    normalize: z
      .boolean()
      .default(false)
      .describe("normalize after every convolution, which training from scratch likes"),
  }),
  build(options, seed) {
    const image = imageOf("squeezenet", options.input, 16);
    const { net, input } = startNet(new Rng(seed), "squeezenet", options.input);
    const [stem = 1, ...pools] = stridesFor(STRIDES, image.smallest);
    let channels = roundChannels(64 * options.width);
    // The published network does not pad; a stem that keeps the image's size does.
    const first = {
      kernel: 3,
      stride: stem,
      pad: stem > 1 ? 0 : 1,
      bias: !options.normalize,
      scheme: "he-uniform",
    } as const;
    let x = conv(net, "stem", input, image.channels, channels, first);
    x = relu(net, "stem.relu", options.normalize ? batchNorm(net, "stem.bn", x, channels) : x);
    for (const [i, stage] of STAGES.entries()) {
      const stride = pools[i] ?? 1;
      if (stride > 1) x = maxPool(net, `stage${i + 1}.pool`, x, 3, { stride, ceil: true });
      for (let module = 0; module < scaleDepth(stage.length, options.depth); module++) {
        const squeezed = roundChannels((stage[Math.min(module, stage.length - 1)] ?? 16) * options.width);
        const expanded = squeezed * EXPANSION;
        const name = `stage${i + 1}.${module + 1}`;
        x = fire(net, name, x, channels, { squeezed, expanded, batchNorm: options.normalize });
        channels = 2 * expanded;
      }
    }
    x = dropout(net, "dropout", x, options.dropout);
    const scores = conv(net, "head", x, channels, options.classes, { kernel: 1, scheme: "normal-0.01" });
    return endNet(net, globalPool(net, "pool", relu(net, "head.relu", scores)), options.classes);
  },
});
