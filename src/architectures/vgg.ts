/** VGG-small (Simonyan and Zisserman 2015, cut down for 32x32 images): plain stacks of 3x3 convolutions. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import type { Value } from "../ir/graph.ts";
import {
  type Architecture,
  classes,
  defineArchitecture,
  dropoutRatio,
  imageOf,
  inputShape,
  multiplier,
} from "./architecture.ts";
import { convBnRelu, dense, dropout, endNet, flatten, maxPool, startNet } from "./blocks/layers.ts";
import { roundChannels, scaleDepth } from "./blocks/widths.ts";

const STAGES = [128, 256, 512] as const;
const CONVOLUTIONS = 2;

export const vggSmall: Architecture = defineArchitecture({
  name: "vgg-small",
  summary: "Six 3x3 convolutions (128, 256, 512 channels) with BatchNorm and pooling: 4.7 million parameters.",
  options: z.object({
    input: inputShape([3, 32, 32]),
    classes,
    width: multiplier("channels"),
    depth: multiplier("blocks per stage"),
    dropout: dropoutRatio(0),
  }),
  build(options, seed) {
    const image = imageOf("vgg-small", options.input, 2 ** STAGES.length);
    const { net, input } = startNet(new Rng(seed), "vgg-small", options.input);
    let x: Value = input;
    let channels = image.channels;
    for (const [stage, published] of STAGES.entries()) {
      const name = `stage${stage + 1}`;
      const outputs = roundChannels(published * options.width);
      for (let i = 1; i <= scaleDepth(CONVOLUTIONS, options.depth); i++) {
        x = convBnRelu(net, `${name}.${i}`, x, channels, outputs);
        channels = outputs;
      }
      x = maxPool(net, `${name}.pool`, x);
    }
    const shrunk = (size: number): number => Math.floor(size / 2 ** STAGES.length);
    const features = channels * shrunk(image.height) * shrunk(image.width);
    const flat = dropout(net, "dropout", flatten(net, "flatten", x), options.dropout);
    return endNet(net, dense(net, "fc", flat, features, options.classes, "glorot-uniform"), options.classes);
  },
});
