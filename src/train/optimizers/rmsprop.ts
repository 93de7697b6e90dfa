/** RMSprop: gradients divided by the root of their mean square. */
import type { Value } from "../../ir/graph.ts";
import { add, div, mul, scalar, scale, sub } from "../../ops/gradients/words.ts";
import type { Optimizer, OptimizerOptions } from "./optimizer.ts";

// g' = g + λw; u ← βu + (1 − β)g'²; d = g'/(√u + ε); w ← w − η·d, or v ← μv + d; w ← w − η·v with momentum
// (Tieleman and Hinton 2012)
export function rmsprop({ momentum = 0, beta2 = 0.99, epsilon = 1e-8 }: OptimizerOptions): Optimizer {
  return {
    name: "rmsprop",
    learningRate: 0.001,
    slots: momentum === 0 ? ["square"] : ["square", "momentum"],
    scalars: ["learning_rate"],
    rates: ["learning_rate"],
    feed: (_, learningRate) => ({ learning_rate: learningRate }),
    update(s, { weight, gradient, slots, weightDecay }, scalars) {
      const [u, v] = slots as readonly [Value, Value | undefined];
      const g = weightDecay > 0 ? add(s, gradient, scale(s, weight, weightDecay, "float32")) : gradient;
      const square = add(s, scale(s, u, beta2, "float32"), scale(s, mul(s, g, g), 1 - beta2, "float32"));
      const direction = div(s, g, add(s, s.b.op("Sqrt", [square]), scalar(s, "float32", epsilon)));
      const moved = v && add(s, scale(s, v, momentum, "float32"), direction);
      const next = sub(s, weight, mul(s, moved ?? direction, scalars["learning_rate"] as Value));
      return { weight: next, slots: moved ? [square, moved] : [square] };
    },
  };
}
