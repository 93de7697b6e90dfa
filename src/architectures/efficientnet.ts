/** EfficientNet (Tan and Le 2019): B0, and the compound scaling of width, depth and resolution to B1 … B7. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import {
  type Architecture,
  classCount,
  defineArchitecture,
  imageOf,
  inputShape,
  multiplier,
  zeroScale,
} from "./architecture.ts";
import { invertedResidual } from "./blocks/inverted-residual.ts";
import { convBn, dense, dropout, endNet, globalPool, startNet } from "./blocks/layers.ts";
import { roundChannels, scaleDepth, stridesFor } from "./blocks/widths.ts";

/** Expansion, kernel, stride, channels and blocks of each stage of B0: table 1 of the paper. */
const STAGES = [
  { expand: 1, kernel: 3, stride: 1, channels: 16, blocks: 1 },
  { expand: 6, kernel: 3, stride: 2, channels: 24, blocks: 2 },
  { expand: 6, kernel: 5, stride: 2, channels: 40, blocks: 2 },
  { expand: 6, kernel: 3, stride: 2, channels: 80, blocks: 3 },
  { expand: 6, kernel: 5, stride: 1, channels: 112, blocks: 3 },
  { expand: 6, kernel: 5, stride: 2, channels: 192, blocks: 4 },
  { expand: 6, kernel: 3, stride: 1, channels: 320, blocks: 1 },
] as const;

/** Width, depth, image size and dropout of B0 … B7, as released: near 1.1^φ, 1.2^φ and 224·1.15^φ. */
const SCALES = [
  { width: 1, depth: 1, size: 224, dropout: 0.2 },
  { width: 1, depth: 1.1, size: 240, dropout: 0.2 },
  { width: 1.1, depth: 1.2, size: 260, dropout: 0.3 },
  { width: 1.2, depth: 1.4, size: 300, dropout: 0.3 },
  { width: 1.4, depth: 1.8, size: 380, dropout: 0.4 },
  { width: 1.6, depth: 2.2, size: 456, dropout: 0.4 },
  { width: 1.8, depth: 2.6, size: 528, dropout: 0.5 },
  { width: 2, depth: 3.1, size: 600, dropout: 0.5 },
] as const;

export const efficientnetB0: Architecture = defineArchitecture({
  name: "efficientnet-b0",
  summary: "Inverted residuals with squeeze-and-excite and swish: 5.3 million parameters; phi scales it up to B7.",
  options: z.object({
    input: inputShape(),
    classes: classCount(1000),
    phi: z.int().min(0).max(7).default(0).describe("compound scaling: 0 for B0 to 7 for B7"),
    width: multiplier("channels"),
    depth: multiplier("blocks per stage"),
    dropout: z.number().min(0).lt(1).optional().describe("share of values dropped while training (default: by phi)"),
    zeroScale,
  }),
  build(options, seed) {
    const scale = SCALES[options.phi] ?? SCALES[0];
    const shape = options.input ?? [3, scale.size, scale.size];
    const image = imageOf("efficientnet-b0", shape);
    const { net, input } = startNet(new Rng(seed), `efficientnet-b${options.phi}`, shape);
    const wide = (channels: number): number => roundChannels(channels * scale.width * options.width);
    const strides = stridesFor([2, ...STAGES.map(({ stride }) => stride)], image.smallest);
    const ends = { activation: "swish", scheme: "he-normal-out" } as const;
    let channels = wide(32);
    let x = convBn(net, "stem", input, image.channels, channels, { kernel: 3, stride: strides[0] ?? 1, ...ends });
    for (const [i, stage] of STAGES.entries())
      for (let block = 0; block < scaleDepth(stage.blocks, scale.depth * options.depth); block++) {
        const outputs = wide(stage.channels);
        x = invertedResidual(net, `stage${i + 1}.${block + 1}`, x, channels, outputs, {
          expanded: channels * stage.expand,
          kernel: stage.kernel,
          stride: block === 0 ? (strides[i + 1] ?? 1) : 1,
          activation: "swish",
          // A quarter of the block's input channels, not of the expanded ones.
          squeeze: { squeezed: Math.max(1, Math.floor(channels / 4)), activation: "swish" },
          zero: options.zeroScale,
        });
        channels = outputs;
      }
    const last = 4 * channels;
    x = convBn(net, "head", x, channels, last, { kernel: 1, ...ends });
    const features = dropout(net, "dropout", globalPool(net, "pool", x), options.dropout ?? scale.dropout);
    return endNet(net, dense(net, "fc", features, last, options.classes, "normal-0.01"), options.classes);
  },
});
