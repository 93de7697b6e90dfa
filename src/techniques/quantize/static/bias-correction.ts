/** Biases that take back what the rounding of the weights adds to each channel on average. */
import type { Model } from "../../../ir/model.ts";
import type { Kernels } from "../../../kernels/types.ts";
import type { FeedStream } from "../../../run/feed-stream.ts";
import { type ChannelMoments, channelReducer } from "../../../run/reducers.ts";
import { engine } from "../../engine.ts";
import type { Context } from "../../technique.ts";
import type { LinearCodes } from "./linear-weights.ts";
import type { LinearNode, QdqPlan } from "./qdq-plan.ts";

/** E[x] of each channel of what layers read, by the name of the value. */
export type ChannelMeans = ReadonlyMap<string, Float64Array>;

/** Means over samples: one pass. */
export async function sampleMeans(
  model: Model,
  plan: QdqPlan,
  stream: FeedStream,
  kernels: Kernels,
  { threads, signal }: Context,
): Promise<ChannelMeans> {
  const axes = new Map(
    plan.linear.map(({ node, traits }) => [node.inputs[0]?.name ?? "", traits?.linear?.startsWith("conv") ? 1 : -1]),
  );
  const { tap } = await engine();
  const seen = await tap<ChannelMoments>(
    model,
    [...axes.keys()],
    stream,
    (name) => channelReducer(kernels, axes.get(name)),
    { threads, signal },
  );
  return new Map(Array.from(seen, ([name, { mean }]) => [name, mean]));
}

/**
 * b_o ← b_o − Σ_j (Ŵ − W)_oj E[x_j] over the channels, and the taps of a kernel, that output o reads: the mean of every channel is that
 * of the float model (but at borders that are padded). Returns the layer with its new biases, or why it stays.
 * Paper: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721).
 */
export function correctedBiases(
  { node, traits, channelAxis }: LinearNode,
  codes: LinearCodes,
  means: ChannelMeans,
): LinearCodes | string {
  const mean = means.get(node.inputs[0]?.name ?? "");
  if (!mean) return "the means of its input are not known";
  if (!codes.biases) return "it has no bias to correct";
  if (traits?.linear !== "conv" && traits?.linear !== "gemm") return "its outputs do not all read the same taps";
  const { shape, weights, layout } = codes;
  const conv = traits.linear === "conv";
  const outputs = shape[channelAxis] ?? 1;
  const inner = conv ? shape.slice(2).reduce((product, size) => product * size, 1) : 1;
  const perGroup = conv ? (shape[1] ?? 1) : (shape[1 - channelAxis] ?? 1);
  const groups = conv ? node.int("group", 1) : 1;
  if (mean.length !== perGroup * groups) return "its input has other channels than its weights";
  const added = new Float64Array(outputs);
  for (const [at, w] of weights.entries()) {
    // (o, i/g, kh, kw), or a matrix either way round
    const [o, i] = conv
      ? [Math.floor(at / (perGroup * inner)), Math.floor(at / inner) % perGroup]
      : channelAxis === 0
        ? [Math.floor(at / perGroup), at % perGroup]
        : [at % outputs, Math.floor(at / outputs)];
    const scale = codes.scales[Math.floor(at / layout.inner) % layout.channels] as number;
    const group = Math.floor((o * groups) / outputs);
    const change = (codes.codes[at] as number) * scale - w;
    added[o] = (added[o] as number) + change * (mean[group * perGroup + i] as number);
  }
  return { ...codes, biases: codes.biases.map((b, o) => b - (added[o] as number)) };
}
