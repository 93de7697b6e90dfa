/** Gradients of trigonometric and hyperbolic functions and their inverses. */
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { add, div, mul, neg, scalar, sub } from "./words.ts";

/** A rule ∂x = g·f′, f′ written from x and y. */
function slope(derivative: (c: GradContext, x: Value, y: Value) => Value): Grad {
  return (c) => [
    mul(c, c.outputGrad(0) as Value, derivative(c, c.node.inputs[0] as Value, c.node.outputs[0] as Value)),
  ];
}

/** A rule ∂x = g/h, h = 1/f′ written from x. */
function quotient(divisor: (c: GradContext, x: Value) => Value): Grad {
  return (c) => [div(c, c.outputGrad(0) as Value, divisor(c, c.node.inputs[0] as Value))];
}

const one = (c: GradContext): Value => scalar(c, (c.node.inputs[0] as Value).dtype, 1);
const square = (c: GradContext, x: Value): Value => mul(c, x, x);
const root = (c: GradContext, x: Value): Value => c.b.op("Sqrt", [x]);

// sin′ = cos, cos′ = −sin, tan′ = 1 + tan²
export const sinGrad: Grad = slope((c, x) => c.b.op("Cos", [x]));
export const cosGrad: Grad = slope((c, x) => neg(c, c.b.op("Sin", [x])));
export const tanGrad: Grad = slope((c, _, y) => add(c, one(c), square(c, y)));

// asin′ = 1/√(1 − x²), acos′ = −1/√(1 − x²), atan′ = 1/(1 + x²)
export const asinGrad: Grad = quotient((c, x) => root(c, sub(c, one(c), square(c, x))));
export const acosGrad: Grad = quotient((c, x) => neg(c, root(c, sub(c, one(c), square(c, x)))));
export const atanGrad: Grad = quotient((c, x) => add(c, one(c), square(c, x)));

// sinh′ = cosh, cosh′ = sinh
export const sinhGrad: Grad = slope((c, x) => c.b.op("Cosh", [x]));
export const coshGrad: Grad = slope((c, x) => c.b.op("Sinh", [x]));

// asinh′ = 1/√(x² + 1), acosh′ = 1/√(x² − 1), atanh′ = 1/(1 − x²)
export const asinhGrad: Grad = quotient((c, x) => root(c, add(c, square(c, x), one(c))));
export const acoshGrad: Grad = quotient((c, x) => root(c, sub(c, square(c, x), one(c))));
export const atanhGrad: Grad = quotient((c, x) => sub(c, one(c), square(c, x)));
