/** Fresh networks whose parts can be told apart. */
import { Rng } from "../../src/base/rng.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";

/** Scales of one, biases of zero and the like become numbers that tell channels apart. */
export function lively(model: Model): Model {
  for (const value of model.graph.initializers.values()) {
    const data = value.tensor?.dtype === "float32" ? (value.tensor.peek() as Float32Array | undefined) : undefined;
    if (!data || !value.tensor || value.tensor.shape.length === 0 || data.some((x) => x !== data[0])) continue;
    const rng = new Rng(4).fork(value.name);
    value.tensor = Tensor.float32(
      value.tensor.shape,
      Float32Array.from(data, () => rng.uniform(0.3, 1.2)),
    );
  }
  return model;
}
