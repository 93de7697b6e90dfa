/** The depthwise separable convolution (Howard et al. 2017): each channel filtered alone, then mixed by a 1x1 convolution. */
import type { Value } from "../../ir/graph.ts";
import { type Activation, type ConvOptions, convBn, type Net } from "./layers.ts";
import type { Scheme } from "./weights.ts";

export interface SeparableOptions {
  /** Default 3. */
  readonly kernel?: ConvOptions["kernel"];
  readonly stride?: ConvOptions["stride"];
  /** After both convolutions; default "relu". */
  readonly activation?: Activation;
  readonly scheme?: Scheme;
}

/** (n, inputs, h, w) to (n, outputs, h/stride, w/stride), batch-normalized twice. */
export function separableConv(
  net: Net,
  name: string,
  x: Value,
  inputs: number,
  outputs: number,
  options: SeparableOptions = {},
): Value {
  const { kernel = 3, stride = 1, activation = "relu", scheme = "he-normal-out" } = options;
  const depthwise = { kernel, stride, group: inputs, activation, scheme };
  const filtered = convBn(net, `${name}.depthwise`, x, inputs, inputs, depthwise);
  return convBn(net, `${name}.pointwise`, filtered, inputs, outputs, { kernel: 1, activation, scheme });
}
