/** ConvNeXt (Liu et al. 2022): a convolutional network modernized after vision transformers. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import { type Architecture, classCount, defineArchitecture, imageOf, inputShape, multiplier } from "./architecture.ts";
import { channelNorm, convNextBlock } from "./blocks/convnext-block.ts";
import { conv, dense, endNet, globalPool, layerNorm, startNet } from "./blocks/layers.ts";
import { roundChannels, scaleDepth, stridesFor } from "./blocks/widths.ts";

/** Channels and blocks of each stage of ConvNeXt-T; every stage but the first begins by halving the image. */
const STAGES = [
  { channels: 96, blocks: 3 },
  { channels: 192, blocks: 3 },
  { channels: 384, blocks: 9 },
  { channels: 768, blocks: 3 },
] as const;
/** The stem makes one pixel of 4×4. */
const STRIDES = [4, 2, 2, 2] as const;

export const convnextTiny: Architecture = defineArchitecture({
  name: "convnext-tiny",
  summary: "Large depthwise kernels, layer normalization and GELU: 28.6 million parameters, 4.5 billion MACs.",
  options: z.object({
    input: inputShape([3, 224, 224]),
    classes: classCount(1000),
    width: multiplier("channels"),
    depth: multiplier("blocks per stage"),
  }),
  build(options, seed) {
    const image = imageOf("convnext-tiny", options.input);
    const { net, input } = startNet(new Rng(seed), "convnext-tiny", options.input);
    const strides = stridesFor(STRIDES, image.smallest);
    const scheme = "truncated-0.02";
    let x = input;
    let channels = image.channels;
    for (const [i, stage] of STAGES.entries()) {
      const outputs = roundChannels(stage.channels * options.width);
      const stride = strides[i] ?? 1;
      // Patches side by side; where a small image keeps its size, a 3×3 neighbourhood.
      const patch = { kernel: stride > 1 ? stride : 3, stride, pad: stride > 1 ? 0 : 1, scheme } as const;
      const name = i === 0 ? "stem" : `stage${i + 1}.shrink`;
      x = conv(
        net,
        `${name}.conv`,
        i === 0 ? x : channelNorm(net, `${name}.norm`, x, channels),
        channels,
        outputs,
        patch,
      );
      if (i === 0) x = channelNorm(net, "stem.norm", x, outputs);
      for (let block = 1; block <= scaleDepth(stage.blocks, options.depth); block++)
        x = convNextBlock(net, `stage${i + 1}.${block}`, x, outputs);
      channels = outputs;
    }
    const features = layerNorm(net, "norm", globalPool(net, "pool", x), channels, 1e-6);
    return endNet(net, dense(net, "fc", features, channels, options.classes, scheme), options.classes);
  },
});
