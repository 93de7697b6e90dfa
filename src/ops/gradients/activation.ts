/** Gradients of activation functions: one input, one output, elementwise. */
import { float } from "../../ir/attribute.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { add, div, indicator, mul, scalar, scale, sub } from "./words.ts";

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

// y = max(x, 0): ∂x = g·[y > 0]. In float32 the indicator is min(10³⁸·y, 1), one HardSigmoid: half the time of a comparison.
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

// y = min(max(x, low), high): ∂x = g·[low ≤ x ≤ high]
export const clipGrad: Grad = (c) => {
  const low = c.node.inputs[1] ?? boundAttribute(c, "min");
  const high = c.node.inputs[2] ?? boundAttribute(c, "max");
  let inside: Value | undefined;
  if (low) inside = c.b.op("Not", [c.b.op("Less", [x(c), low])]);
  if (high) {
    const below = c.b.op("Not", [c.b.op("Greater", [x(c), high])]);
    inside = inside ? c.b.op("And", [inside, below]) : below;
  }
  return [inside ? where(c, inside) : g(c)];
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

// y = x·Φ(x), Φ(x) = ½(1 + erf(x/√2)): ∂x = g·(Φ(x) + x·φ(x)), φ(x) = e^(−x²/2)/√(2π)
// y = ½x(1 + t), t = tanh(√(2/π)(x + 0.044715x³)): ∂x = g·(½(1 + t) + ½x(1 − t²)·√(2/π)(1 + 0.134145x²))
// (Hendrycks and Gimpel 2016)
export const geluGrad: Grad = (c) => {
  const dtype = x(c).dtype;
  const square = mul(c, x(c), x(c));
  if (c.node.string("approximate") === "tanh") {
    const k = Math.sqrt(2 / Math.PI);
    const cubic = add(c, scale(c, square, 0.044715 * k, dtype), number(c, k));
    const t = c.b.op("Tanh", [mul(c, x(c), cubic)]);
    const left = add(c, scale(c, t, 0.5, dtype), number(c, 0.5));
    const inner = add(c, scale(c, square, 0.134145 * k, dtype), number(c, k));
    const flat = sub(c, number(c, 1), mul(c, t, t));
    return [mul(c, g(c), add(c, left, mul(c, scale(c, x(c), 0.5), mul(c, flat, inner))))];
  }
  const erf = c.b.op("Erf", [scale(c, x(c), Math.SQRT1_2)]);
  const phi = add(c, scale(c, erf, 0.5, dtype), number(c, 0.5));
  const density = scale(c, c.b.op("Exp", [scale(c, square, -0.5, dtype)]), 1 / Math.sqrt(2 * Math.PI), dtype);
  return [mul(c, g(c), add(c, phi, mul(c, x(c), density)))];
};

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
