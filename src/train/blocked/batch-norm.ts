/** Batch normalization of blocked images with the batch's statistics, with what follows it: a sum and an activation. */
import { float } from "../../ir/attribute.ts";
import type { Node, Value } from "../../ir/graph.ts";
import {
  add,
  concreteShape,
  mul,
  neg,
  reduceMean,
  reduceSum,
  scalar,
  scale,
  type Site,
} from "../../ops/gradients/words.ts";
import type { Grad, GradContext } from "../../ops/spec.ts";
import { crop } from "./kernel.ts";
import { type Activation, affine, filled, type Image, padVector, planeMeans, planeProducts, shaped } from "./words.ts";

/**
 * Outputs of a node: y = act(s·(x − μ)·r + b + residual); mean μ and variance (channels); and what the gradient needs again:
 * x − μ, r = 1/√(variance + ε) and s·r (channels of the blocks).
 */
export const OUTPUTS = { y: 0, mean: 1, variance: 2, centred: 3, inverse: 4, factor: 5 } as const;

function activationOf(node: Node): Activation | undefined {
  const name = node.string("activation");
  if (name === "Relu") return { name };
  return name === "Clip" ? { name, low: node.float("low", 0), high: node.float("high", 0) } : undefined;
}

/** The forward form. The variance is that of the centred values: no difference of large numbers. */
export function lowerBatchNorm(s: Site, node: Node): readonly Value[] {
  const [x, weight, shift, residual] = node.inputs as readonly [Value, Value, Value, Value | undefined];
  const shape = concreteShape(node, x) as unknown as Image;
  const [n, stored, h, w] = shape;
  const channels = concreteShape(node, weight)[0] ?? stored;
  const mean = reduceMean(s, planeMeans(s, x, shape), [0], false); // (stored)
  const centred = affine(s, x, filled(s, [stored], 1), { channels: stored, bias: neg(s, mean) });
  const squares = reduceSum(s, planeProducts(s, centred, centred, shape), [0], false);
  const variance = scale(s, squares, 1 / (n * h * w), "float32");
  const shifted = add(s, variance, scalar(s, "float32", node.float("epsilon", 1e-5)));
  const inverse = s.b.op("Reciprocal", [s.b.op("Sqrt", [shifted])]);
  const factor = mul(s, padVector(s, weight, channels, stored), inverse);
  const bias = padVector(s, shift, channels, stored);
  const y = affine(s, centred, factor, { channels: stored, bias, sum: residual, activation: activationOf(node) });
  const own = (value: Value): Value => crop(s, value, [stored], [channels]);
  return [shaped(y, shape), own(mean), own(variance), shaped(centred, shape), inverse, factor];
}

/** g where the activation let its input through. */
function passed(c: GradContext, g: Value): Value {
  const activation = activationOf(c.node);
  const y = c.node.outputs[OUTPUTS.y] as Value;
  if (!activation) return g;
  // [y > low] = min(max(10³⁷·(y − low), 0), 1), in one pass: see reluGrad
  const gate = (slope: number, offset: number): Value =>
    c.b.op("HardSigmoid", [y], { attributes: { alpha: float(slope), beta: float(offset) } });
  const { low = 0, high } = activation;
  const above = mul(c, g, gate(STEEP, -STEEP * low));
  return high === undefined ? above : mul(c, above, gate(-STEEP, STEEP * high));
}

/** Times the smallest difference between a bound of some units and a float next to it far above 1; times a bound finite. */
const STEEP = 1e37;

// With m elements per channel: ∂b = Σ g, ∂s = r·Σ g·(x − μ), ∂x = s·r·(g − ∂b/m − (x − μ)·r·∂s/m) (Ioffe and Szegedy 2015)
export const batchNormGrad: Grad = (c) => {
  const { node } = c;
  const [x, weight] = node.inputs as readonly [Value, Value];
  const shape = concreteShape(node, x) as unknown as Image;
  const [n, stored, h, w] = shape;
  const channels = concreteShape(node, weight)[0] ?? stored;
  const [centred, inverse, factor] = [OUTPUTS.centred, OUTPUTS.inverse, OUTPUTS.factor].map(
    (index) => node.outputs[index] as Value,
  ) as [Value, Value, Value];
  const g = passed(c, c.outputGrad(OUTPUTS.y) as Value);
  const meanG = reduceMean(c, planeMeans(c, g, shape), [0], false); // ∂b/m
  const product = reduceSum(c, planeProducts(c, g, centred, shape), [0], false);
  const dS = mul(c, inverse, product);
  let dX: Value | undefined;
  if (c.wants(0)) {
    const part = affine(c, g, factor, { channels: stored, bias: neg(c, mul(c, factor, meanG)) });
    const slope = scale(c, mul(c, mul(c, factor, inverse), dS), -1 / (n * h * w), "float32");
    dX = affine(c, centred, slope, { channels: stored, sum: part });
  }
  const own = (value: Value): Value => crop(c, value, [stored], [channels]);
  return [
    dX,
    c.wants(1) ? own(dS) : undefined,
    c.wants(2) ? own(scale(c, meanG, n * h * w, "float32")) : undefined,
    c.wants(3) ? g : undefined,
  ];
};
