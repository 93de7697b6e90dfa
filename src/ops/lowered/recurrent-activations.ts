/** The activation functions that recurrent layers name. */
import type { DType } from "../../base/dtype.ts";
import { PareError } from "../../base/error.ts";
import { float } from "../../ir/attribute.ts";
import type { Node, Value } from "../../ir/graph.ts";
import { add, scalar, scale } from "../gradients/words.ts";
import type { RuleContext } from "../spec.ts";

/** x has the dtype of the layer. */
export type Activation = (c: RuleContext, x: Value) => Value;

const dtypeOf = (c: RuleContext): DType | undefined => c.node.inputs[0]?.dtype;

interface Kind {
  /** Defaults of alpha and beta, where the function has them. */
  readonly alpha?: number;
  readonly beta?: number;
  make(alpha: number, beta: number): Activation;
}

/** An operator with alpha, beta or none as attributes. */
function plain(opType: string, alpha?: number, beta?: number): Kind {
  return {
    ...(alpha === undefined ? {} : { alpha }),
    ...(beta === undefined ? {} : { beta }),
    make: (a, b) => (s, x) =>
      s.b.op(opType, [x], {
        attributes: {
          alpha: alpha === undefined ? undefined : float(a),
          beta: beta === undefined ? undefined : float(b),
        },
      }),
  };
}

const KINDS: Readonly<Record<string, Kind>> = {
  relu: plain("Relu"),
  tanh: plain("Tanh"),
  sigmoid: plain("Sigmoid"),
  softsign: plain("Softsign"),
  softplus: plain("Softplus"),
  elu: plain("Elu", 1),
  leakyrelu: plain("LeakyRelu", 0.01),
  thresholdedrelu: plain("ThresholdedRelu", 1),
  hardsigmoid: plain("HardSigmoid", 0.2, 0.5),
  affine: {
    alpha: 1,
    beta: 0,
    make: (a, b) => (c, x) => add(c, scale(c, x, a, dtypeOf(c)), scalar(c, dtypeOf(c), b)),
  },
  scaledtanh: {
    alpha: 1,
    beta: 1,
    make: (a, b) => (c, x) => scale(c, c.b.op("Tanh", [scale(c, x, b, dtypeOf(c))]), a, dtypeOf(c)),
  },
};

/** The activations of each direction; alphas and betas are used up in order by the functions that have them. */
export function activationsOf(node: Node, fallback: readonly string[], directions: number): Activation[][] {
  const attribute = node.attributes.get("activations");
  const given =
    attribute?.type === "strings" ? attribute.value.map((name) => new TextDecoder().decode(name)) : undefined;
  const alphas = [...(node.floats("activation_alpha") ?? [])];
  const betas = [...(node.floats("activation_beta") ?? [])];
  return Array.from({ length: directions }, (_, d) =>
    fallback.map((name, i) => {
      const chosen = given?.[d * fallback.length + i] ?? name;
      const kind = KINDS[chosen.toLowerCase()];
      if (!kind)
        throw new PareError("not-differentiable", `The activation ${chosen} is not known`, {
          where: `node '${node.name}' (${node.opType})`,
        });
      const alpha = kind.alpha === undefined ? 0 : (alphas.shift() ?? kind.alpha);
      const beta = kind.beta === undefined ? 0 : (betas.shift() ?? kind.beta);
      return kind.make(alpha, beta);
    }),
  );
}
