/** Residual blocks (He et al. 2016): basic and bottleneck, with shortcuts of either kind. */
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { add, convBn, convBnRelu, type Net, relu } from "./layers.ts";
import type { Scheme } from "./weights.ts";

export interface ResidualOptions {
  /** Default 1. */
  readonly stride?: number;
  /**
   * Where sizes change, "pad" takes every second pixel and fills added channels with zeros (option A of the paper: no
   * parameters), "project" is a 1x1 convolution (option B). Default "pad".
   */
  readonly shortcut?: "pad" | "project";
  /** Begin as the identity: the last scale of the branch is zero. Default false. */
  readonly zero?: boolean | undefined;
  readonly scheme?: Scheme;
}

/** Two 3×3 convolutions beside a shortcut: (n, inputs, h, w) to (n, outputs, h/stride, w/stride). */
export function residualBlock(
  net: Net,
  name: string,
  x: Value,
  inputs: number,
  outputs: number,
  options: ResidualOptions = {},
): Value {
  const { stride = 1, zero, scheme = "he-normal" } = options;
  const first = convBnRelu(net, `${name}.1`, x, inputs, outputs, { kernel: 3, stride, scheme });
  const body = convBn(net, `${name}.2`, first, outputs, outputs, { kernel: 3, zero, scheme });
  const skip = shortcut(net, `${name}.shortcut`, x, inputs, outputs, options);
  return relu(net, `${name}.relu`, add(net, `${name}.add`, body, skip));
}

/** Output channels of a bottleneck for each inner one. */
export const BOTTLENECK_EXPANSION = 4;

/** 1×1 to `width` channels, 3×3 with the stride, 1×1 to four times as many, beside a shortcut. */
export function bottleneckBlock(
  net: Net,
  name: string,
  x: Value,
  inputs: number,
  width: number,
  options: ResidualOptions = {},
): Value {
  const { stride = 1, zero, scheme = "he-normal" } = options;
  const outputs = width * BOTTLENECK_EXPANSION;
  const first = convBnRelu(net, `${name}.1`, x, inputs, width, { kernel: 1, scheme });
  const second = convBnRelu(net, `${name}.2`, first, width, width, { kernel: 3, stride, scheme });
  const body = convBn(net, `${name}.3`, second, width, outputs, { kernel: 1, zero, scheme });
  const skip = shortcut(net, `${name}.shortcut`, x, inputs, outputs, options);
  return relu(net, `${name}.relu`, add(net, `${name}.add`, body, skip));
}

function shortcut(net: Net, name: string, x: Value, inputs: number, outputs: number, options: ResidualOptions): Value {
  const { stride = 1, scheme = "he-normal" } = options;
  if (options.shortcut === "project")
    return stride > 1 || inputs !== outputs ? convBn(net, name, x, inputs, outputs, { kernel: 1, stride, scheme }) : x;
  const { b } = net;
  let skip = x;
  if (stride > 1) {
    const list = (part: string, values: readonly number[]): Value =>
      b.constant(`${name}.${part}`, Tensor.int64(values));
    const inputsOfSlice = [
      x,
      list("starts", [0, 0]),
      list("ends", [2 ** 31, 2 ** 31]),
      list("axes", [2, 3]),
      list("steps", [stride, stride]),
    ];
    skip = b.op("Slice", inputsOfSlice, { name });
  }
  if (outputs > inputs) {
    const before = Math.floor((outputs - inputs) / 2);
    const pads = b.constant(`${name}.pads`, Tensor.int64([0, before, 0, 0, 0, outputs - inputs - before, 0, 0]));
    skip = b.op("Pad", [skip, pads], { name: `${name}.pad` });
  }
  return skip;
}
