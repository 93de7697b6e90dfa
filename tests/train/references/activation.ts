/** Activations and elementwise functions in double precision. */
import { type Nd, type Reference, broadcastAt, each, erf, pointwise } from "./arrays.ts";

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const softplus = (x: number): number => Math.log1p(Math.exp(x));
const gelu = (x: number): number => 0.5 * x * (1 + erf(x / Math.SQRT2));
const tanhGelu = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const clamp = (x: number, low: number, high: number): number => Math.min(high, Math.max(low, x));

/** f(x + bias), the bias along the last axis. */
const biased =
  (f: (x: number) => number): Reference =>
  (_, [x, bias]) => {
    const { shape, data } = x as Nd;
    const width = shape.at(-1) ?? 1;
    return [{ shape, data: data.map((value, i) => f(value + (bias?.data[i % width] ?? 0))) }];
  };

export const ACTIVATION_REFERENCES: Readonly<Record<string, Reference>> = {
  Clip: (node, [x, low, high]) => {
    const least = low?.data[0] ?? node.float("min", Number.NEGATIVE_INFINITY);
    const most = high?.data[0] ?? node.float("max", Number.POSITIVE_INFINITY);
    return [{ shape: (x as Nd).shape, data: (x as Nd).data.map((value) => clamp(value, least, most)) }];
  },
  LeakyRelu: pointwise((x, node) => (x > 0 ? x : node.float("alpha", 0.01) * x)),
  Elu: pointwise((x, node) => (x > 0 ? x : node.float("alpha", 1) * Math.expm1(x))),
  Selu: pointwise((x, node) => {
    const [alpha, gamma] = [node.float("alpha", 1.6732632423543772), node.float("gamma", 1.0507009873554805)];
    return gamma * (x > 0 ? x : alpha * Math.expm1(x));
  }),
  Celu: pointwise((x, node) => {
    const alpha = node.float("alpha", 1);
    return Math.max(0, x) + Math.min(0, alpha * Math.expm1(x / alpha));
  }),
  ThresholdedRelu: pointwise((x, node) => (x > node.float("alpha", 1) ? x : 0)),
  HardSigmoid: pointwise((x, node) => clamp(node.float("alpha", 0.2) * x + node.float("beta", 0.5), 0, 1)),
  HardSwish: pointwise((x) => x * clamp(x / 6 + 0.5, 0, 1)),
  Softplus: pointwise(softplus),
  Softsign: pointwise((x) => x / (1 + Math.abs(x))),
  Mish: pointwise((x) => x * Math.tanh(softplus(x))),
  Swish: pointwise((x, node) => x * sigmoid(node.float("alpha", 1) * x)),
  Shrink: pointwise((x, node) => {
    const [lambda, bias] = [node.float("lambd", 0.5), node.float("bias", 0)];
    return x < -lambda ? x + bias : x > lambda ? x - bias : 0;
  }),
  Gelu: pointwise((x, node) => (node.string("approximate") === "tanh" ? tanhGelu(x) : gelu(x))),
  Erf: pointwise(erf),
  "com.microsoft::Gelu": pointwise(gelu),
  "com.microsoft::QuickGelu": pointwise((x, node) => x * sigmoid(node.float("alpha", 1.702) * x)),
  "com.microsoft::FastGelu": biased(tanhGelu),
  "com.microsoft::BiasGelu": biased(gelu),
  Tan: pointwise(Math.tan),
  Asin: pointwise(Math.asin),
  Acos: pointwise(Math.acos),
  Atan: pointwise(Math.atan),
  Sinh: pointwise(Math.sinh),
  Cosh: pointwise(Math.cosh),
  Asinh: pointwise(Math.asinh),
  Acosh: pointwise(Math.acosh),
  Atanh: pointwise(Math.atanh),
  PRelu: (_, [x, slope]) => {
    const { shape, data } = x as Nd;
    const y = new Float64Array(data.length);
    each(shape, (at, flat) => {
      const value = data[flat] ?? 0;
      y[flat] = value > 0 ? value : value * broadcastAt(slope as Nd, at);
    });
    return [{ shape, data: y }];
  },
  Mean: (node, inputs) => {
    const shape = node.outputs[0]?.shape as readonly number[];
    const data = new Float64Array(shape.reduce((n, size) => n * size, 1));
    each(shape, (at, flat) => {
      data[flat] = inputs.reduce((sum, x) => sum + broadcastAt(x as Nd, at), 0) / inputs.length;
    });
    return [{ shape, data }];
  },
};
