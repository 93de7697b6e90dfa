/** The ConvNeXt block (Liu et al. 2022): a 7x7 depthwise convolution, then a feed-forward layer at every pixel, beside a shortcut. */
import type { Value } from "../../ir/graph.ts";
import { add, conv, layerNorm, type Net, transpose } from "./layers.ts";
import { feedForward } from "./transformer.ts";
import { filled } from "./weights.ts";

/** Start of the learned scale of each channel: small, so that a deep network begins near the identity. */
const LAYER_SCALE = 1e-6;
const EPSILON = 1e-6;
const CHANNELS_LAST = [0, 2, 3, 1] as const;
const CHANNELS_FIRST = [0, 3, 1, 2] as const;

/** (n, channels, h, w) to the same. */
export function convNextBlock(net: Net, name: string, x: Value, channels: number): Value {
  const depthwise = { kernel: 7, group: channels, scheme: "truncated-0.02" } as const;
  const filtered = conv(net, `${name}.depthwise`, x, channels, channels, depthwise);
  const pixels = transpose(net, `${name}.last`, filtered, CHANNELS_LAST); // (n, h, w, channels)
  const normal = layerNorm(net, `${name}.norm`, pixels, channels, EPSILON);
  const mixed = feedForward(net, `${name}.mlp`, normal, channels, 4 * channels);
  const scale = net.b.constant(`${name}.scale.weight`, filled(channels, LAYER_SCALE));
  const scaled = net.b.op("Mul", [mixed, scale], { name: `${name}.scale` });
  return add(net, `${name}.add`, x, transpose(net, `${name}.first`, scaled, CHANNELS_FIRST));
}

/** Layer normalization of the channels of every pixel: (n, channels, h, w) to the same. */
export function channelNorm(net: Net, name: string, x: Value, channels: number): Value {
  const normal = layerNorm(net, name, transpose(net, `${name}.last`, x, CHANNELS_LAST), channels, EPSILON);
  return transpose(net, `${name}.first`, normal, CHANNELS_FIRST);
}
