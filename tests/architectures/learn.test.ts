/** Every architecture learns: all of its weights are trained, and the loss on a few samples falls. */
import { describe, expect, test } from "vitest";
import { costOf } from "../../src/analyse/cost.ts";
import { ARCHITECTURES } from "../../src/architectures/build.ts";
import { train } from "../../src/train/train.node.ts";
import { samplesFor, smallOf } from "./small.ts";

const RATE = 0.003;
/** Gates saturate slowly and gradients through time are small: fifteen steps need to be longer. */
const RECURRENT_RATE = 0.03;

describe("architectures learn", () => {
  for (const name of ARCHITECTURES.keys())
    test(`${name} learns eight samples by heart`, { timeout: 60_000 }, async () => {
      const model = smallOf(name, "dropout" in (ARCHITECTURES.get(name)?.options.shape ?? {}) ? { dropout: 0 } : {});
      const data = samplesFor(model, 8);
      const options = { optimizer: "adam", batch: 8, inProcess: true, threads: 1, seed: 1 } as const;
      const result = await train(model, data, {
        ...options,
        epochs: 15,
        learningRate: name === "lstm-lm" ? RECURRENT_RATE : RATE,
        schedule: "constant",
      });
      const weights = result.trained.filter((weight) => !/running_(mean|var)$/.test(weight));
      const trained = weights.reduce(
        (n, weight) => n + (model.graph.initializers.get(weight)?.tensor?.elements ?? 0),
        0,
      );
      // A parameter that no gradient reaches would be missing here.
      expect(trained).toBe(costOf(model).parameters);
      const [first, last] = [result.epochs[0]?.loss ?? 0, result.epochs.at(-1)?.loss ?? 0];
      expect(last).toBeLessThan(0.8 * first);
    });
});
