/** Lion: steps of one size in every direction, from a single state tensor. */
import type { Value } from "../../ir/graph.ts";
import { add, mul, scale, sub } from "../../ops/gradients/words.ts";
import type { Optimizer, OptimizerOptions } from "./optimizer.ts";

// c = β₁m + (1 − β₁)g; w ← w − η·(sign(c) + λw); m ← β₂m + (1 − β₂)g (Chen et al. 2023)
export function lion({ beta1 = 0.9, beta2 = 0.99 }: OptimizerOptions): Optimizer {
  return {
    name: "lion",
    learningRate: 1e-4,
    slots: ["mean"],
    scalars: ["learning_rate"],
    rates: ["learning_rate"],
    feed: (_, learningRate) => ({ learning_rate: learningRate }),
    update(s, { weight, gradient, slots, weightDecay }, scalars) {
      const [m] = slots as readonly [Value];
      const mixed = (beta: number): Value =>
        add(s, scale(s, m, beta, "float32"), scale(s, gradient, 1 - beta, "float32"));
      const sign = s.b.op("Sign", [mixed(beta1)]);
      const direction = weightDecay > 0 ? add(s, sign, scale(s, weight, weightDecay, "float32")) : sign;
      return { weight: sub(s, weight, mul(s, direction, scalars["learning_rate"] as Value)), slots: [mixed(beta2)] };
    },
  };
}
