/** A small BERT (Devlin et al. 2019; Turc et al. 2019): an encoder that classifies sequences or each of their tokens. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import {
  type Architecture,
  classCount,
  count,
  defineArchitecture,
  dropoutRatio,
  headsOf,
  tokenOptions,
} from "./architecture.ts";
import { activate, add, dense, dropout, endNet, layerNorm, linear, newNet, tokenInput } from "./blocks/layers.ts";
import { embedding, firstPosition, paddingMask, positions, transformerBlock } from "./blocks/transformer.ts";

const EPSILON = 1e-12; // of layer normalization, as published
const TOKEN_TYPES = 2;

export const bertMini: Architecture = defineArchitecture({
  name: "bert-mini",
  summary:
    "Transformer encoder for text, 4 layers of width 256: 11.1 million parameters, 7.8 of them for 30,522 tokens.",
  options: z.object({
    ...tokenOptions({ vocabulary: 30_522, sequence: 128 }),
    classes: classCount(2),
    head: z
      .enum(["sequence", "token"])
      .default("sequence")
      .describe("what is classified: the sequence, or every token"),
    layers: count(4, "layers"),
    width: count(256, "features per position"),
    heads: count(4, "attention heads; they divide the width"),
    dropout: dropoutRatio(0.1),
  }),
  build(options, seed) {
    const { vocabulary, sequence, width, layers, classes, dropout: drop } = options;
    const heads = headsOf("bert-mini", width, options.heads);
    const net = newNet(new Rng(seed), "bert-mini");
    const ids = tokenInput(net, "input_ids", sequence);
    const real = tokenInput(net, "attention_mask", sequence);
    const types = tokenInput(net, "token_type_ids", sequence);
    let x = embedding(net, "tokens", ids, vocabulary, width);
    x = positions(net, "positions", x, sequence, width);
    x = add(net, "types.add", x, embedding(net, "types", types, TOKEN_TYPES, width));
    x = dropout(net, "drop", layerNorm(net, "norm", x, width, EPSILON), drop);
    const mask = paddingMask(net, real, sequence);
    const how = { width, heads, length: sequence, mask, drop, norm: "post", epsilon: EPSILON } as const;
    for (let layer = 1; layer <= layers; layer++) x = transformerBlock(net, `block${layer}`, x, how);
    if (options.head === "token")
      return endNet(net, linear(net, "head", dropout(net, "head.drop", x, drop), width, classes), sequence, classes);
    const first = firstPosition(net, "first", x, width);
    const pooled = activate(net, "pooler.tanh", dense(net, "pooler", first, width, width, "truncated-0.02"), "tanh");
    const kept = dropout(net, "head.drop", pooled, drop);
    return endNet(net, dense(net, "head", kept, width, classes, "truncated-0.02"), classes);
  },
});
