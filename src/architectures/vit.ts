/** Vision transformer (Dosovitskiy et al. 2021) in the tiny size of DeiT (Touvron et al. 2021). */
import { z } from "zod";
import { PareError } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import {
  type Architecture,
  classCount,
  count,
  defineArchitecture,
  dropoutRatio,
  headsOf,
  imageOf,
  inputShape,
} from "./architecture.ts";
import { dense, dropout, endNet, layerNorm, startNet } from "./blocks/layers.ts";
import { classPosition, patchEmbedding } from "./blocks/patches.ts";
import { firstPosition, positions, transformerBlock } from "./blocks/transformer.ts";

const EPSILON = 1e-6;
/** Patches that a side has at least where nobody says how large they are. */
const LEAST_PATCHES = 7;

/** Largest of 16, 8, 4 and 2 pixels that leaves enough patches: 16 on 224×224 images, 4 on 32×32. */
function patchFor(size: number): number {
  return [16, 8, 4, 2].find((patch) => size % patch === 0 && size / patch >= LEAST_PATCHES) ?? 1;
}

export const vitTiny: Architecture = defineArchitecture({
  name: "vit-tiny",
  summary: "Vision transformer, 12 layers of width 192: 5.7 million parameters, 1.3 billion MACs on 224x224 images.",
  options: z.object({
    input: inputShape([3, 224, 224]),
    classes: classCount(1000),
    patch: z.int().min(1).optional().describe("pixels of a patch's side (default: 16, smaller on small images)"),
    layers: count(12, "layers"),
    width: count(192, "features per position"),
    heads: count(3, "attention heads; they divide the width"),
    dropout: dropoutRatio(0),
  }),
  build(options, seed) {
    const { width, layers, dropout: drop } = options;
    const image = imageOf("vit-tiny", options.input);
    const heads = headsOf("vit-tiny", width, options.heads);
    const size = options.patch ?? patchFor(image.smallest);
    if (image.height % size !== 0 || image.width % size !== 0)
      throw new PareError("bad-option", "The patches do not cover the image", {
        where: "vit-tiny patch",
        found: `${size} pixels on ${image.height}x${image.width}`,
        expected: "a size that divides height and width",
      });
    const patches = (image.height / size) * (image.width / size);
    const length = patches + 1;
    const { net, input } = startNet(new Rng(seed), "vit-tiny", options.input);
    const embedded = patchEmbedding(net, "patches", input, image.channels, width, { size, patches });
    let x = positions(net, "positions", classPosition(net, "class", embedded), length, width);
    x = dropout(net, "drop", x, drop);
    for (let layer = 1; layer <= layers; layer++)
      x = transformerBlock(net, `block${layer}`, x, { width, heads, length, drop, norm: "pre", epsilon: EPSILON });
    const features = firstPosition(net, "first", layerNorm(net, "norm", x, width, EPSILON), width);
    return endNet(net, dense(net, "head", features, width, options.classes, "truncated-0.02"), options.classes);
  },
});
