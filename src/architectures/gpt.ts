/** A small GPT (Radford et al. 2019): a decoder that predicts the next token at every position. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import { type Architecture, count, defineArchitecture, dropoutRatio, headsOf, tokenOptions } from "./architecture.ts";
import { dropout, endNet, layerNorm, linear, newNet, tokenInput, transpose } from "./blocks/layers.ts";
import { causalMask, embedding, positions, transformerBlock } from "./blocks/transformer.ts";

export const gptNano: Architecture = defineArchitecture({
  name: "gpt-nano",
  summary: "Decoder-only transformer for text: 4 layers of width 128; 818,000 parameters on 65 characters.",
  options: z.object({
    ...tokenOptions({ vocabulary: 65, sequence: 128 }),
    layers: count(4, "layers"),
    width: count(128, "features per position"),
    heads: count(4, "attention heads; they divide the width"),
    dropout: dropoutRatio(0),
    tied: z.boolean().default(true).describe("the output layer is the table of embeddings"),
  }),
  build(options, seed) {
    const { vocabulary, sequence, width, layers, dropout: drop } = options;
    const heads = headsOf("gpt-nano", width, options.heads);
    const net = newNet(new Rng(seed), "gpt-nano");
    const tokens = embedding(net, "tokens", tokenInput(net, "input_ids", sequence), vocabulary, width);
    let x = dropout(net, "drop", positions(net, "positions", tokens, sequence, width), drop);
    const mask = causalMask(net, sequence);
    for (let layer = 1; layer <= layers; layer++)
      x = transformerBlock(net, `block${layer}`, x, {
        width,
        heads,
        length: sequence,
        mask,
        drop,
        norm: "pre",
        depth: layers,
      });
    x = layerNorm(net, "norm", x, width);
    const table = net.model.graph.initializers.get("tokens.weight");
    const logits =
      options.tied && table
        ? net.b.op("MatMul", [x, transpose(net, "tokens.transposed", table, [1, 0])], { name: "head" })
        : linear(net, "head", x, width, vocabulary, { bias: false });
    return endNet(net, logits, sequence, vocabulary);
  },
});
