/** The networks of the training benchmarks: options, batch, and the samples that both sides are fed. */
import { buildArchitecture } from "../dist/architectures/build.js";

/** `steps`: small networks take more, so that a round lasts about as long for each. */
export const NETWORKS = {
  "lenet-300-100": { batch: 128, steps: 8 },
  "lenet-5": { batch: 128, steps: 1 },
  "small-cnn": { batch: 128, steps: 0.7 },
  "resnet-20": { batch: 128, steps: 0.2 },
  "mobilenet-v2": { batch: 32, steps: 0.2, options: { input: [3, 32, 32], classes: 10, dropout: 0 } },
  "gpt-nano": { batch: 16, steps: 0.5 },
};

export function buildNetwork(name) {
  return buildArchitecture(name, NETWORKS[name].options ?? {});
}

/** Feeds of one step but for the optimizer's scalars, as `sample` in torch_networks.py; `fill` gives an image's numbers. */
export function samples(model, graph, batch, fill) {
  const port = model.graph.inputs[0];
  const shape = [batch, ...port.shape.slice(1)];
  if (port.dtype === "int64") {
    const [, length] = shape;
    const token = (row, at) => BigInt(((row * (length + 1) + at) * 7) % 65);
    const rows = (shift) => BigInt64Array.from({ length: batch * length }, (_, i) => token(Math.floor(i / length), (i % length) + shift));
    return {
      [port.name]: { dtype: "int64", shape, data: rows(0) },
      [graph.labels]: { dtype: "int64", shape, data: rows(1) },
    };
  }
  const data = Float32Array.from({ length: shape.reduce((n, size) => n * size, 1) }, (_, i) => fill(i));
  return {
    [port.name]: { dtype: "float32", shape, data },
    [graph.labels]: { dtype: "int64", shape: [batch], data: BigInt64Array.from({ length: batch }, (_, i) => BigInt(i % 10)) },
  };
}
