/** Optimizers as graph nodes: each turns a weight, its gradient and its state into the next weight and state. */
import type { Value } from "../ir/graph.ts";
import { add, div, mul, scalar, scale, type Site, sub } from "../ops/gradients/words.ts";
import { float } from "../ir/attribute.ts";

export const OPTIMIZERS = ["sgd", "adam", "adamw"] as const;
export type OptimizerName = (typeof OPTIMIZERS)[number];

export interface OptimizerOptions {
  /** Default "sgd". */
  readonly optimizer?: OptimizerName | undefined;
  /** Momentum of SGD; default 0.9. */
  readonly momentum?: number | undefined;
  /** Nesterov's form of momentum; default false. */
  readonly nesterov?: boolean | undefined;
  /** Weight decay of matrices and kernels (biases and normalization parameters are not decayed); default 0. */
  readonly weightDecay?: number | undefined;
  /** Adam's averaging of gradients and of their squares; defaults 0.9 and 0.999. */
  readonly beta1?: number | undefined;
  readonly beta2?: number | undefined;
  /** Added to Adam's denominator; default 1e-8. */
  readonly epsilon?: number | undefined;
}

/** One parameter in the step graph. */
export interface Parameter {
  readonly weight: Value;
  readonly gradient: Value;
  readonly slots: readonly Value[];
  /** True for matrices and kernels. */
  readonly decays: boolean;
}

export interface Optimizer {
  /** Names of the state tensors that each parameter has, all of the parameter's shape and zero at first. */
  readonly slots: readonly string[];
  /** Names of the scalars fed at every step. */
  readonly scalars: readonly string[];
  /** Their values at step `step` (from 0). */
  feed(step: number, learningRate: number): Readonly<Record<string, number>>;
  /** The next weight and slots. */
  update(s: Site, parameter: Parameter, scalars: Readonly<Record<string, Value>>): { weight: Value; slots: Value[] };
}

export function makeOptimizer(options: OptimizerOptions = {}): Optimizer {
  return options.optimizer === "adam" || options.optimizer === "adamw" ? adam(options) : sgd(options);
}

// g' = g + λw; v ← μv + g'; w ← w − η·v, or w − η·(g' + μv) in Nesterov's form (Sutskever et al. 2013)
function sgd({ momentum = 0.9, nesterov = false, weightDecay = 0 }: OptimizerOptions): Optimizer {
  return {
    slots: momentum === 0 ? [] : ["momentum"],
    scalars: ["learning_rate"],
    feed: (_, learningRate) => ({ learning_rate: learningRate }),
    update(s, { weight, gradient, slots, decays }, scalars) {
      const { dtype } = weight;
      const rate = scalars["learning_rate"] as Value;
      const g = decays && weightDecay > 0 ? add(s, gradient, scale(s, weight, weightDecay, dtype)) : gradient;
      const [old] = slots;
      if (!old) return { weight: sub(s, weight, mul(s, g, rate)), slots: [] };
      // Nesterov's step needs g itself besides v
      const v = nesterov ? add(s, scale(s, old, momentum, dtype), g) : accumulate(s, old, momentum, g);
      const direction = nesterov ? add(s, g, scale(s, v, momentum, dtype)) : v;
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
  return add(s, scale(s, v, momentum, v.dtype), g);
}

// m ← β₁m + (1 − β₁)g; u ← β₂u + (1 − β₂)g²; w ← w − η·m̂/(√û + ε), m̂ = m/(1 − β₁ᵗ), û = u/(1 − β₂ᵗ) (Kingma and Ba 2015)
// Adam adds λw to g; AdamW shrinks w by ηλ instead (Loshchilov and Hutter 2019).
function adam(options: OptimizerOptions): Optimizer {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0 } = options;
  const decoupled = options.optimizer === "adamw";
  return {
    slots: ["mean", "square"],
    scalars: ["rate", "root_correction", "shrink"],
    feed: (step, learningRate) => ({
      rate: learningRate / (1 - beta1 ** (step + 1)),
      root_correction: 1 / Math.sqrt(1 - beta2 ** (step + 1)),
      shrink: 1 - learningRate * weightDecay,
    }),
    update(s, { weight, gradient, slots, decays }, scalars) {
      const { dtype } = weight;
      const [m, u] = slots as readonly [Value, Value];
      const decay = decays && weightDecay > 0;
      const g = decay && !decoupled ? add(s, gradient, scale(s, weight, weightDecay, dtype)) : gradient;
      const mean = add(s, scale(s, m, beta1, dtype), scale(s, g, 1 - beta1, dtype));
      const square = add(s, scale(s, u, beta2, dtype), mul(s, mul(s, g, g), scalar(s, dtype, 1 - beta2)));
      const root = mul(s, s.b.op("Sqrt", [square]), scalars["root_correction"] as Value);
      const step = mul(s, div(s, mean, add(s, root, scalar(s, dtype, epsilon))), scalars["rate"] as Value);
      const base = decay && decoupled ? mul(s, weight, scalars["shrink"] as Value) : weight;
      return { weight: sub(s, base, step), slots: [mean, square] };
    },
  };
}
