/** A recurrent language model (Mikolov et al. 2010, Zaremba et al. 2014): embedding, LSTM layers, the next token at every position. */
import { z } from "zod";
import { Rng } from "../base/rng.ts";
import { type Architecture, count, defineArchitecture, dropoutRatio, tokenOptions } from "./architecture.ts";
import { dropout, endNet, linear, newNet, tokenInput, transpose } from "./blocks/layers.ts";
import { lstm } from "./blocks/recurrent.ts";
import { embedding } from "./blocks/transformer.ts";

export const lstmLm: Architecture = defineArchitecture({
  name: "lstm-lm",
  summary: "LSTM language model for text: 2 layers of width 128.",
  options: z.object({
    ...tokenOptions({ vocabulary: 65, sequence: 64 }),
    layers: count(2, "layers"),
    width: count(128, "features per position"),
    embedding: z.int().min(1).optional().describe("features per token (default: the width)"),
    dropout: dropoutRatio(0),
  }),
  build(options, seed) {
    const { vocabulary, sequence, width, layers, dropout: drop } = options;
    const net = newNet(new Rng(seed), "lstm-lm");
    let features = options.embedding ?? width;
    const tokens = embedding(
      net,
      "tokens",
      tokenInput(net, "input_ids", sequence),
      vocabulary,
      features,
      "uniform-0.1",
    );
    // Steps of time come first: (sequence, n, features).
    let x = transpose(net, "time", dropout(net, "drop", tokens, drop), [1, 0, 2]);
    for (let layer = 1; layer <= layers; layer++) {
      x = dropout(net, `layer${layer}.drop`, lstm(net, `layer${layer}`, x, features, width), drop);
      features = width;
    }
    const samples = transpose(net, "samples", x, [1, 0, 2]);
    return endNet(
      net,
      linear(net, "head", samples, width, vocabulary, { scheme: "glorot-uniform" }),
      sequence,
      vocabulary,
    );
  },
});
