/** Judges a model on a labelled data set: every metric with its sample count and 95 % interval. */
import { PareError, throwIfAborted } from "../base/error.ts";
import type { Dataset } from "../data/dataset.ts";
import { loadFile } from "../ir/load.node.ts";
import type { Model } from "../ir/model.ts";
import { joinRows } from "../run/arrays.ts";
import { dropPadding, feedChunks } from "../run/feeds.ts";
import { openSession } from "../run/open-session.node.ts";
import { portGrids, withRealPorts } from "../run/port-grids.ts";
import { prefetch } from "../run/prefetch.ts";
import type { NdArray, Provider, Session } from "../run/session.ts";
import { type Collector, chooseOutput, collectorFor, tensorOutputs, withBatchAxis } from "./collect.ts";
import type { ClassRows, Score, ValueRows } from "./metrics/metric.ts";
import { metricsFor } from "./metrics/table.ts";

export interface EvaluateOptions {
  /** Names of metrics; default: all that fit the labels. */
  readonly metrics?: readonly string[] | undefined;
  /** Output that the labels speak of; see {@link chooseOutput}. */
  readonly output?: string | undefined;
  /** Samples per batch; default 32. A model with a fixed batch is fed in its own size. */
  readonly batch?: number | undefined;
  /** Judge only so many samples. */
  readonly limit?: number | undefined;
  readonly provider?: Provider | undefined;
  readonly threads?: number | undefined;
  readonly inProcess?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: { readonly done: number; readonly total: number }) => void) | undefined;
}

export interface Evaluation {
  readonly samples: number;
  readonly metrics: Readonly<Record<string, Score>>;
  /** The output that was judged. */
  readonly output: string;
  /** How the scores were read: rows that sum to one are probabilities. Undefined for real-valued labels. */
  readonly scores: "probabilities" | "logits" | undefined;
  /** Rows with NaN or infinite outputs; they count as wrong. */
  readonly notFinite: number;
  /** What was kept of each sample or token, for paired comparisons. */
  readonly rows: ClassRows | ValueRows;
}

/** Runs the data set through the model (or an open session, which stays open) and scores the outputs. */
export async function evaluate(
  subject: Model | Uint8Array | string | Session,
  dataset: Dataset,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  if (!dataset.labels)
    throw new PareError("bad-data", "The data set has no labels to judge by", {
      where: dataset.name,
      help: "Without labels, models can be compared with each other: 'pare compare'",
    });
  const metrics = metricsFor(dataset.labels, options.metrics);
  const { provider, threads, inProcess, signal } = options;
  const opened = isSession(subject) ? subject : await openSession(subject, { provider, threads, inProcess, signal });
  const session = typeof subject === "string" ? withRealPorts(opened, portGrids(await loadFile(subject))) : opened;
  try {
    const { collector, output, samples } = await collect(session, dataset, options);
    const rows = collector.rows();
    const scores: Record<string, Score> = {};
    for (const metric of metrics) {
      const score = metric.score(rows);
      if (score) scores[metric.name] = score;
    }
    const { probabilities, notFinite } = collector;
    return {
      samples,
      metrics: scores,
      output,
      scores: probabilities === undefined ? undefined : probabilities ? "probabilities" : "logits",
      notFinite,
      rows,
    };
  } finally {
    if (opened !== subject) await opened.close();
  }
}

/** What `evaluate --json` prints. */
export function evaluationJson(evaluation: Evaluation): Omit<Evaluation, "rows"> {
  const { rows: _, ...json } = evaluation;
  return json;
}

function isSession(subject: Model | Uint8Array | string | Session): subject is Session {
  return typeof subject === "object" && "run" in subject && "inputs" in subject;
}

async function collect(
  session: Session,
  dataset: Dataset,
  options: EvaluateOptions,
): Promise<{ readonly collector: Collector; readonly output: string; readonly samples: number }> {
  const { limit, signal } = options;
  const total = Math.min(limit ?? dataset.size, dataset.size);
  let output = options.output;
  let collector: Collector | undefined;
  let samples = 0;
  for await (const batch of prefetch(dataset.batches({ size: options.batch ?? 32, limit, signal }))) {
    throwIfAborted(signal);
    if (!batch.labels) throw new PareError("bad-data", "A batch came without labels", { where: dataset.name });
    const parts: NdArray[] = [];
    for (const chunk of feedChunks(session.inputs, batch)) {
      const results = await session.run(chunk.feeds, output === undefined ? tensorOutputs(session) : [output]);
      if (output === undefined)
        output = chooseOutput(results, fedRows(chunk.feeds, chunk.size), dataset.classes?.length);
      const array = results[output];
      if (array) parts.push(withBatchAxis(dropPadding(array, chunk), chunk.size));
    }
    if (parts.length === 0) continue;
    collector ??= collectorFor(dataset.labels ?? "classes", output ?? "");
    collector.add(joinRows(parts), batch.labels, batch.size);
    samples += batch.size;
    options.onProgress?.({ done: samples, total });
  }
  if (!collector || output === undefined)
    throw new PareError("bad-data", "There is not one sample to judge by", { where: dataset.name });
  return { collector, output, samples };
}

function fedRows(feeds: Readonly<Record<string, NdArray>>, fallback: number): number {
  return Object.values(feeds)[0]?.shape[0] ?? fallback;
}
