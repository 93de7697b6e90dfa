/** The short-time Fourier transform in plain operators: overlapping frames, a window, one transform along each frame. */
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { fourier } from "../gradients/fourier.ts";
import { concreteShape, mul, reshape } from "../gradients/words.ts";
import type { Lower } from "../spec.ts";

// frame f of x (b, n, 1 or 2) is x[f·step … f·step + length − 1]; y = DFT(window·frames): (b, frames, bins, 2)
export const lowerStft: Lower = (c) => {
  const { node } = c;
  const [x, stepInput, window, lengthInput] = node.inputs as readonly [Value, Value, ...(Value | undefined)[]];
  const number = (value: Value | undefined): number | undefined =>
    (value?.tensor?.peekNumbers() ?? c.contents(value))?.[0];
  const step = number(stepInput);
  const length = lengthInput ? number(lengthInput) : window && concreteShape(node, window)[0];
  if (step === undefined || length === undefined)
    throw new PareError("not-differentiable", "The step and the length of the frames must be known here", {
      where: `node '${node.name}' (STFT)`,
      help: "Make them constant, or freeze what lies before it",
    });
  const size = concreteShape(node, x, 1)[0] ?? 0;
  const frames = Math.floor((size - length) / step) + 1;
  const places = Array.from({ length: frames * length }, (_, at) => Math.floor(at / length) * step + (at % length));
  const indices = c.b.constant("frames", Tensor.int64(places, [frames, length]));
  let framed = c.b.op("Gather", [x, indices], { attributes: { axis: 1 } }); // (b, frames, length, 1 or 2)
  if (window) framed = mul(c, framed, reshape(c, window, [length, 1]));
  return [fourier(c, framed, 2, node.int("onesided", 1) ? { onesided: 1 } : {})];
};
