/** The optimizers by name. */
import { adam } from "./adam.ts";
import { lion } from "./lion.ts";
import type { Optimizer, OptimizerName, OptimizerOptions } from "./optimizer.ts";
import { rmsprop } from "./rmsprop.ts";
import { sgd } from "./sgd.ts";

const TABLE: Readonly<Record<OptimizerName, (options: OptimizerOptions) => Optimizer>> = {
  sgd,
  adam: (options) => adam(options, false),
  adamw: (options) => adam(options, true),
  rmsprop,
  lion,
};

export function makeOptimizer(options: OptimizerOptions = {}): Optimizer {
  return TABLE[options.optimizer ?? "sgd"](options);
}
