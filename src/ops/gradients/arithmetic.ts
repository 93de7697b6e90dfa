/** Gradients of elementwise arithmetic: sums, products, powers, remainders, extrema and choices. */
import { dtypeCode } from "../../base/dtype.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { add, broadcasting, div, indicator, mul, neg, scalar, scale, sub, sumTo, zerosLike } from "./words.ts";

/** Input `index` of the node at hand, which the operator requires. */
function input(c: GradContext, index: number): Value {
  return c.node.inputs[index] as Value;
}

/** Gradient of the only output; a rule is not called when nothing flows into its node. */
function flow(c: GradContext): Value {
  return c.outputGrad(0) as Value;
}

// y = a + b: ∂a = g, ∂b = g
export const addGrad: Grad = broadcasting((c) => [c.wants(0) ? flow(c) : undefined, c.wants(1) ? flow(c) : undefined]);

// y = a − b: ∂a = g, ∂b = −g
export const subGrad: Grad = (c) => {
  const [a, b] = [input(c, 0), input(c, 1)];
  const from = c.node.outputs[0]?.shape;
  return [
    c.wants(0) ? sumTo(c, flow(c), from, a) : undefined,
    c.wants(1) ? neg(c, sumTo(c, flow(c), from, b)) : undefined,
  ];
};

// y = a·b: ∂a = g·b, ∂b = g·a
export const mulGrad: Grad = broadcasting((c) => [
  c.wants(0) ? mul(c, flow(c), input(c, 1)) : undefined,
  c.wants(1) ? mul(c, flow(c), input(c, 0)) : undefined,
]);

// y = a/b: ∂a = g/b, ∂b = −g·y/b
export const divGrad: Grad = broadcasting((c) => {
  const y = c.node.outputs[0] as Value;
  const quotient = div(c, flow(c), input(c, 1));
  return [c.wants(0) ? quotient : undefined, c.wants(1) ? neg(c, mul(c, quotient, y)) : undefined];
});

// y = −x: ∂x = −g
export const negGrad: Grad = (c) => [neg(c, flow(c))];

// y = a mod b = a − b·trunc(a/b) (of floats, with a's sign): ∂a = g, ∂b = −g·(a − y)/b
export const modGrad: Grad = broadcasting((c) => {
  const [a, b] = [input(c, 0), input(c, 1)];
  const whole = (): Value => div(c, sub(c, c.node.outputs[0] as Value, a), b);
  return [c.wants(0) ? flow(c) : undefined, c.wants(1) ? mul(c, flow(c), whole()) : undefined];
});

// y = a^b: ∂a = g·b·a^(b−1) (0 where b is 0), ∂b = g·y·ln a (0 where a is 0)
export const powGrad: Grad = broadcasting((c) => {
  const [a, b] = [input(c, 0), input(c, 1)];
  return [c.wants(0) ? powBase(c, a, b) : undefined, c.wants(1) ? powExponent(c, a, b) : undefined];
});

function powBase(c: GradContext, a: Value, b: Value): Value {
  const exponent = b.tensor?.elements === 1 ? b.tensor.peekNumbers()?.[0] : undefined;
  if (exponent === 2) return mul(c, flow(c), scale(c, a, 2));
  if (exponent === 0.5) return div(c, scale(c, flow(c), 0.5, a.dtype), c.node.outputs[0] as Value);
  if (exponent !== undefined) {
    if (exponent === 1) return flow(c);
    if (exponent === 0) return zerosLike(c, c.node.outputs[0] as Value);
    const power = exponent === 3 ? mul(c, a, a) : c.b.op("Pow", [a, scalar(c, a.dtype, exponent - 1)]);
    return mul(c, flow(c), scale(c, power, exponent, a.dtype));
  }
  const exact = castLike(c, b, a);
  const zero = scalar(c, a.dtype, 0);
  const slope = mul(c, exact, c.b.op("Pow", [a, sub(c, exact, scalar(c, a.dtype, 1))]));
  return c.b.op("Where", [c.b.op("Equal", [exact, zero]), zero, mul(c, flow(c), slope)]);
}

function powExponent(c: GradContext, a: Value, b: Value): Value {
  const zero = scalar(c, a.dtype, 0);
  const logarithm = c.b.op("Where", [c.b.op("Equal", [a, zero]), zero, c.b.op("Log", [a])]);
  const gradient = mul(c, flow(c), mul(c, c.node.outputs[0] as Value, logarithm));
  return castLike(c, gradient, b, a);
}

/** x in the dtype of `like`; `now` has x's own. */
function castLike(c: GradContext, x: Value, like: Value, now: Value = x): Value {
  if (now.dtype === like.dtype) return x;
  return like.dtype
    ? c.b.op("Cast", [x], { attributes: { to: dtypeCode(like.dtype) } })
    : c.b.op("CastLike", [x, like]);
}

// y = √x: ∂x = g/(2y)
export const sqrtGrad: Grad = (c) => {
  const y = c.node.outputs[0] as Value;
  return [div(c, scale(c, flow(c), 0.5, input(c, 0).dtype), y)];
};

// y = 1/x: ∂x = −g·y²
export const reciprocalGrad: Grad = (c) => {
  const y = c.node.outputs[0] as Value;
  return [neg(c, mul(c, flow(c), mul(c, y, y)))];
};

// y = |x|: ∂x = g·sign(x)
export const absGrad: Grad = (c) => [mul(c, flow(c), c.b.op("Sign", [input(c, 0)]))];

// y = eˣ: ∂x = g·y
export const expGrad: Grad = (c) => [mul(c, flow(c), c.node.outputs[0] as Value)];

// y = ln x: ∂x = g/x
export const logGrad: Grad = (c) => [div(c, flow(c), input(c, 0))];

// y = Σ xᵢ: ∂xᵢ = g
export const sumGrad: Grad = broadcasting((c) =>
  c.node.inputs.map((_, index) => (c.wants(index) ? flow(c) : undefined)),
);

// y = mean xᵢ over n inputs: ∂xᵢ = g/n
export const meanGrad: Grad = broadcasting((c) => {
  const share = scale(c, flow(c), 1 / c.node.inputs.length, input(c, 0).dtype);
  return c.node.inputs.map((_, index) => (c.wants(index) ? share : undefined));
});

// y = max(x₁, …, xₙ) or min: ∂xᵢ = g·[xᵢ = y] / #{j : xⱼ = y}
export const extremumGrad: Grad = broadcasting((c) => {
  if (c.node.inputs.length === 1) return [flow(c)];
  const y = c.node.outputs[0] as Value;
  const dtype = input(c, 0).dtype;
  const hits = c.node.inputs.map((x) => indicator(c, c.b.op("Equal", [x as Value, y]), dtype));
  const ties = hits.reduce((sum, hit) => add(c, sum, hit));
  const share = div(c, flow(c), ties);
  return hits.map((hit, index) => (c.wants(index) ? mul(c, share, hit) : undefined));
});

// y = condition ? a : b: ∂a = condition ? g : 0, ∂b = condition ? 0 : g
export const whereGrad: Grad = broadcasting((c) => {
  const zero = scalar(c, input(c, 1).dtype, 0);
  return [
    undefined,
    c.wants(1) ? c.b.op("Where", [input(c, 0), flow(c), zero]) : undefined,
    c.wants(2) ? c.b.op("Where", [input(c, 0), zero, flow(c)]) : undefined,
  ];
});
