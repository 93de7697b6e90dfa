/** Stochastic gradient descent with momentum. */
import { float } from "../../ir/attribute.ts";
import type { Value } from "../../ir/graph.ts";
import { add, mul, scale, type Site, sub } from "../../ops/gradients/words.ts";
import type { Optimizer, OptimizerOptions } from "./optimizer.ts";

// g' = g + λw; v ← μv + g'; w ← w − η·v, or w − η·(g' + μv) in Nesterov's form (Sutskever et al. 2013)
export function sgd({ momentum = 0.9, nesterov = false }: OptimizerOptions): Optimizer {
  return {
    name: "sgd",
    learningRate: 0.05,
    slots: momentum === 0 ? [] : ["momentum"],
    scalars: ["learning_rate"],
    rates: ["learning_rate"],
    feed: (_, learningRate) => ({ learning_rate: learningRate }),
    update(s, { weight, gradient, slots, weightDecay }, scalars) {
      const rate = scalars["learning_rate"] as Value;
      const g = weightDecay > 0 ? add(s, gradient, scale(s, weight, weightDecay, "float32")) : gradient;
      const [old] = slots;
      if (!old) return { weight: sub(s, weight, mul(s, g, rate)), slots: [] };
      // Nesterov's step needs g itself besides v
      const v = nesterov ? add(s, scale(s, old, momentum, "float32"), g) : accumulate(s, old, momentum, g);
      const direction = nesterov ? add(s, g, scale(s, v, momentum, "float32")) : v;
      return { weight: sub(s, weight, mul(s, direction, rate)), slots: [v] };
    },
  };
}

/** μ·v + g. Where g is a plain matrix product, the product adds to μ·v itself: Gemm's third input. */
function accumulate(s: Site, v: Value, momentum: number, g: Value): Value {
  const product = g.producer;
  if (product?.opType === "Gemm" && product.inputs.length === 2 && g.uses.length === 0 && v.shape?.length === 2) {
    product.setInput(2, v);
    product.attributes.set("beta", float(momentum));
    return g;
  }
  return add(s, scale(s, v, momentum, "float32"), g);
}
