/** MobileNet (Howard et al. 2017): a stack of depthwise separable convolutions. */
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
import { convBnRelu, dense, dropout, endNet, globalPool, startNet } from "./blocks/layers.ts";
import { separableConv } from "./blocks/separable.ts";
import { roundChannels, scaleDepth, stridesFor } from "./blocks/widths.ts";

/** Channels, blocks and stride of each stage: table 1 of the paper. */
const STAGES = [
  { channels: 64, blocks: 1, stride: 1 },
  { channels: 128, blocks: 2, stride: 2 },
  { channels: 256, blocks: 2, stride: 2 },
  { channels: 512, blocks: 6, stride: 2 },
  { channels: 1024, blocks: 2, stride: 2 },
] as const;

export const mobilenetV1: Architecture = defineArchitecture({
  name: "mobilenet-v1",
  summary: "Depthwise separable convolutions: 4.2 million parameters, 569 million MACs on 224x224 images.",
  options: z.object({
    input: inputShape([3, 224, 224]),
    classes: classCount(1000),
    width: multiplier("channels"),
    depth: multiplier("blocks per stage"),
    dropout: dropoutRatio(0.001),
  }),
  build(options, seed) {
    const image = imageOf("mobilenet-v1", options.input);
    const { net, input } = startNet(new Rng(seed), "mobilenet-v1", options.input);
    const strides = stridesFor([2, ...STAGES.map(({ stride }) => stride)], image.smallest);
    let channels = roundChannels(32 * options.width);
    const stem = { kernel: 3, stride: strides[0] ?? 1, scheme: "he-normal-out" } as const;
    let x = convBnRelu(net, "stem", input, image.channels, channels, stem);
    for (const [i, stage] of STAGES.entries()) {
      const outputs = roundChannels(stage.channels * options.width);
      for (let block = 0; block < scaleDepth(stage.blocks, options.depth); block++) {
        const stride = block === 0 ? (strides[i + 1] ?? 1) : 1;
        x = separableConv(net, `stage${i + 1}.${block + 1}`, x, channels, outputs, { stride });
        channels = outputs;
      }
    }
    const features = dropout(net, "dropout", globalPool(net, "pool", x), options.dropout);
    return endNet(net, dense(net, "fc", features, channels, options.classes, "normal-0.01"), options.classes);
  },
});
