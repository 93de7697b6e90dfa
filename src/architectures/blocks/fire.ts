/** The fire module (Iandola et al. 2016): squeeze to few channels, then expand by 1x1 and 3x3 convolutions side by side. */
import type { Value } from "../../ir/graph.ts";
import { batchNorm, conv, type Net, relu } from "./layers.ts";

export interface FireOptions {
  readonly squeezed: number;
  /** Output channels of each of the two expanding convolutions. */
  readonly expanded: number;
  /** Batch normalization after every convolution, which the published network does without; default false. */
  readonly batchNorm?: boolean;
}

/** (n, inputs, h, w) to (n, 2·expanded, h, w). */
export function fire(net: Net, name: string, x: Value, inputs: number, options: FireOptions): Value {
  const { squeezed, expanded } = options;
  const layer = (part: string, from: Value, channels: number, outputs: number, kernel: number): Value => {
    const stem = `${name}.${part}`;
    const y = conv(net, `${stem}.conv`, from, channels, outputs, {
      kernel,
      bias: !options.batchNorm,
      scheme: "he-uniform",
    });
    return relu(net, `${stem}.relu`, options.batchNorm ? batchNorm(net, `${stem}.bn`, y, outputs) : y);
  };
  const thin = layer("squeeze", x, inputs, squeezed, 1);
  const wide = [layer("expand1", thin, squeezed, expanded, 1), layer("expand3", thin, squeezed, expanded, 3)];
  return net.b.op("Concat", wide, { name: `${name}.concat`, attributes: { axis: 1 } });
}
