/** Every metric, one line each; the order is the order of reports. */
import { PareError, nearest } from "../../base/error.ts";
import { accuracy } from "./accuracy.ts";
import { f1 } from "./f1.ts";
import { loss } from "./loss.ts";
import { mae } from "./mae.ts";
import type { Metric } from "./metric.ts";
import { mse } from "./mse.ts";
import { perplexity } from "./perplexity.ts";
import { top5 } from "./top5.ts";

export const METRICS: readonly Metric[] = [accuracy, top5, f1, loss, perplexity, mse, mae];

/** The metrics of these names; all that fit the task when none is named. Throws `bad-option` on an unknown or unfit name. */
export function metricsFor(task: Metric["tasks"][number], names?: readonly string[]): readonly Metric[] {
  const fitting = METRICS.filter((metric) => metric.tasks.includes(task));
  if (!names) return fitting;
  return names.map((name) => {
    const metric = fitting.find((candidate) => candidate.name === name);
    if (metric) return metric;
    const near = nearest(
      name,
      fitting.map((candidate) => candidate.name),
    );
    throw new PareError("bad-option", `Metric '${name}' does not exist or does not fit ${task} labels`, {
      expected: fitting.map((candidate) => candidate.name).join(", "),
      ...(near ? { help: `Did you mean '${near}'?` } : {}),
    });
  });
}
