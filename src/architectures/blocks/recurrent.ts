/** Recurrent layers: the long short-term memory (Hochreiter and Schmidhuber 1997). */
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { type Net } from "./layers.ts";
import { drawWeights } from "./weights.ts";

/**
 * One LSTM layer over a sequence, starting from zeros: (length, n, inputs) to (length, n, width). The forget gate's bias
 * starts at 1, so that the memory lasts at first (Jozefowicz et al. 2015); gates are in ONNX's order input, output,
 * forget, cell.
 */
export function lstm(net: Net, name: string, x: Value, inputs: number, width: number): Value {
  const { b, rng } = net;
  const w = drawWeights(rng.fork(`${name}.input`), [1, 4 * width, inputs], inputs, width, "glorot-uniform");
  const r = drawWeights(rng.fork(`${name}.recurrent`), [1, 4 * width, width], width, width, "glorot-uniform");
  const bias = new Float32Array(8 * width).fill(1, 2 * width, 3 * width);
  const weights = [
    b.constant(`${name}.input.weight`, w),
    b.constant(`${name}.recurrent.weight`, r),
    b.constant(`${name}.bias`, Tensor.of("float32", [1, 8 * width], bias)),
  ];
  const y = b.op("LSTM", [x, ...weights], { name: `${name}.lstm`, attributes: { hidden_size: width } }); // (length, 1, n, width)
  return b.op("Squeeze", [y, b.constant(`${name}.direction`, Tensor.int64([1]))], { name });
}
