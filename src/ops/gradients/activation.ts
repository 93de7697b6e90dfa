/** Gradients of activation functions: elementwise in the first input, some with learned bounds, slopes or biases. */
import { float } from "../../ir/attribute.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { add, broadcasting, div, indicator, mul, scalar, scale, sub, sumTo } from "./words.ts";

const x = (c: GradContext): Value => c.node.inputs[0] as Value;
const y = (c: GradContext): Value => c.node.outputs[0] as Value;
const g = (c: GradContext): Value => c.outputGrad(0) as Value;
const number = (c: GradContext, value: number): Value => scalar(c, x(c).dtype, value);

/** g where the condition holds, else `other` (0 unless given). */
function where(c: GradContext, condition: Value, other: Value = number(c, 0)): Value {
  return c.b.op("Where", [condition, g(c), other]);
}

/** Large enough that every normal positive float32 times it exceeds 1; 0 times it is 0. */
const STEEP = 1e38;

// y = max(x, 0): ∂x = g·[y > 0]. Outside float64 the indicator is min(10³⁸·y, 1), one HardSigmoid: half the time of a comparison.
export const reluGrad: Grad = (c) => {
  if (x(c).dtype === "float64") return [where(c, c.b.op("Greater", [y(c), number(c, 0)]))];
  const attributes = { alpha: float(STEEP), beta: float(0) };
  return [mul(c, g(c), c.b.op("HardSigmoid", [y(c)], { attributes }))];
};

// y = x > 0 ? x : αx: ∂x = x > 0 ? g : αg
export const leakyReluGrad: Grad = (c) => {
  const slope = scale(c, g(c), c.node.float("alpha", 0.01), x(c).dtype);
  return [where(c, c.b.op("Greater", [x(c), number(c, 0)]), slope)];
};

// y = σ(x): ∂x = g·y·(1 − y)
export const sigmoidGrad: Grad = (c) => [mul(c, g(c), mul(c, y(c), sub(c, number(c, 1), y(c))))];

// y = tanh x: ∂x = g·(1 − y²)
export const tanhGrad: Grad = (c) => [mul(c, g(c), sub(c, number(c, 1), mul(c, y(c), y(c))))];

// y = min(max(x, low), high): ∂x = g·[low ≤ x ≤ high], ∂low = Σ g·[x < low], ∂high = Σ g·[x > high]
export const clipGrad: Grad = (c) => {
  const low = c.node.inputs[1] ?? boundAttribute(c, "min");
  const high = c.node.inputs[2] ?? boundAttribute(c, "max");
  const below = low && c.b.op("Less", [x(c), low]);
  const above = high && c.b.op("Greater", [x(c), high]);
  const outside = below && above ? c.b.op("Or", [below, above]) : (below ?? above);
  const sumWhere = (index: number, condition: Value | undefined): Value | undefined =>
    condition && c.wants(index) ? sumTo(c, where(c, condition), x(c).shape, c.node.inputs[index] as Value) : undefined;
  return [
    c.wants(0) ? (outside ? c.b.op("Where", [outside, number(c, 0), g(c)]) : g(c)) : undefined,
    sumWhere(1, below),
    sumWhere(2, above),
  ];
};

/** A bound of Clip before opset 11. */
function boundAttribute(c: GradContext, name: string): Value | undefined {
  const bound = c.node.float(name);
  return bound === undefined ? undefined : number(c, bound);
}

/** d erf(z)/dz = 2/√π · e^(−z²). */
function erfSlope(c: GradContext, z: Value): Value {
  const bell = c.b.op("Exp", [scale(c, mul(c, z, z), -1, x(c).dtype)]);
  return scale(c, bell, 2 / Math.sqrt(Math.PI), x(c).dtype);
}

// y = erf x: ∂x = g·2/√π·e^(−x²)
export const erfGrad: Grad = (c) => [mul(c, g(c), erfSlope(c, x(c)))];

/** d(x·Φ(x))/dx = Φ(x) + x·φ(x), Φ(x) = ½(1 + erf(x/√2)), φ(x) = e^(−x²/2)/√(2π) (Hendrycks and Gimpel 2016). */
function geluSlope(c: GradContext, at: Value): Value {
  const { dtype } = x(c);
  const erf = c.b.op("Erf", [scale(c, at, Math.SQRT1_2, dtype)]);
  const phi = add(c, scale(c, erf, 0.5, dtype), number(c, 0.5));
  const bell = c.b.op("Exp", [scale(c, mul(c, at, at), -0.5, dtype)]);
  return add(c, phi, mul(c, at, scale(c, bell, 1 / Math.sqrt(2 * Math.PI), dtype)));
}

/** d(½x(1 + t))/dx = ½(1 + t) + ½x(1 − t²)·√(2/π)(1 + 0.134145x²), t = tanh(√(2/π)(x + 0.044715x³)). */
function tanhGeluSlope(c: GradContext, at: Value): Value {
  const { dtype } = x(c);
  const k = Math.sqrt(2 / Math.PI);
  const square = mul(c, at, at);
  const cubic = add(c, scale(c, square, 0.044715 * k, dtype), number(c, k));
  const t = c.b.op("Tanh", [mul(c, at, cubic)]);
  const left = add(c, scale(c, t, 0.5, dtype), number(c, 0.5));
  const inner = add(c, scale(c, square, 0.134145 * k, dtype), number(c, k));
  const flat = sub(c, number(c, 1), mul(c, t, t));
  return add(c, left, mul(c, scale(c, at, 0.5, dtype), mul(c, flat, inner)));
}

// y = gelu(x): ∂x = g·gelu′(x)
export const geluGrad: Grad = (c) => {
  const slope = c.node.string("approximate") === "tanh" ? tanhGeluSlope : geluSlope;
  return [mul(c, g(c), slope(c, x(c)))];
};

/** y = f(x + bias), the bias along the last axis and possibly absent: ∂x = g·f′(x + bias), ∂bias = Σ ∂x. */
function biased(slope: (c: GradContext, at: Value) => Value): Grad {
  return broadcasting((c) => {
    const bias = c.node.inputs[1];
    const gradient = mul(c, g(c), slope(c, bias ? add(c, x(c), bias) : x(c)));
    return [c.wants(0) ? gradient : undefined, bias && c.wants(1) ? gradient : undefined];
  });
}

export const biasGeluGrad: Grad = biased(geluSlope);
export const fastGeluGrad: Grad = biased(tanhGeluSlope);

/** y = x·σ(αx): ∂x = g·(s + αy·(1 − s)), s = σ(αx) (Ramachandran, Zoph and Le 2017). */
function swishGradWith(fallback: number): Grad {
  return (c) => {
    const alpha = c.node.float("alpha", fallback);
    const s = c.b.op("Sigmoid", [scale(c, x(c), alpha)]);
    const rest = mul(c, scale(c, y(c), alpha, x(c).dtype), sub(c, number(c, 1), s));
    return [mul(c, g(c), add(c, s, rest))];
  };
}

export const swishGrad: Grad = swishGradWith(1);
export const quickGeluGrad: Grad = swishGradWith(1.702);

// y = x·t, t = tanh(ln(1 + eˣ)): ∂x = g·(t + x·(1 − t²)·σ(x)) (Misra 2019)
export const mishGrad: Grad = (c) => {
  const t = c.b.op("Tanh", [c.b.op("Softplus", [x(c)])]);
  const inner = mul(c, sub(c, number(c, 1), mul(c, t, t)), c.b.op("Sigmoid", [x(c)]));
  return [mul(c, g(c), add(c, t, mul(c, x(c), inner)))];
};

// y = x > 0 ? x : s·x: ∂x = x > 0 ? g : s·g, ∂s = Σ g·min(x, 0) over broadcast axes (He et al. 2015)
export const preluGrad: Grad = broadcasting((c) => {
  const slope = c.node.inputs[1] as Value;
  return [
    c.wants(0) ? where(c, c.b.op("Greater", [x(c), number(c, 0)]), mul(c, g(c), slope)) : undefined,
    c.wants(1) ? mul(c, g(c), c.b.op("Min", [x(c), number(c, 0)])) : undefined,
  ];
});

// y = γ(x > 0 ? x : α(eˣ − 1)): ∂x = x > 0 ? γg : g·(y + γα) (Klambauer et al. 2017)
export const seluGrad: Grad = (c) => {
  const alpha = c.node.float("alpha", 1.6732632423543772);
  const gamma = c.node.float("gamma", 1.0507009873554805);
  const tail = mul(c, g(c), add(c, y(c), number(c, alpha * gamma)));
  const slope = scale(c, g(c), gamma, x(c).dtype);
  return [c.b.op("Where", [c.b.op("Greater", [x(c), number(c, 0)]), slope, tail])];
};

// y = max(x, 0) + min(0, α(e^(x/α) − 1)): ∂x = x > 0 ? g : g·(y/α + 1) (Barron 2017)
export const celuGrad: Grad = (c) => {
  const tail = mul(c, g(c), add(c, scale(c, y(c), 1 / c.node.float("alpha", 1), x(c).dtype), number(c, 1)));
  return [where(c, c.b.op("Greater", [x(c), number(c, 0)]), tail)];
};

// y = x > α ? x : 0: ∂x = g·[x > α]
export const thresholdedReluGrad: Grad = (c) => [
  where(c, c.b.op("Greater", [x(c), number(c, c.node.float("alpha", 1))])),
];

// y = x + b below −λ, x − b above λ, 0 between: ∂x = g·[|x| > λ]
export const shrinkGrad: Grad = (c) => [
  where(c, c.b.op("Greater", [c.b.op("Abs", [x(c)]), number(c, c.node.float("lambd", 0.5))])),
];

// y = x > 0 ? x : α(eˣ − 1): ∂x = x > 0 ? g : g·(y + α)
export const eluGrad: Grad = (c) => {
  const tail = mul(c, g(c), add(c, y(c), number(c, c.node.float("alpha", 1))));
  return [where(c, c.b.op("Greater", [x(c), number(c, 0)]), tail)];
};

// y = ln(1 + eˣ): ∂x = g·σ(x)
export const softplusGrad: Grad = (c) => [mul(c, g(c), c.b.op("Sigmoid", [x(c)]))];

// y = x/(1 + |x|): ∂x = g/(1 + |x|)²
export const softsignGrad: Grad = (c) => {
  const whole = add(c, c.b.op("Abs", [x(c)]), number(c, 1));
  return [div(c, g(c), mul(c, whole, whole))];
};

// y = min(max(αx + β, 0), 1): ∂x = αg·[0 < y < 1]
export const hardSigmoidGrad: Grad = (c) => {
  const slope = scale(c, g(c), c.node.float("alpha", 0.2), x(c).dtype);
  return [mul(c, slope, strictlyInside(c, y(c)))];
};

// y = x·h, h = min(max(x/6 + ½, 0), 1): ∂x = g·(h + x/6·[0 < h < 1])
export const hardSwishGrad: Grad = (c) => {
  const attributes = { alpha: float(1 / 6), beta: float(0.5) };
  const h = c.b.op("HardSigmoid", [x(c)], { attributes });
  return [mul(c, g(c), add(c, h, mul(c, scale(c, x(c), 1 / 6), strictlyInside(c, h))))];
};

/** [0 < v < 1] as numbers. */
function strictlyInside(c: GradContext, v: Value): Value {
  const inside = c.b.op("And", [c.b.op("Greater", [v, number(c, 0)]), c.b.op("Less", [v, number(c, 1)])]);
  return indicator(c, inside, x(c).dtype);
}
