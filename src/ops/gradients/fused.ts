/** Gradients of ONNX Runtime's fused forms: FusedConv, FusedGemm (an activation at the end) and FusedMatMul (transposes inside). */
import { PareError } from "../../base/error.ts";
import { float } from "../../ir/attribute.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { convGrad } from "./conv.ts";
import { gemmGrad, matMulGrad } from "./matmul.ts";
import { mul, rankOf, scalar, scale, sub, sumTo } from "./words.ts";

/** The context of the linear part of a fused node: what flows into it instead of into the whole. */
function withFlow(c: GradContext, flow: Value): GradContext {
  return { ...c, outputGrad: (index) => (index === 0 ? flow : undefined) };
}

/** g·f′ for the activation f of a fused node, from its output y = f(z) alone. */
function throughActivation(c: GradContext, name: string | undefined, parameters: readonly number[]): Value {
  const g = c.outputGrad(0) as Value;
  const y = c.node.outputs[0] as Value;
  const number = (value: number): Value => scalar(c, y.dtype, value);
  const where = (op: string, bound: number, other: Value): Value =>
    c.b.op("Where", [c.b.op(op, [y, number(bound)]), g, other]);
  switch (name ?? "") {
    case "":
      return g;
    case "Relu":
      return where("Greater", 0, number(0));
    case "LeakyRelu": // y > 0 exactly where z > 0, for a positive slope
      return where("Greater", 0, scale(c, g, parameters[0] ?? 0.01, y.dtype));
    case "Tanh":
      return mul(c, g, sub(c, number(1), mul(c, y, y)));
    case "Sigmoid":
      return mul(c, g, mul(c, y, sub(c, number(1), y)));
    case "Clip":
      return strictly(c, g, y, parameters[0] ?? Number.NEGATIVE_INFINITY, parameters[1] ?? Number.POSITIVE_INFINITY);
    case "HardSigmoid":
      return strictly(c, scale(c, g, parameters[0] ?? 0.2, y.dtype), y, 0, 1);
    default:
      throw new PareError("not-differentiable", `The activation ${name} of ${c.node.opType} has no gradient`, {
        where: `node '${c.node.name}'`,
      });
  }
}

/** g where low < y < high, else 0. */
function strictly(c: GradContext, g: Value, y: Value, low: number, high: number): Value {
  const above = c.b.op("Greater", [y, scalar(c, y.dtype, low)]);
  const below = c.b.op("Less", [y, scalar(c, y.dtype, high)]);
  return c.b.op("Where", [c.b.op("And", [above, below]), g, scalar(c, y.dtype, 0)]);
}

// y = f(conv(x, w, b) + z): ∂(conv) = ∂z = g·f′
export const fusedConvGrad: Grad = (c) => {
  const flow = throughActivation(c, c.node.string("activation"), c.node.floats("activation_params") ?? []);
  const [x, w, b] = convGrad(withFlow(c, flow));
  return [x, w, b, c.wants(3) ? flow : undefined];
};

// y = f(α·A'·B' + β·C)
export const fusedGemmGrad: Grad = (c) => {
  const parameters = ["activation_alpha", "activation_beta"].map((name) => c.node.float(name));
  const known = parameters.every((value) => value !== undefined) ? (parameters as number[]) : [];
  return gemmGrad(withFlow(c, throughActivation(c, c.node.string("activation"), known)));
};

// Y = α·A'·B', A' = A or Aᵀ, B' = B or Bᵀ (last two axes): ∂A' = α·G·B'ᵀ, ∂B' = α·A'ᵀ·G, summed over broadcast axes
export const fusedMatMulGrad: Grad = (c) => {
  const { node } = c;
  const [a, b] = node.inputs as readonly [Value, Value];
  const g = c.outputGrad(0) as Value;
  const alpha = node.float("alpha", 1);
  if (rankOf(node, a) === 1 || rankOf(node, b) === 1) return matMulGrad(withFlow(c, scale(c, g, alpha, a.dtype)));
  if (node.int("transBatchA", 0) || node.int("transBatchB", 0))
    throw new PareError("not-differentiable", "FusedMatMul with transposed batch axes has no gradient", {
      where: `node '${node.name}'`,
      help: "Use MatMul and Transpose",
    });
  const [transA, transB] = [node.int("transA", 0) !== 0, node.int("transB", 0) !== 0];
  const product = (left: Value, turnLeft: boolean, right: Value, turnRight: boolean): Value =>
    c.b.op("FusedMatMul", [left, right], {
      domain: "com.microsoft",
      attributes: { transA: turnLeft ? 1 : 0, transB: turnRight ? 1 : 0, alpha: float(alpha) },
    });
  const dA = (): Value => (transA ? product(b, transB, g, true) : product(g, false, b, !transB));
  const dB = (): Value => (transB ? product(g, true, a, transA) : product(a, !transA, g, false));
  const batch = node.outputs[0]?.shape?.slice(0, -2);
  const whole = (value: Value) => (batch && value.shape ? [...batch, ...value.shape.slice(-2)] : undefined);
  return [c.wants(0) ? sumTo(c, dA(), whole(a), a) : undefined, c.wants(1) ? sumTo(c, dB(), whole(b), b) : undefined];
};
