/**
 * Puts layers of the original back until the drop is under a limit: the fallback after any other technique.
 *
 * Helps: accuracy after a step that went too far: only the layers that cause the drop go back to what they were.
 * Hurts: those layers take their old bytes and time again.
 * Needs: samples, best with labels; the layers before and after must still compute the same kind of values.
 * Cost: about one pass over the samples for each changed layer, and a few more.
 * Maths: each layer's damage alone; the shortest beginning of that order whose undoing is enough, by halving; then what can be spared
 * of it is left changed (delta debugging). Every layer that goes back is needed: without it the limit does not hold.
 * Paper: Zeller and Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing Input".
 */
import { z } from "zod";
import { type TechniqueFunction, defineTechnique } from "../technique.ts";
import { bisect } from "./bisect.ts";

const options = z.object({
  drop: z.number().min(0).describe("tolerated damage by the measure (by=accuracy, drop=0.01: one point)"),
  by: z
    .string()
    .default("auto")
    .describe("measure: a task metric, kl or noise; auto: the task's loss with labels, else kl, else noise"),
  samples: z.int().min(1).default(256).describe("samples to judge on"),
  batch: z.int().min(1).default(32).describe("samples per run"),
});

export const restore: TechniqueFunction = defineTechnique({
  name: "restore",
  family: "tune",
  summary: "Put layers of the original back until the drop is under a limit.",
  needs: [],
  options,
  async run(model, chosen, context) {
    const { journal, original } = context;
    const result = await bisect(original, model, chosen, context);
    const { measure, on, total, left, limit, found, layers, others } = result;
    const culprits = layers.filter(({ culprit }) => culprit);
    for (const { name, why } of others) if (why !== "the same in both") journal.skip(name, why);
    if (total <= limit) {
      journal.note(
        `The drop is ${total.toPrecision(3)} by ${measure} on ${on}: within ${limit}, nothing was put back.`,
      );
      return model;
    }
    for (const { name, bytes, alone } of found ? culprits : layers)
      journal.change({
        what: name,
        how: `put back as it was in the original; changed, it alone does a damage of ${alone?.toPrecision(3)}`,
        bytesAfter: bytes,
      });
    journal.note(
      `The drop by ${measure} on ${on} was ${total.toPrecision(3)}; with ${found ? culprits.length : layers.length} of ${layers.length} changed layers put back it is ${left.toPrecision(3)}${found ? ` (limit ${limit})` : `, still above the limit ${limit}: it does not come from single layers`}.`,
    );
    return result.model;
  },
});
