/** Adam and AdamW. */
import type { Value } from "../../ir/graph.ts";
import { add, div, mul, scalar, scale, sub } from "../../ops/gradients/words.ts";
import type { Optimizer, OptimizerOptions } from "./optimizer.ts";

// m ← β₁m + (1 − β₁)g; u ← β₂u + (1 − β₂)g²; w ← w − η·m̂/(√û + ε), m̂ = m/(1 − β₁ᵗ), û = u/(1 − β₂ᵗ) (Kingma and Ba 2015)
// Adam adds λw to g; AdamW shrinks w by ηλ instead (Loshchilov and Hutter 2019).
export function adam(options: OptimizerOptions, decoupled: boolean): Optimizer {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8 } = options;
  return {
    name: decoupled ? "adamw" : "adam",
    learningRate: 0.001,
    slots: ["mean", "square"],
    scalars: ["rate", "root_correction", "learning_rate"],
    rates: ["rate", "learning_rate"],
    feed: (step, learningRate) => ({
      rate: learningRate / (1 - beta1 ** (step + 1)),
      root_correction: 1 / Math.sqrt(1 - beta2 ** (step + 1)),
      learning_rate: learningRate,
    }),
    update(s, { weight, gradient, slots, weightDecay }, scalars) {
      const [m, u] = slots as readonly [Value, Value];
      const decay = weightDecay > 0;
      const g = decay && !decoupled ? add(s, gradient, scale(s, weight, weightDecay, "float32")) : gradient;
      const mean = add(s, scale(s, m, beta1, "float32"), scale(s, g, 1 - beta1, "float32"));
      const square = add(s, scale(s, u, beta2, "float32"), scale(s, mul(s, g, g), 1 - beta2, "float32"));
      const root = mul(s, s.b.op("Sqrt", [square]), scalars["root_correction"] as Value);
      const denominator = add(s, root, scalar(s, "float32", epsilon));
      const step = mul(s, div(s, mean, denominator), scalars["rate"] as Value);
      if (!decay || !decoupled) return { weight: sub(s, weight, step), slots: [mean, square] };
      const rate = scalars["learning_rate"] as Value;
      const shrink = sub(s, scalar(s, "float32", 1), scale(s, rate, weightDecay, "float32"));
      return { weight: sub(s, mul(s, weight, shrink), step), slots: [mean, square] };
    },
  };
}
