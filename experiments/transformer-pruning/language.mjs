/**
 * Heads, neurons, blocks and layers removed from a real language model, nothing trained afterwards: perplexity against parameters.
 * Criteria see text that the model writes itself; stories that it has not seen judge.
 * `node experiments/transformer-pruning/language.mjs [--data ../shared/data] [--runs n]` after `npm run build`; recorded runs are
 * skipped.
 */
import { costOf } from "../../dist/analyse/cost.js";
import { runSteps } from "../../dist/techniques/pipeline.node.js";
import { CALIBRATION, openStudy } from "../language-model.mjs";
import { Study, studyOptions } from "../study.mjs";
import { cuts } from "./cuts.mjs";

const here = import.meta.dirname;
const study = new Study(here, "language", studyOptions());
const { model, data, score: judge } = await openStudy();

async function figures(subject) {
  const { perplexity } = await judge(subject);
  const { macs, parameters } = costOf(subject, { batch: 1, seq: 128 });
  return { perplexity: [perplexity.value, perplexity.low, perplexity.high].map((x) => Number(x.toFixed(4))), macs, parameters };
}

await study.run({ part: "none" }, () => figures(model));
for (const { part, score, amount, step } of cuts({ grouped: true, layers: 5 }))
  await study.run({ part, score, amount }, async () => {
    const { model: cut, steps } = await runSteps(model, [step()], { seed: CALIBRATION.seed, data, threads: 1 });
    return { ...(await figures(cut)), changed: steps[0].changed.length };
  });
