/** The unit of ShuffleNetV2 (Ma et al. 2018): half of the channels pass by, and a shuffle mixes the halves. */
import type { Value } from "../../ir/graph.ts";
import { convBn, type Net, reshape, transpose } from "./layers.ts";

export interface ShuffleOptions {
  readonly stride: number;
  /** Height and width of the result. */
  readonly size: readonly [number, number];
}

/**
 * (n, inputs, h, w) to (n, outputs, h/stride, w/stride), `outputs` even. A unit that changes no size passes half of the
 * channels by; one that does computes both halves from all channels.
 */
export function shuffleUnit(
  net: Net,
  name: string,
  x: Value,
  inputs: number,
  outputs: number,
  options: ShuffleOptions,
): Value {
  const { stride, size } = options;
  const half = outputs / 2;
  const scheme = "he-normal-out";
  let [left, right] = [x, x];
  const passes = stride === 1 && inputs === outputs;
  if (passes)
    [left, right] = net.b.ops("Split", [x], {
      name: `${name}.split`,
      attributes: { axis: 1, num_outputs: 2 },
      outputs: 2,
    }) as [Value, Value];
  else {
    left = convBn(net, `${name}.left.depthwise`, x, inputs, inputs, { kernel: 3, stride, group: inputs, scheme });
    left = convBn(net, `${name}.left.pointwise`, left, inputs, half, { kernel: 1, activation: "relu", scheme });
  }
  const from = passes ? half : inputs;
  right = convBn(net, `${name}.1`, right, from, half, { kernel: 1, activation: "relu", scheme });
  right = convBn(net, `${name}.2`, right, half, half, { kernel: 3, stride, group: half, scheme });
  right = convBn(net, `${name}.3`, right, half, half, { kernel: 1, activation: "relu", scheme });
  const joined = net.b.op("Concat", [left, right], { name: `${name}.concat`, attributes: { axis: 1 } });
  return channelShuffle(net, `${name}.shuffle`, joined, outputs, 2, size);
}

/** Interleaves the channels of `groups` equal parts: channel g·(channels/groups) + i becomes i·groups + g. */
export function channelShuffle(
  net: Net,
  name: string,
  x: Value,
  channels: number,
  groups: number,
  size: readonly [number, number],
): Value {
  const split = reshape(net, `${name}.split`, x, [-1, groups, channels / groups, ...size]);
  const mixed = transpose(net, `${name}.mix`, split, [0, 2, 1, 3, 4]);
  return reshape(net, name, mixed, [-1, channels, ...size]);
}
