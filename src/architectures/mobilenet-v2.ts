/** MobileNetV2 (Sandler et al. 2018): inverted residuals with linear bottlenecks. */
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
  zeroScale,
} from "./architecture.ts";
import { invertedResidual } from "./blocks/inverted-residual.ts";
import { convBn, dense, dropout, endNet, globalPool, startNet } from "./blocks/layers.ts";
import { roundChannels, scaleDepth, stridesFor } from "./blocks/widths.ts";

/** Expansion, channels, blocks and stride of each stage: table 2 of the paper. */
const STAGES = [
  { expand: 1, channels: 16, blocks: 1, stride: 1 },
  { expand: 6, channels: 24, blocks: 2, stride: 2 },
  { expand: 6, channels: 32, blocks: 3, stride: 2 },
  { expand: 6, channels: 64, blocks: 4, stride: 2 },
  { expand: 6, channels: 96, blocks: 3, stride: 1 },
  { expand: 6, channels: 160, blocks: 3, stride: 2 },
  { expand: 6, channels: 320, blocks: 1, stride: 1 },
] as const;

export const mobilenetV2: Architecture = defineArchitecture({
  name: "mobilenet-v2",
  summary: "Inverted residuals: 3.5 million parameters, 301 million MACs on 224x224 images.",
  options: z.object({
    input: inputShape([3, 224, 224]),
    classes: classCount(1000),
    width: multiplier("channels"),
    depth: multiplier("blocks per stage"),
    dropout: dropoutRatio(0.2),
    zeroScale,
  }),
  build(options, seed) {
    const image = imageOf("mobilenet-v2", options.input);
    const { net, input } = startNet(new Rng(seed), "mobilenet-v2", options.input);
    const strides = stridesFor([2, ...STAGES.map(({ stride }) => stride)], image.smallest);
    const scheme = "he-normal-out";
    let channels = roundChannels(32 * options.width);
    let x = convBn(net, "stem", input, image.channels, channels, {
      kernel: 3,
      stride: strides[0] ?? 1,
      activation: "relu6",
      scheme,
    });
    for (const [i, stage] of STAGES.entries()) {
      const outputs = roundChannels(stage.channels * options.width);
      for (let block = 0; block < scaleDepth(stage.blocks, options.depth); block++) {
        const expanded = channels * stage.expand;
        const stride = block === 0 ? (strides[i + 1] ?? 1) : 1;
        const zero = options.zeroScale;
        x = invertedResidual(net, `stage${i + 1}.${block + 1}`, x, channels, outputs, { expanded, stride, zero });
        channels = outputs;
      }
    }
    const last = roundChannels(1280 * Math.max(1, options.width)); // thinner networks keep the full width of features
    x = convBn(net, "head", x, channels, last, { kernel: 1, activation: "relu6", scheme });
    const features = dropout(net, "dropout", globalPool(net, "pool", x), options.dropout);
    return endNet(net, dense(net, "fc", features, last, options.classes, "normal-0.01"), options.classes);
  },
});
