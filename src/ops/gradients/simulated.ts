/**
 * Simulated low-bit numbers under training: what they compute, in plain operators, and gradients that pass rounding straight
 * through. Scales learn by what rounding and clipping leave: LSQ (Esser et al. 2020, arXiv 1902.08153), offsets as in LSQ+
 * (Bhalgat et al. 2020, arXiv 2004.09576).
 */
import { float } from "../../ir/attribute.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext, Lower, RuleContext } from "../spec.ts";
import {
  add,
  axisOf,
  concreteShape,
  div,
  indicator,
  mul,
  neg,
  rankOf,
  reduceMean,
  reduceSum,
  reshape,
  scalar,
  scale as scaled,
  sub,
} from "./words.ts";

/** Large enough that every difference between a bound and a float next to it, times it, exceeds 1. */
const STEEP = 1e37;
/** Share of the largest weight below which TTQ's codes are 0 (Zhu et al. 2017). */
const TTQ_THRESHOLD = 0.05;
/** Share of the mean weight below which TWN's codes are 0 (Li et al. 2016). */
const TWN_THRESHOLD = 0.7;
/** Integers in which TTQ's two magnitudes are stored. */
export const TTQ_LEVELS = 63; // 8-bit products of such weights never overflow 16 bits

const number = (c: RuleContext, value: number): Value => scalar(c, "float32", value);
const data = (c: RuleContext): Value => c.node.inputs[0] as Value;
const flow = (c: GradContext): Value => c.outputGrad(0) as Value;

/** Axes of the data that share one scale; undefined: all of them. */
function sharing(c: RuleContext): readonly number[] | undefined {
  const axis = c.node.int("axis");
  if (axis === undefined) return undefined;
  const rank = rankOf(c.node, data(c));
  const own = axisOf(axis, rank);
  return Array.from({ length: rank }, (_, i) => i).filter((i) => i !== own);
}

/** A scale, one number or (channels), as one that broadcasts against the data. */
function spread(c: RuleContext, value: Value): Value {
  const axis = c.node.int("axis");
  if (axis === undefined) return value;
  const rank = rankOf(c.node, data(c));
  const own = axisOf(axis, rank);
  return reshape(
    c,
    value,
    Array.from({ length: rank }, (_, i) => (i === own ? -1 : 1)),
  );
}

/** Σ a·b over the elements that share a scale, in the scale's shape. All of them: a product of two vectors. */
function products(c: RuleContext, a: Value, b: Value): Value {
  const axes = sharing(c);
  if (axes) return reduceSum(c, mul(c, a, b), axes, false);
  const row = (value: Value): Value => reshape(c, value, [1, -1]);
  return reshape(c, c.b.op("Gemm", [row(a), row(b)], { attributes: { transB: 1 } }), []);
}

/** The smallest and largest code less the zero point, which is learned as a real number and used as the nearest integer. */
function bounds(c: RuleContext): readonly [Value, Value] {
  const [low, high] = [number(c, c.node.int("low", 0)), number(c, c.node.int("high", 0))];
  const offset = c.node.inputs[2];
  if (!offset) return [low, high];
  const zero = c.b.op("Round", [offset]);
  return [sub(c, low, zero), sub(c, high, zero)];
}

// y = s·clip(round(x/s), low − z, high − z), z = round(offset)
export const lowerFakeQuantize: Lower = (c) => {
  const s = spread(c, c.node.inputs[1] as Value);
  const codes = c.b.op("Clip", [c.b.op("Round", [div(c, data(c), s)]), ...bounds(c)]);
  return [mul(c, codes, s)];
};

/** g where x lies within the range, else 0; g itself where the range is said not to matter. */
function passed(c: GradContext, g: Value): Value {
  const s = spread(c, c.node.inputs[1] as Value);
  const [low, high] = bounds(c);
  const gate = (bound: Value, slope: number): Value =>
    c.b.op("HardSigmoid", [sub(c, data(c), mul(c, bound, s))], { attributes: { alpha: float(slope), beta: float(1) } });
  const below = mul(c, g, gate(high, -STEEP));
  return c.node.int("nonnegative", 0) === 1 ? below : mul(c, below, gate(low, STEEP));
}

// With c the code less z, within [l, h]: ∂x = g·[l·s ≤ x ≤ h·s], ∂s = Σ g·(c − [inside]·x/s) = (Σ g·y − Σ ∂x·x)/s,
// ∂z = −s·Σ g·[outside]; both of the latter times the gradient scale 1/√(N·h), N elements (of one sample) per scale.
// Ranges that do not learn let everything through.
export const fakeQuantizeGrad: Grad = (c) => {
  const g = flow(c);
  if (c.node.int("learned", 0) === 0) return [c.wants(0) ? g : undefined];
  const inside = passed(c, g);
  const s = c.node.inputs[1] as Value;
  const factor = c.node.float("gradient_scale", 1);
  const y = c.node.outputs[0] as Value;
  const residue = (): Value => div(c, sub(c, products(c, g, y), products(c, inside, data(c))), s);
  const outside = (): Value => {
    const all = concreteShape(c.node, data(c)).map((_, axis) => axis);
    return mul(c, s, reduceSum(c, sub(c, inside, g), all, false));
  };
  return [
    c.wants(0) ? inside : undefined,
    c.wants(1) ? scaled(c, residue(), factor, "float32") : undefined,
    c.wants(2) ? scaled(c, outside(), factor, "float32") : undefined,
  ];
};

/** Mean over the elements that share a scale, in a shape that broadcasts. */
function mean(c: RuleContext, x: Value): Value {
  const axes = sharing(c) ?? concreteShape(c.node, data(c)).map((_, axis) => axis);
  return reduceMean(c, x, axes, true);
}

// y = s·sign(x), sign(0) = 1; s learned, or the mean of |x| (Rastegari et al. 2016, arXiv 1603.05279)
export const lowerFakeBinary: Lower = (c) => {
  const x = data(c);
  const own = c.node.inputs[1];
  const s = own ? spread(c, own) : mean(c, c.b.op("Abs", [x]));
  return [c.b.op("Where", [c.b.op("Less", [x, number(c, 0)]), neg(c, s), s])];
};

// ∂x = g, ∂s = Σ g·y/s
export const fakeBinaryGrad: Grad = (c) => {
  const g = flow(c);
  const s = c.node.inputs[1];
  const factor = c.node.float("gradient_scale", 1);
  return [
    c.wants(0) ? g : undefined,
    s && c.wants(1) ? scaled(c, div(c, products(c, g, c.node.outputs[0] as Value), s), factor, "float32") : undefined,
  ];
};

/** Where x lies above t and below −t, as 1 and 0. */
function signs(c: RuleContext, t: Value): readonly [Value, Value] {
  const x = data(c);
  return [indicator(c, c.b.op("Greater", [x, t]), "float32"), indicator(c, c.b.op("Less", [x, neg(c, t)]), "float32")];
}

// TWN: t = 0.7·mean|x|, a = mean of |x| over |x| > t, y = a·sign(x)·[|x| > t] (Li et al. 2016, arXiv 1605.04711)
export const lowerFakeTernary: Lower = (c) => {
  const size = c.b.op("Abs", [data(c)]);
  const [above, below] = signs(c, scaled(c, mean(c, size), TWN_THRESHOLD, "float32"));
  const kept = add(c, above, below);
  const least = number(c, 1e-12); // no weight above the threshold: all are 0
  const a = div(c, mean(c, mul(c, size, kept)), c.b.op("Max", [mean(c, kept), least]));
  return [mul(c, sub(c, above, below), a)];
};

/** ∂x = g. */
export const fakeTernaryGrad: Grad = (c) => [c.wants(0) ? flow(c) : undefined];

/** Signs of what lies beyond t = 0.05·max|x|. */
function trainedSigns(c: RuleContext): readonly [Value, Value] {
  const row = reshape(c, c.b.op("Abs", [data(c)]), [-1]);
  const largest = c.b.op("ReduceMax", [row], { attributes: { keepdims: 0 } });
  return signs(c, scaled(c, largest, TTQ_THRESHOLD, "float32"));
}

// TTQ: t = 0.05·max|x|, y = p·[x > t] − n·[x < −t] (Zhu et al. 2017, arXiv 1612.01064), p and n on the grid of 63 steps up
// to the larger of them that stores both
export const lowerFakeTrainedTernary: Lower = (c) => {
  const [, p, n] = c.node.inputs as readonly [Value, Value, Value];
  const [above, below] = trainedSigns(c);
  const step = scaled(c, c.b.op("Max", [p, n]), 1 / TTQ_LEVELS, "float32");
  const onGrid = (value: Value): Value => mul(c, c.b.op("Round", [div(c, value, step)]), step);
  return [sub(c, mul(c, above, onGrid(p)), mul(c, below, onGrid(n)))];
};

// ∂p = Σ g·[x > t], ∂n = −Σ g·[x < −t], ∂x = g·(p above, n below, 1 between)
export const fakeTrainedTernaryGrad: Grad = (c) => {
  const g = flow(c);
  const [, p, n] = c.node.inputs as readonly [Value, Value, Value];
  const [above, below] = trainedSigns(c);
  const factor = c.node.float("gradient_scale", 1);
  const one = number(c, 1);
  const slope = add(c, one, add(c, mul(c, above, sub(c, p, one)), mul(c, below, sub(c, n, one))));
  return [
    c.wants(0) ? mul(c, g, slope) : undefined,
    c.wants(1) ? scaled(c, products(c, g, above), factor, "float32") : undefined,
    c.wants(2) ? scaled(c, products(c, g, below), -factor, "float32") : undefined,
  ];
};
