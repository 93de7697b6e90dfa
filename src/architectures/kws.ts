/** DS-CNN for keyword spotting (Zhang et al. 2017), in the size of the MLPerf Tiny benchmark. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import {
  type Architecture,
  classCount,
  count,
  defineArchitecture,
  dropoutRatio,
  imageOf,
  inputShape,
} from "./architecture.ts";
import { convBnRelu, dense, dropout, endNet, globalPool, startNet } from "./blocks/layers.ts";
import { separableConv } from "./blocks/separable.ts";

/** Frames and coefficients under the first kernel. */
const KERNEL = [10, 4] as const;
const STRIDE = 2;

/** Zeros on both sides so that a strided window covers everything, the odd one at the end (TensorFlow's "same"). */
function samePad(size: number, kernel: number): [number, number] {
  const total = Math.max(0, (Math.ceil(size / STRIDE) - 1) * STRIDE + kernel - size);
  return [Math.floor(total / 2), Math.ceil(total / 2)];
}

export const kws: Architecture = defineArchitecture({
  name: "kws",
  summary: "Depthwise separable keyword spotter (DS-CNN) on 49x10 features: 23,000 parameters, 2.7 million MACs.",
  options: z.object({
    input: inputShape([1, 49, 10]),
    classes: classCount(12),
    width: count(64, "channels of the first stage"),
    blocks: count(4, "blocks"),
    dropout: dropoutRatio(0.2),
  }),
  build(options, seed) {
    const { width, blocks, dropout: drop } = options;
    // Features without an axis of channels are one channel.
    const shape = options.input.length === 2 ? [1, ...options.input] : options.input;
    const image = imageOf("kws", shape);
    const { net, input } = startNet(new Rng(seed), "kws", shape);
    const [top, bottom] = samePad(image.height, KERNEL[0]);
    const [left, right] = samePad(image.width, KERNEL[1]);
    let x = convBnRelu(net, "stem", input, image.channels, width, {
      kernel: KERNEL,
      stride: STRIDE,
      pad: [top, left, bottom, right],
    });
    x = dropout(net, "stem.drop", x, drop);
    for (let block = 1; block <= blocks; block++) x = separableConv(net, `block${block}`, x, width, width);
    const features = globalPool(net, "pool", dropout(net, "drop", x, drop));
    return endNet(net, dense(net, "fc", features, width, options.classes, "glorot-uniform"), options.classes);
  },
});
