/** Residual networks for 32×32 images (He et al. 2016, section 4.2): depth 6n + 2, widths 16, 32 and 64. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import type { Value } from "../ir/graph.ts";
import { type Architecture, classes, defineArchitecture, inputShape } from "./architecture.ts";
import { convBnRelu, dense, endNet, globalPool, startNet } from "./blocks/layers.ts";
import { residualBlock } from "./blocks/residual.ts";

export const resnet20: Architecture = defineArchitecture({
  name: "resnet-20",
  summary: "Residual network for 32x32 images, 20 layers deep: 270,000 parameters.",
  options: z.object({
    input: inputShape([3, 32, 32]),
    classes,
    width: z.int().min(1).default(16).describe("channels of the first stage"),
    blocks: z.int().min(1).default(3).describe("residual blocks per stage; the depth is 6 x blocks + 2"),
  }),
  build(options, seed) {
    const { net, input } = startNet(new Rng(seed), `resnet-${6 * options.blocks + 2}`, options.input);
    let x: Value = convBnRelu(net, "stem", input, options.input[0] ?? 3, options.width);
    let channels = options.width;
    for (let stage = 0; stage < 3; stage++)
      for (let block = 0; block < options.blocks; block++) {
        const outputs = options.width * 2 ** stage;
        const stride = stage > 0 && block === 0 ? 2 : 1;
        x = residualBlock(net, `stage${stage + 1}.${block + 1}`, x, channels, outputs, { stride });
        channels = outputs;
      }
    const features = globalPool(net, "pool", x);
    return endNet(net, dense(net, "fc", features, channels, options.classes, "glorot-uniform"), options.classes);
  },
});
