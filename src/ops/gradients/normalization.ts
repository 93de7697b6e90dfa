/** Gradients of BatchNormalization, with given statistics and with those of the batch. */
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { add, div, mul, neg, outputOf, rankOf, reduceMean, reduceSum, reshape, scalar, scale, sub } from "./words.ts";

/** Per-channel values as a shape that broadcasts against (n, c, *s). */
function perChannel(c: GradContext, value: Value, rank: number): Value {
  return reshape(c, value, [-1, ...Array.from({ length: rank - 2 }, () => 1)]);
}

/** r = 1/√(var + ε). */
function inverseDeviation(c: GradContext, variance: Value, dtype: Value["dtype"]): Value {
  const shifted = add(c, variance, scalar(c, dtype, c.node.float("epsilon", 1e-5)));
  return c.b.op("Reciprocal", [c.b.op("Sqrt", [shifted])]);
}

// y = s·(x − μ)·r + b, r = 1/√(v + ε), sums over all axes but the channels:
// ∂b = Σ g; ∂s = r·(Σ g·x − μ·Σ g); with given statistics ∂x = s·r·g, ∂μ = −s·r·Σ g, ∂v = −½·s·r²·∂s
// with the batch's own statistics over m elements ∂x = s·r·(g − ∂b/m − (x − μ)·r·∂s/m) (Ioffe and Szegedy 2015)
export const batchNormGrad: Grad = (c) => {
  const { node } = c;
  const [x, s, , mean, variance] = node.inputs as readonly Value[] as readonly [Value, Value, Value, Value, Value];
  const g = c.outputGrad(0);
  if (!g || node.outputs.some((_, i) => i > 0 && c.outputGrad(i)))
    throw new PareError("not-differentiable", "Only the first output of BatchNormalization has a gradient", {
      where: `node '${node.name}' (BatchNormalization)`,
    });
  const rank = rankOf(node, x);
  const axes = Array.from({ length: rank }, (_, axis) => axis).filter((axis) => axis !== 1);
  const training = node.int("training_mode", 0) !== 0;
  const used = training ? batchStatistics(c, rank, axes) : { mean, variance };
  const mu = used.mean;
  const r = inverseDeviation(c, used.variance, x.dtype);
  const needsScale = training || c.wants(1) || c.wants(4);
  const dB = needsScale || c.wants(2) || c.wants(3) ? reduceSum(c, g, axes, false) : undefined; // (c)
  const dS = needsScale && dB ? mul(c, r, sub(c, reduceSum(c, mul(c, g, x), axes, false), mul(c, mu, dB))) : undefined;
  const a = mul(c, s, r); // (c)
  let dX: Value | undefined;
  if (c.wants(0)) {
    dX = mul(c, g, perChannel(c, a, rank));
    if (training && dB && dS) {
      // ∂x = a·g + p·x + q with p = −a·r·∂s/m, q = −a·∂b/m − p·μ
      const p = neg(c, mul(c, mul(c, a, r), perElement(c, dS, x, rank)));
      const q = neg(c, add(c, mul(c, a, perElement(c, dB, x, rank)), mul(c, p, mu)));
      dX = add(c, dX, add(c, mul(c, x, perChannel(c, p, rank)), perChannel(c, q, rank)));
    }
  }
  return [
    dX,
    c.wants(1) ? dS : undefined,
    c.wants(2) ? dB : undefined,
    !training && dB && c.wants(3) ? neg(c, mul(c, a, dB)) : undefined,
    !training && dS && c.wants(4) ? scale(c, mul(c, mul(c, a, r), dS), -0.5, x.dtype) : undefined,
  ];
};

/**
 * Mean and variance of the batch. With momentum 0 they are what the node gives out; otherwise they are computed again,
 * since ONNX Runtime writes the updated running statistics over the old ones, from which they cannot be told any more.
 */
function batchStatistics(c: GradContext, rank: number, axes: readonly number[]): { mean: Value; variance: Value } {
  const [x, , , mean, variance] = c.node.inputs as readonly Value[] as readonly [Value, Value, Value, Value, Value];
  if (c.node.float("momentum", 0.9) === 0)
    return {
      mean: outputOf(c.node, 1, mean.dtype, mean.shape),
      variance: outputOf(c.node, 2, variance.dtype, variance.shape),
    };
  const mu = reduceMean(c, x, axes, false);
  const centred = sub(c, x, perChannel(c, mu, rank));
  return { mean: mu, variance: reduceMean(c, mul(c, centred, centred), axes, false) };
}

/** value/m, m = the number of elements per channel. */
function perElement(c: GradContext, value: Value, x: Value, rank: number): Value {
  const sizes = Array.from({ length: rank }, (_, axis) => (axis === 1 ? 1 : x.shape?.[axis]));
  if (sizes.every((size) => typeof size === "number"))
    return scale(c, value, 1 / (sizes as number[]).reduce((n, size) => n * size, 1), x.dtype);
  const to = x.dtype === "float64" ? 11 : 1;
  const size = (each: Value): Value => c.b.op("Cast", [c.b.op("Size", [each])], { attributes: { to } });
  return div(c, value, div(c, size(x), size(value)));
}
