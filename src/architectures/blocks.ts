/** Blocks from which the architectures are built: layers with their weights drawn by the standard schemes. */
import type { Rng } from "../base/rng.ts";
import { Builder } from "../ir/builder.ts";
import type { Value } from "../ir/graph.ts";
import { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { float } from "../ir/attribute.ts";

/** Where a network is being built. Every layer draws its weights from a stream of its own name. */
export interface Net {
  readonly b: Builder;
  readonly rng: Rng;
}

/** How weights are drawn: He et al. 2015 before a ReLU, Glorot and Bengio 2010 elsewhere, uniform or normal. */
export type Scheme = "he-normal" | "he-uniform" | "glorot-uniform";

/**
 * Random weights. He: variance 2/fan_in. Glorot: variance 2/(fan_in + fan_out). Uniform on ±√(3·variance).
 */
export function drawWeights(rng: Rng, shape: readonly number[], fanIn: number, fanOut: number, scheme: Scheme): Tensor {
  const data = new Float32Array(shape.reduce((n, size) => n * size, 1));
  const deviation = Math.sqrt(scheme === "glorot-uniform" ? 2 / (fanIn + fanOut) : 2 / fanIn);
  const bound = deviation * Math.sqrt(3);
  for (let i = 0; i < data.length; i++)
    data[i] = scheme === "he-normal" ? rng.normal(0, deviation) : rng.uniform(-bound, bound);
  return Tensor.of("float32", shape, data);
}

function filled(length: number, value: number): Tensor {
  return Tensor.of("float32", [length], new Float32Array(length).fill(value));
}

/** Starts a model with one input `input` (batch, *shape). */
export function startNet(rng: Rng, name: string, shape: readonly number[]): { net: Net; model: Model; input: Value } {
  const model = new Model(undefined, 21, 10);
  model.producerName = "pare";
  model.graph.name = name;
  const b = new Builder(model.graph);
  return { net: { b, rng }, model, input: b.input("input", "float32", ["batch", ...shape]) };
}

/** Ends a model with its output `logits` (batch, classes). */
export function endNet(net: Net, model: Model, logits: Value, classes: number): Model {
  [logits.dtype, logits.shape] = ["float32", ["batch", classes]];
  net.b.output(logits, "logits");
  return model;
}

/** y = x·Wᵀ + b, W (outputs, inputs). */
export function dense(
  net: Net,
  name: string,
  x: Value,
  inputs: number,
  outputs: number,
  scheme: Scheme = "he-uniform",
): Value {
  const w = drawWeights(net.rng.fork(name), [outputs, inputs], inputs, outputs, scheme);
  const weight = net.b.constant(`${name}.weight`, w);
  const bias = net.b.constant(`${name}.bias`, filled(outputs, 0));
  return net.b.op("Gemm", [x, weight, bias], { name, attributes: { transB: 1 } });
}

export interface ConvOptions {
  readonly kernel: number;
  readonly stride?: number;
  /** Default: half the kernel, which keeps the image size at stride 1. */
  readonly pad?: number;
  readonly group?: number;
  readonly bias?: boolean;
  readonly scheme?: Scheme;
}

/** A square 2-D convolution (n, inputs, h, w) to (n, outputs, h', w'). */
export function conv(net: Net, name: string, x: Value, inputs: number, outputs: number, options: ConvOptions): Value {
  const { kernel, stride = 1, pad = Math.floor(kernel / 2), group = 1, bias = true, scheme = "he-normal" } = options;
  const taps = kernel * kernel;
  const shape = [outputs, inputs / group, kernel, kernel];
  const fanOut = (outputs / group) * taps;
  const w = drawWeights(net.rng.fork(name), shape, (inputs / group) * taps, fanOut, scheme);
  const weight = net.b.constant(`${name}.weight`, w);
  const offset = bias ? net.b.constant(`${name}.bias`, filled(outputs, 0)) : undefined;
  return net.b.op("Conv", [x, weight, offset], {
    name,
    attributes: {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [pad, pad, pad, pad],
      group: group === 1 ? undefined : group,
    },
  });
}

/** Batch normalization with running statistics (Ioffe and Szegedy 2015). */
export function batchNorm(net: Net, name: string, x: Value, channels: number): Value {
  const { b } = net;
  const scale = b.constant(`${name}.weight`, filled(channels, 1));
  const shift = b.constant(`${name}.bias`, filled(channels, 0));
  const mean = b.constant(`${name}.running_mean`, filled(channels, 0));
  const variance = b.constant(`${name}.running_var`, filled(channels, 1));
  return b.op("BatchNormalization", [x, scale, shift, mean, variance], { name, attributes: { epsilon: float(1e-5) } });
}

export function relu(net: Net, name: string, x: Value): Value {
  return net.b.op("Relu", [x], { name });
}

export function maxPool(net: Net, name: string, x: Value, size = 2): Value {
  return net.b.op("MaxPool", [x], { name, attributes: { kernel_shape: [size, size], strides: [size, size] } });
}

/** Mean over the image, flattened: (n, c, h, w) to (n, c). */
export function globalPool(net: Net, name: string, x: Value): Value {
  return flatten(net, `${name}.flat`, net.b.op("GlobalAveragePool", [x], { name }));
}

/** (n, …) to (n, features). */
export function flatten(net: Net, name: string, x: Value): Value {
  return net.b.op("Flatten", [x], { name, attributes: { axis: 1 } });
}

/** Convolution without bias, batch normalization, ReLU. */
export function convBnRelu(
  net: Net,
  name: string,
  x: Value,
  inputs: number,
  outputs: number,
  options: ConvOptions = { kernel: 3 },
): Value {
  const y = conv(net, `${name}.conv`, x, inputs, outputs, { ...options, bias: false });
  return relu(net, `${name}.relu`, batchNorm(net, `${name}.bn`, y, outputs));
}

/**
 * The basic residual block (He et al. 2016): two 3×3 convolutions beside a shortcut without parameters, which takes every
 * second pixel where the image shrinks and fills added channels with zeros (their option A).
 */
export function residualBlock(net: Net, name: string, x: Value, inputs: number, outputs: number, stride = 1): Value {
  const { b } = net;
  const first = convBnRelu(net, `${name}.1`, x, inputs, outputs, { kernel: 3, stride });
  const second = conv(net, `${name}.2.conv`, first, outputs, outputs, { kernel: 3, bias: false });
  const body = batchNorm(net, `${name}.2.bn`, second, outputs);
  let shortcut = x;
  if (stride > 1) {
    const list = (part: string, values: readonly number[]): Value =>
      b.constant(`${name}.shortcut.${part}`, Tensor.int64(values));
    const inputsOfSlice = [
      x,
      list("starts", [0, 0]),
      list("ends", [2 ** 31, 2 ** 31]),
      list("axes", [2, 3]),
      list("steps", [stride, stride]),
    ];
    shortcut = b.op("Slice", inputsOfSlice, { name: `${name}.shortcut` });
  }
  if (outputs > inputs) {
    const before = Math.floor((outputs - inputs) / 2);
    const pads = b.constant(
      `${name}.shortcut.pads`,
      Tensor.int64([0, before, 0, 0, 0, outputs - inputs - before, 0, 0]),
    );
    shortcut = b.op("Pad", [shortcut, pads], { name: `${name}.shortcut.pad` });
  }
  return relu(net, `${name}.relu`, b.op("Add", [body, shortcut], { name: `${name}.add` }));
}
