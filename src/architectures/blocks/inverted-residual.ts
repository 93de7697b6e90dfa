/** The inverted residual (Sandler et al. 2018): widen, filter each channel alone, narrow; with squeeze-and-excite if asked. */
import type { Value } from "../../ir/graph.ts";
import { type Activation, add, convBn, dropout, type Net } from "./layers.ts";
import { type SqueezeOptions, squeezeExcite } from "./squeeze-excite.ts";
import type { Scheme } from "./weights.ts";

export interface InvertedResidualOptions {
  /** Channels between the two pointwise convolutions; equal to `inputs`, the first of them is left out. */
  readonly expanded: number;
  /** Size of the depthwise kernel; default 3. */
  readonly kernel?: number;
  readonly stride?: number;
  /** Default "relu6". */
  readonly activation?: Activation;
  /** Squeeze-and-excite after the depthwise convolution. */
  readonly squeeze?: SqueezeOptions | undefined;
  /** Begin as the identity: the last scale is zero. Default false. */
  readonly zero?: boolean | undefined;
  /** Share of the branch's values that is dropped while training, where there is a shortcut; default 0. */
  readonly drop?: number;
  /** Default 1e-5. */
  readonly epsilon?: number | undefined;
  readonly scheme?: Scheme;
}

/** (n, inputs, h, w) to (n, outputs, h/stride, w/stride), added to x where both are of one shape. */
export function invertedResidual(
  net: Net,
  name: string,
  x: Value,
  inputs: number,
  outputs: number,
  options: InvertedResidualOptions,
): Value {
  const { expanded, kernel = 3, stride = 1, activation = "relu6", squeeze, zero, drop = 0, epsilon } = options;
  const { scheme = "he-normal-out" } = options;
  const wide =
    expanded === inputs
      ? x
      : convBn(net, `${name}.expand`, x, inputs, expanded, { kernel: 1, activation, epsilon, scheme });
  const depthwise = { kernel, stride, group: expanded, activation, epsilon, scheme };
  let y = convBn(net, `${name}.depthwise`, wide, expanded, expanded, depthwise);
  if (squeeze) y = squeezeExcite(net, `${name}.se`, y, expanded, squeeze);
  y = convBn(net, `${name}.project`, y, expanded, outputs, { kernel: 1, zero, epsilon, scheme });
  return stride === 1 && inputs === outputs ? add(net, `${name}.add`, dropout(net, `${name}.drop`, y, drop), x) : y;
}
