/** MobileNetV3 (Howard et al. 2019), large and small: inverted residuals with squeeze-and-excite and hard swish. */
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
import { activate, convBn, dense, dropout, endNet, globalPool, startNet } from "./blocks/layers.ts";
import { roundChannels, scaleDepth, stridesFor } from "./blocks/widths.ts";

/** Kernel, expanded channels, output channels, squeeze-and-excite, activation, stride. */
type Row = readonly [number, number, number, boolean, "relu" | "hard-swish", number];

/** Table 1 of the paper, as published in code. */
const LARGE: readonly Row[] = [
  [3, 16, 16, false, "relu", 1],
  [3, 64, 24, false, "relu", 2],
  [3, 72, 24, false, "relu", 1],
  [5, 72, 40, true, "relu", 2],
  [5, 120, 40, true, "relu", 1],
  [5, 120, 40, true, "relu", 1],
  [3, 240, 80, false, "hard-swish", 2],
  [3, 200, 80, false, "hard-swish", 1],
  [3, 184, 80, false, "hard-swish", 1],
  [3, 184, 80, false, "hard-swish", 1],
  [3, 480, 112, true, "hard-swish", 1],
  [3, 672, 112, true, "hard-swish", 1],
  [5, 672, 160, true, "hard-swish", 2],
  [5, 960, 160, true, "hard-swish", 1],
  [5, 960, 160, true, "hard-swish", 1],
];

/** Table 2 of the paper. */
const SMALL: readonly Row[] = [
  [3, 16, 16, true, "relu", 2],
  [3, 72, 24, false, "relu", 2],
  [3, 88, 24, false, "relu", 1],
  [5, 96, 40, true, "hard-swish", 2],
  [5, 240, 40, true, "hard-swish", 1],
  [5, 240, 40, true, "hard-swish", 1],
  [5, 120, 48, true, "hard-swish", 1],
  [5, 144, 48, true, "hard-swish", 1],
  [5, 288, 96, true, "hard-swish", 2],
  [5, 576, 96, true, "hard-swish", 1],
  [5, 576, 96, true, "hard-swish", 1],
];

const EPSILON = 1e-3; // of batch normalization, as published

/** Rows of one number of output channels are a stage: more blocks repeat its last row, fewer leave rows out. */
function scaledRows(rows: readonly Row[], depth: number): Row[] {
  const widths = new Set(rows.map(([, , channels]) => channels));
  const stages = [...widths].map((width) => rows.filter(([, , channels]) => channels === width));
  return stages.flatMap((stage) =>
    Array.from({ length: scaleDepth(stage.length, depth) }, (_, i) => stage[Math.min(i, stage.length - 1)] as Row),
  );
}

function mobilenetV3(size: "large" | "small", rows: readonly Row[], hidden: number, summary: string): Architecture {
  const name = `mobilenet-v3-${size}`;
  return defineArchitecture({
    name,
    summary,
    options: z.object({
      input: inputShape([3, 224, 224]),
      classes: classCount(1000),
      width: multiplier("channels"),
      depth: multiplier("blocks per stage"),
      dropout: dropoutRatio(0.2),
      zeroScale,
    }),
    build(options, seed) {
      const image = imageOf(name, options.input);
      const { net, input } = startNet(new Rng(seed), name, options.input);
      const wide = (channels: number): number => roundChannels(channels * options.width);
      const blocks = scaledRows(rows, options.depth);
      const strides = stridesFor([2, ...blocks.map(([, , , , , stride]) => stride)], image.smallest);
      const ends = { activation: "hard-swish", epsilon: EPSILON, scheme: "he-normal-out" } as const;
      let channels = wide(16);
      let x = convBn(net, "stem", input, image.channels, channels, { kernel: 3, stride: strides[0] ?? 1, ...ends });
      for (const [i, [kernel, expansion, outputs, squeeze, activation]] of blocks.entries()) {
        const expanded = wide(expansion);
        const squeezed = roundChannels(Math.floor(expanded / 4));
        x = invertedResidual(net, `block${i + 1}`, x, channels, wide(outputs), {
          expanded,
          kernel,
          stride: strides[i + 1] ?? 1,
          activation,
          squeeze: squeeze ? { squeezed, gate: "hard-sigmoid" } : undefined,
          zero: options.zeroScale,
          epsilon: EPSILON,
        });
        channels = wide(outputs);
      }
      const last = 6 * channels;
      x = convBn(net, "head", x, channels, last, { kernel: 1, ...ends });
      const pooled = globalPool(net, "pool", x);
      const features = activate(
        net,
        "fc1.hard-swish",
        dense(net, "fc1", pooled, last, hidden, "normal-0.01"),
        "hard-swish",
      );
      const kept = dropout(net, "dropout", features, options.dropout);
      return endNet(net, dense(net, "fc2", kept, hidden, options.classes, "normal-0.01"), options.classes);
    },
  });
}

export const mobilenetV3Large: Architecture = mobilenetV3(
  "large",
  LARGE,
  1280,
  "Inverted residuals with squeeze-and-excite: 5.5 million parameters, 217 million MACs on 224x224 images.",
);

export const mobilenetV3Small: Architecture = mobilenetV3(
  "small",
  SMALL,
  1024,
  "Inverted residuals with squeeze-and-excite: 2.5 million parameters, 56 million MACs on 224x224 images.",
);
