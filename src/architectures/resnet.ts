/** Residual networks (He et al. 2016): those for 32x32 images (section 4.2), and those for ImageNet with basic or bottleneck blocks. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import type { Value } from "../ir/graph.ts";
import {
  type Architecture,
  classCount,
  classes,
  count,
  defineArchitecture,
  imageOf,
  inputShape,
  multiplier,
  zeroScale,
} from "./architecture.ts";
import { convBnRelu, dense, endNet, globalPool, maxPool, startNet } from "./blocks/layers.ts";
import { BOTTLENECK_EXPANSION, bottleneckBlock, residualBlock } from "./blocks/residual.ts";
import { scaleDepth, stridesFor } from "./blocks/widths.ts";

/** Depth 6n + 2: three stages of n blocks with 16, 32 and 64 channels and shortcuts without parameters. */
function smallResnet(blocks: number, parameters: string): Architecture {
  const depth = 6 * blocks + 2;
  return defineArchitecture({
    name: `resnet-${depth}`,
    summary: `Residual network for 32x32 images, ${depth} layers deep: ${parameters} parameters.`,
    options: z.object({
      input: inputShape([3, 32, 32]),
      classes,
      width: count(16, "channels of the first stage"),
      blocks: count(blocks, "blocks per stage; the depth is 6 x blocks + 2"),
      zeroScale,
    }),
    build(options, seed) {
      const image = imageOf(`resnet-${depth}`, options.input);
      const { net, input } = startNet(new Rng(seed), `resnet-${6 * options.blocks + 2}`, options.input);
      let x: Value = convBnRelu(net, "stem", input, image.channels, options.width);
      let channels = options.width;
      for (let stage = 0; stage < 3; stage++)
        for (let block = 0; block < options.blocks; block++) {
          const outputs = options.width * 2 ** stage;
          const stride = stage > 0 && block === 0 ? 2 : 1;
          const name = `stage${stage + 1}.${block + 1}`;
          x = residualBlock(net, name, x, channels, outputs, { stride, zero: options.zeroScale });
          channels = outputs;
        }
      const features = globalPool(net, "pool", x);
      return endNet(net, dense(net, "fc", features, channels, options.classes, "glorot-uniform"), options.classes);
    },
  });
}

export const resnet20: Architecture = smallResnet(3, "270,000");
export const resnet32: Architecture = smallResnet(5, "464,000");
export const resnet56: Architecture = smallResnet(9, "853,000");

interface LargeResnet {
  readonly depth: number;
  readonly blocks: readonly [number, number, number, number];
  readonly bottleneck: boolean;
  readonly size: string;
}

/** Four stages of 64, 128, 256 and 512 channels; in bottlenecks the 3×3 convolution has the stride. */
function largeResnet({ depth, blocks, bottleneck, size }: LargeResnet): Architecture {
  const name = `resnet-${depth}`;
  return defineArchitecture({
    name,
    summary: `Residual network with ${bottleneck ? "bottleneck" : "basic"} blocks: ${size} on 224x224 images.`,
    options: z.object({
      input: inputShape([3, 224, 224]),
      classes: classCount(1000),
      width: multiplier("channels"),
      depth: multiplier("blocks per stage"),
      zeroScale,
    }),
    build(options, seed) {
      const image = imageOf(name, options.input);
      const { net, input } = startNet(new Rng(seed), name, options.input);
      const [stem = 1, pool = 1, ...strides] = stridesFor([2, 2, 1, 2, 2, 2], image.smallest);
      const scheme = "he-normal-out";
      const widthOf = (stage: number): number => Math.max(1, Math.round(64 * 2 ** stage * options.width));
      let channels = widthOf(0);
      // Small images start with a 3×3 convolution that keeps their size, and without pooling.
      let x = convBnRelu(net, "stem", input, image.channels, channels, {
        kernel: stem > 1 ? 7 : 3,
        stride: stem,
        scheme,
      });
      if (pool > 1) x = maxPool(net, "stem.pool", x, 3, { stride: pool, pad: 1 });
      for (const [stage, published] of blocks.entries())
        for (let block = 0; block < scaleDepth(published, options.depth); block++) {
          const stride = block === 0 ? (strides[stage] ?? 1) : 1;
          const how = { stride, shortcut: "project", zero: options.zeroScale, scheme } as const;
          const add = bottleneck ? bottleneckBlock : residualBlock;
          x = add(net, `stage${stage + 1}.${block + 1}`, x, channels, widthOf(stage), how);
          channels = widthOf(stage) * (bottleneck ? BOTTLENECK_EXPANSION : 1);
        }
      const features = globalPool(net, "pool", x);
      return endNet(net, dense(net, "fc", features, channels, options.classes, "glorot-uniform"), options.classes);
    },
  });
}

export const resnet18: Architecture = largeResnet({
  depth: 18,
  blocks: [2, 2, 2, 2],
  bottleneck: false,
  size: "11.7 million parameters, 1.8 billion MACs",
});

export const resnet50: Architecture = largeResnet({
  depth: 50,
  blocks: [3, 4, 6, 3],
  bottleneck: true,
  size: "25.6 million parameters, 4.1 billion MACs",
});
