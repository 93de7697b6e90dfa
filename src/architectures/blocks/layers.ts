/** Layers from which the blocks are built: each draws its weights by a standard scheme and names them after itself. */
import type { Rng } from "../../base/rng.ts";
import { float } from "../../ir/attribute.ts";
import { Builder } from "../../ir/builder.ts";
import type { Value } from "../../ir/graph.ts";
import { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { drawWeights, filled, type Scheme } from "./weights.ts";

/** Where a network is being built. Every layer draws its weights from a stream of its own name. */
export interface Net {
  readonly b: Builder;
  readonly rng: Rng;
  readonly model: Model;
}

/** An empty network; its inputs come with {@link imageInput} and {@link tokenInput}. */
export function newNet(rng: Rng, name: string): Net {
  const model = new Model(undefined, 21, 10);
  model.producerName = "pare";
  model.graph.name = name;
  return { b: new Builder(model.graph), rng, model };
}

/** Starts a model with one input `input` (batch, *shape). */
export function startNet(rng: Rng, name: string, shape: readonly number[]): { net: Net; input: Value } {
  const net = newNet(rng, name);
  return { net, input: net.b.input("input", "float32", ["batch", ...shape]) };
}

/** An input of whole numbers (batch, sequence): token numbers, or a mask of them. */
export function tokenInput(net: Net, name: string, sequence: number): Value {
  return net.b.input(name, "int64", ["batch", sequence]);
}

/** Ends a model with its output `logits` (batch, *shape). */
export function endNet(net: Net, logits: Value, ...shape: readonly number[]): Model {
  [logits.dtype, logits.shape] = ["float32", ["batch", ...shape]];
  net.b.output(logits, "logits");
  return net.model;
}

/** y = x·Wᵀ + b, W (outputs, inputs), x (n, inputs). */
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

/** y = x·W + b along the last axis, W (inputs, outputs), x (…, inputs). */
export function linear(
  net: Net,
  name: string,
  x: Value,
  inputs: number,
  outputs: number,
  options: { readonly bias?: boolean; readonly scheme?: Scheme; readonly gain?: number } = {},
): Value {
  const { bias = true, scheme = "truncated-0.02", gain = 1 } = options;
  const w = drawWeights(net.rng.fork(name), [inputs, outputs], inputs, outputs, scheme, gain);
  const weight = net.b.constant(`${name}.weight`, w);
  const y = net.b.op("MatMul", [x, weight], { name: bias ? `${name}.product` : name });
  return bias ? net.b.op("Add", [y, net.b.constant(`${name}.bias`, filled(outputs, 0))], { name }) : y;
}

export interface ConvOptions {
  /** One size for height and width, or both. */
  readonly kernel: number | readonly [number, number];
  readonly stride?: number | readonly [number, number];
  /** On all sides, or [top, left, bottom, right]. Default: half the kernel, which keeps the image size at stride 1. */
  readonly pad?: number | readonly [number, number, number, number];
  readonly group?: number;
  readonly bias?: boolean;
  readonly scheme?: Scheme;
}

/** A 2-D convolution (n, inputs, h, w) to (n, outputs, h', w'). */
export function conv(net: Net, name: string, x: Value, inputs: number, outputs: number, options: ConvOptions): Value {
  const { stride = 1, group = 1, bias = true, scheme = "he-normal" } = options;
  const [kh, kw] = pair(options.kernel);
  const { pad = [Math.floor(kh / 2), Math.floor(kw / 2), Math.floor(kh / 2), Math.floor(kw / 2)] } = options;
  const taps = kh * kw;
  const shape = [outputs, inputs / group, kh, kw];
  const fanOut = (outputs / group) * taps;
  const w = drawWeights(net.rng.fork(name), shape, (inputs / group) * taps, fanOut, scheme);
  const weight = net.b.constant(`${name}.weight`, w);
  const offset = bias ? net.b.constant(`${name}.bias`, filled(outputs, 0)) : undefined;
  return net.b.op("Conv", [x, weight, offset], {
    name,
    attributes: {
      kernel_shape: [kh, kw],
      strides: pair(stride),
      pads: typeof pad === "number" ? [pad, pad, pad, pad] : pad,
      group: group === 1 ? undefined : group,
    },
  });
}

function pair(size: number | readonly [number, number]): readonly [number, number] {
  return typeof size === "number" ? [size, size] : size;
}

export interface BatchNormOptions {
  /**
   * Start with scale 0: at the end of a residual branch, the block then begins as the identity (Goyal et al. 2017).
   * Default false.
   */
  readonly zero?: boolean | undefined;
  /** Default 1e-5. */
  readonly epsilon?: number | undefined;
}

/** Batch normalization with running statistics (Ioffe and Szegedy 2015). */
export function batchNorm(net: Net, name: string, x: Value, channels: number, options: BatchNormOptions = {}): Value {
  const { b } = net;
  const scale = b.constant(`${name}.weight`, filled(channels, options.zero ? 0 : 1));
  const shift = b.constant(`${name}.bias`, filled(channels, 0));
  const mean = b.constant(`${name}.running_mean`, filled(channels, 0));
  const variance = b.constant(`${name}.running_var`, filled(channels, 1));
  const attributes = { epsilon: float(options.epsilon ?? 1e-5) };
  return b.op("BatchNormalization", [x, scale, shift, mean, variance], { name, attributes });
}

/** Layer normalization over the last axis (Ba et al. 2016). */
export function layerNorm(net: Net, name: string, x: Value, width: number, epsilon = 1e-5): Value {
  const scale = net.b.constant(`${name}.weight`, filled(width, 1));
  const shift = net.b.constant(`${name}.bias`, filled(width, 0));
  const attributes = { axis: -1, epsilon: float(epsilon) };
  return net.b.op("LayerNormalization", [x, scale, shift], { name, attributes });
}

/** Nonlinearities by name. */
export type Activation = "relu" | "relu6" | "hard-swish" | "swish" | "gelu" | "tanh" | "sigmoid" | "hard-sigmoid";

/** One nonlinearity, element by element; swish is x·σ(x) (Ramachandran et al. 2017), which needs two nodes. */
export function activate(net: Net, name: string, x: Value, kind: Activation): Value {
  const { b } = net;
  switch (kind) {
    case "relu":
      return b.op("Relu", [x], { name });
    case "relu6":
      return b.op("Clip", [x, number(net, "relu6.min", 0), number(net, "relu6.max", 6)], { name });
    case "hard-swish":
      return b.op("HardSwish", [x], { name });
    case "swish":
      return b.op("Mul", [x, b.op("Sigmoid", [x], { name: `${name}.gate` })], { name });
    case "gelu":
      return b.op("Gelu", [x], { name });
    case "tanh":
      return b.op("Tanh", [x], { name });
    case "sigmoid":
      return b.op("Sigmoid", [x], { name });
    case "hard-sigmoid": // max(0, min(1, x/6 + 1/2)) (Howard et al. 2019)
      return b.op("HardSigmoid", [x], { name, attributes: { alpha: float(1 / 6), beta: float(0.5) } });
  }
}

export function relu(net: Net, name: string, x: Value): Value {
  return activate(net, name, x, "relu");
}

export interface PoolOptions {
  /** Default: the window's size. */
  readonly stride?: number;
  /** Default 0. */
  readonly pad?: number;
  /** Keep a last window that does not lie wholly inside; default false. */
  readonly ceil?: boolean;
}

export function maxPool(net: Net, name: string, x: Value, size = 2, options: PoolOptions = {}): Value {
  const { stride = size, pad = 0, ceil = false } = options;
  return net.b.op("MaxPool", [x], {
    name,
    attributes: {
      kernel_shape: [size, size],
      strides: [stride, stride],
      pads: pad === 0 ? undefined : [pad, pad, pad, pad],
      ceil_mode: ceil ? 1 : undefined,
    },
  });
}

/** Mean over the image, flattened: (n, c, h, w) to (n, c). */
export function globalPool(net: Net, name: string, x: Value): Value {
  return flatten(net, `${name}.flat`, net.b.op("GlobalAveragePool", [x], { name }));
}

/** (n, …) to (n, features). */
export function flatten(net: Net, name: string, x: Value): Value {
  return net.b.op("Flatten", [x], { name, attributes: { axis: 1 } });
}

/** The same elements under another shape; 0 copies a size, -1 is what is left. */
export function reshape(net: Net, name: string, x: Value, shape: readonly number[]): Value {
  return net.b.op("Reshape", [x, net.b.constant(`${name}.shape`, Tensor.int64(shape))], { name });
}

export function transpose(net: Net, name: string, x: Value, perm: readonly number[]): Value {
  return net.b.op("Transpose", [x], { name, attributes: { perm } });
}

export function add(net: Net, name: string, x: Value, y: Value): Value {
  return net.b.op("Add", [x, y], { name });
}

/** Zeros a share of the values while training, and nothing at inference (Srivastava et al. 2014); no node at ratio 0. */
export function dropout(net: Net, name: string, x: Value, ratio: number): Value {
  if (ratio === 0) return x;
  return net.b.op("Dropout", [x, number(net, `dropout.${ratio}`, ratio)], { name });
}

/** A number that the whole network shares. */
export function number(net: Net, name: string, value: number): Value {
  const known = net.model.graph.initializers.get(name);
  return known ?? net.b.constant(name, Tensor.of("float32", [], Float32Array.of(value)));
}

export interface ConvBnOptions extends ConvOptions, BatchNormOptions {
  /** undefined: none. */
  readonly activation?: Activation | undefined;
}

/** Convolution without bias, batch normalization, and a nonlinearity if there is one. */
export function convBn(
  net: Net,
  name: string,
  x: Value,
  inputs: number,
  outputs: number,
  options: ConvBnOptions,
): Value {
  const y = conv(net, `${name}.conv`, x, inputs, outputs, { ...options, bias: false });
  const z = batchNorm(net, `${name}.bn`, y, outputs, options);
  return options.activation ? activate(net, `${name}.${options.activation}`, z, options.activation) : z;
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
  return convBn(net, name, x, inputs, outputs, { ...options, activation: "relu" });
}
