/** Images as sequences: the patch embedding and the class token of vision transformers (Dosovitskiy et al. 2021). */
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { conv, type Net, reshape, transpose } from "./layers.ts";

/** Every patch of `size` × `size` pixels as one vector: (n, channels, h, w) to (n, patches, width). */
export function patchEmbedding(
  net: Net,
  name: string,
  x: Value,
  channels: number,
  width: number,
  options: { readonly size: number; readonly patches: number },
): Value {
  const { size, patches } = options;
  const grid = conv(net, name, x, channels, width, { kernel: size, stride: size, pad: 0, scheme: "truncated-0.02" });
  const flat = reshape(net, `${name}.flat`, grid, [-1, width, patches]);
  return transpose(net, `${name}.sequence`, flat, [0, 2, 1]);
}

/**
 * Puts a zero vector before the sequence: (n, length, width) to (n, length + 1, width). What the table of positions adds
 * there is the class token; a token of its own besides would only be summed with it.
 */
export function classPosition(net: Net, name: string, x: Value): Value {
  return net.b.op("Pad", [x, net.b.constant(`${name}.pads`, Tensor.int64([0, 1, 0, 0, 0, 0]))], { name });
}
