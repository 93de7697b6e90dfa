/** Squeeze-and-excite (Hu et al. 2018): every channel is scaled by a number that depends on the means of all of them. */
import type { Value } from "../../ir/graph.ts";
import { type Activation, activate, conv, type Net } from "./layers.ts";
import type { Scheme } from "./weights.ts";

export interface SqueezeOptions {
  /** Channels of the bottleneck. */
  readonly squeezed: number;
  /** Default "relu". */
  readonly activation?: Activation;
  /** Default "sigmoid". */
  readonly gate?: "sigmoid" | "hard-sigmoid";
  readonly scheme?: Scheme;
}

/** y_c = x_c · gate(W₂·activation(W₁·mean(x) + b₁) + b₂)_c: (n, channels, h, w) to the same. */
export function squeezeExcite(net: Net, name: string, x: Value, channels: number, options: SqueezeOptions): Value {
  const { squeezed, activation = "relu", gate = "sigmoid", scheme = "he-normal-out" } = options;
  const mean = net.b.op("GlobalAveragePool", [x], { name: `${name}.pool` }); // (n, channels, 1, 1)
  const reduced = conv(net, `${name}.reduce`, mean, channels, squeezed, { kernel: 1, scheme });
  const active = activate(net, `${name}.${activation}`, reduced, activation);
  const expanded = conv(net, `${name}.expand`, active, squeezed, channels, { kernel: 1, scheme });
  return net.b.op("Mul", [x, activate(net, `${name}.gate`, expanded, gate)], { name });
}
