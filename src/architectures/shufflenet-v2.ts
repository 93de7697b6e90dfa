/** ShuffleNetV2 (Ma et al. 2018): units that split, filter and shuffle channels. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import { type Architecture, classCount, defineArchitecture, imageOf, inputShape, multiplier } from "./architecture.ts";
import { convBnRelu, dense, endNet, globalPool, maxPool, startNet } from "./blocks/layers.ts";
import { shuffleUnit } from "./blocks/shuffle-unit.ts";
import { scaleDepth, stridesFor } from "./blocks/widths.ts";

/** Units per stage, the first of which halves the image and all of which have twice the channels of the stage before. */
const STAGES = [4, 8, 4] as const;
const STEM = 24;

/** Channels of the first stage and of the last layer at the published widths; others are in proportion. */
const WIDTHS: ReadonlyMap<number, readonly [number, number]> = new Map([
  [0.5, [48, 1024]],
  [1, [116, 1024]],
  [1.5, [176, 1024]],
  [2, [244, 2048]],
]);

export const shufflenetV2: Architecture = defineArchitecture({
  name: "shufflenet-v2",
  summary:
    "Split, filter and shuffle channels: 2.3 million parameters, 145 million MACs; published widths are 0.5, 1, 1.5 and 2.",
  options: z.object({
    input: inputShape([3, 224, 224]),
    classes: classCount(1000),
    width: multiplier("channels"),
    depth: multiplier("blocks per stage"),
  }),
  build(options, seed) {
    const image = imageOf("shufflenet-v2", options.input);
    const { net, input } = startNet(new Rng(seed), "shufflenet-v2", options.input);
    const [first, last] = WIDTHS.get(options.width) ?? [
      Math.max(2, 2 * Math.round(58 * options.width)),
      Math.round(1024 * Math.max(1, options.width)),
    ];
    const [stem = 1, pool = 1, ...strides] = stridesFor([2, 2, ...STAGES.map(() => 2)], image.smallest);
    const halved = (size: readonly [number, number], stride: number): [number, number] => [
      Math.ceil(size[0] / stride),
      Math.ceil(size[1] / stride),
    ];
    let size = halved(halved([image.height, image.width], stem), pool);
    let channels = STEM;
    let x = convBnRelu(net, "stem", input, image.channels, channels, {
      kernel: 3,
      stride: stem,
      scheme: "he-normal-out",
    });
    if (pool > 1) x = maxPool(net, "stem.pool", x, 3, { stride: pool, pad: 1 });
    for (const [stage, units] of STAGES.entries())
      for (let unit = 0; unit < scaleDepth(units, options.depth); unit++) {
        const outputs = first * 2 ** stage;
        // The unit that changes the number of channels computes both halves, whether or not it halves the image.
        const stride = unit === 0 ? (strides[stage] ?? 1) : 1;
        size = halved(size, stride);
        x = shuffleUnit(net, `stage${stage + 1}.${unit + 1}`, x, channels, outputs, { stride, size });
        channels = outputs;
      }
    x = convBnRelu(net, "head", x, channels, last, { kernel: 1, scheme: "he-normal-out" });
    const features = globalPool(net, "pool", x);
    return endNet(net, dense(net, "fc", features, last, options.classes, "glorot-uniform"), options.classes);
  },
});
