/** What an optimizer is: it turns a weight, its gradient and its state into the next weight and state, on the graph. */
import type { Value } from "../../ir/graph.ts";
import type { Site } from "../../ops/gradients/words.ts";

export const OPTIMIZERS = ["sgd", "adam", "adamw", "rmsprop", "lion"] as const;
export type OptimizerName = (typeof OPTIMIZERS)[number];

export interface OptimizerOptions {
  /** Default "sgd". */
  readonly optimizer?: OptimizerName | undefined;
  /** Momentum of SGD (default 0.9) and of RMSprop (default 0). */
  readonly momentum?: number | undefined;
  /** Nesterov's form of SGD's momentum; default false. */
  readonly nesterov?: boolean | undefined;
  /** Averaging of gradients in Adam and Lion: default 0.9. */
  readonly beta1?: number | undefined;
  /** Averaging of squares in Adam (default 0.999) and RMSprop (0.99), of the momentum in Lion (0.99). */
  readonly beta2?: number | undefined;
  /** Added to the denominator of Adam and RMSprop; default 1e-8. */
  readonly epsilon?: number | undefined;
}

/** One parameter in the step graph. */
export interface Parameter {
  readonly weight: Value;
  readonly gradient: Value;
  readonly slots: readonly Value[];
  /** λ; 0 for what does not decay. */
  readonly weightDecay: number;
}

export interface Optimizer {
  readonly name: OptimizerName;
  /** Highest learning rate where nobody says one. */
  readonly learningRate: number;
  /** Names of the state tensors that each parameter has, all of the parameter's shape and zero at first. */
  readonly slots: readonly string[];
  /** Names of the scalars fed at every step. */
  readonly scalars: readonly string[];
  /** Those of them that are proportional to the learning rate: a group with its own rate gets them multiplied. */
  readonly rates: readonly string[];
  /** Their values at step `step` (from 0). */
  feed(step: number, learningRate: number): Readonly<Record<string, number>>;
  /** The next weight and slots. */
  update(s: Site, parameter: Parameter, scalars: Readonly<Record<string, Value>>): { weight: Value; slots: Value[] };
}
