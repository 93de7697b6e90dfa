/** Importance of weights by the gradient of the loss: on labels where the samples have them, else on the model's own answers. */
import { PareError, throwIfAborted } from "../../base/error.ts";
import { Builder } from "../../ir/builder.ts";
import { cloneModel } from "../../ir/clone.ts";
import type { Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { dtypeCode } from "../../base/dtype.ts";
import { asNumbers, rowsOf } from "../../run/arrays.ts";
import { feedChunks } from "../../run/feeds.ts";
import type { Feeds, NdArray } from "../../run/session.ts";
import { grad, gradientName } from "../../train/grad.ts";
import { scoresOf } from "../../train/scores.ts";
import { convertOpset } from "../../transform/opset.ts";
import type { WeightSite } from "../../transform/weight-sites.ts";
import { type CalibrationOptions, calibrationOf } from "../calibration.ts";
import { engine } from "../engine.ts";
import { portsOf } from "../samples.ts";
import type { Context } from "../technique.ts";
import type { GradientScore } from "./scores.ts";

/** The oldest opset in which every gradient can be written. */
const GRADIENT_OPSET = 17;

/** One sample, and its classes where they are known. */
interface Sample {
  readonly feeds: Feeds;
  readonly labels: NdArray | undefined;
}

/**
 * taylor: |w·E[g]|, the change of the loss to first order (Molchanov et al. 2017, arXiv 1611.06440); fisher: w²·E[g²], the change to
 * second order with the Fisher information as the Hessian's diagonal (Theis et al. 2018, arXiv 1801.05787). E is over samples,
 * one by one. By names of weights; float32 weights of the main graph only.
 */
export async function gradientScores(
  model: Model,
  sites: readonly WeightSite[],
  kind: GradientScore,
  options: CalibrationOptions,
  context: Context,
): Promise<Map<string, Float32Array>> {
  const { signal, threads, provider, journal } = context;
  const wanted = sites.filter(({ graph, tensor }) => graph === model.graph && tensor.dtype === "float32");
  const names = wanted.map(({ value }) => value.name);
  const { openSession } = await engine();
  const sums = new Map(wanted.map(({ value, tensor }) => [value.name, new Float64Array(tensor.elements)]));
  let session: Awaited<ReturnType<typeof openSession>> | undefined;
  let count = 0;
  try {
    for await (const { feeds, labels } of samplesOf(model, options, context)) {
      throwIfAborted(signal);
      context.onProgress({ stage: `prune-weights: ${kind}`, done: count, total: options.samples });
      session ??= await openSession(gradientModel(model, names, feeds, labels), { threads, provider, signal });
      const fed = Object.fromEntries(
        session.inputs.flatMap(({ name }) => {
          const array = name === LABELS ? labels : feeds[name];
          return array ? [[name, array] as const] : [];
        }),
      );
      const results = await session.run(fed);
      for (const [name, sum] of sums) {
        const g = results[gradientName(name)]?.data as Float32Array;
        for (let i = 0; i < sum.length; i++) {
          const x = g[i] as number;
          sum[i] = (sum[i] as number) + (kind === "taylor" ? x : x * x);
        }
      }
      count++;
    }
  } finally {
    await session?.close();
  }
  if (count === 0) throw new PareError("bad-data", "There is not one sample to run through the model");
  journal.note(
    `Gradients of ${count} samples, against ${hasClasses(context) ? "their labels" : "the model's own answers"}.`,
  );
  const scores = new Map<string, Float32Array>();
  for (const { value, tensor } of wanted) {
    const weights = (await tensor.data()) as Float32Array;
    const sum = sums.get(value.name) as Float64Array;
    scores.set(
      value.name,
      weights.map(
        (w, i) => (kind === "taylor" ? Math.abs(w * (sum[i] as number)) : w * w * (sum[i] as number)) / count,
      ),
    );
  }
  return scores;
}

function hasClasses({ data }: Context): boolean {
  return data?.labels === "classes" || data?.labels === "tokens";
}

/** Samples one by one. */
async function* samplesOf(model: Model, options: CalibrationOptions, context: Context): AsyncGenerator<Sample> {
  const { data, seed, signal } = context;
  if (data && hasClasses(context)) {
    const ports = portsOf(model);
    for await (const batch of data.batches({ limit: options.samples, size: 1, seed, signal })) {
      const labels = batch.labels && {
        dtype: "int64" as const,
        shape: [asNumbers(batch.labels).length, 1],
        data: BigInt64Array.from(asNumbers(batch.labels), (label) => BigInt(Math.round(label))),
      };
      for (const { feeds } of feedChunks(ports, batch)) yield { feeds, labels };
    }
    return;
  }
  const { stream, note } = await calibrationOf(model, options, context);
  context.journal.note(note);
  for await (const feeds of stream()) {
    const rows = Math.min(...Object.values(feeds).map(({ shape }) => shape[0] ?? 1));
    for (let row = 0; row < rows; row++)
      yield {
        feeds: Object.fromEntries(Object.entries(feeds).map(([name, array]) => [name, rowsOf(array, row, row + 1)])),
        labels: undefined,
      };
  }
}

/** Input that brings the classes, −1 and below: not counted. */
const LABELS = "pare_labels";

/** Gradients of −mean log softmax(scores)[class], the class fed or the model's own answer, for inputs of these shapes. */
function gradientModel(model: Model, names: readonly string[], feeds: Feeds, labels: NdArray | undefined): Model {
  const copy = cloneModel(model);
  if (copy.opset < GRADIENT_OPSET) convertOpset(copy, GRADIENT_OPSET);
  const { graph } = copy;
  for (const input of graph.inputs) if (feeds[input.name]) input.shape = feeds[input.name]?.shape;
  for (const node of graph.nodes) for (const output of node.outputs) output.shape = undefined;
  const output = graph.outputs[0];
  const prediction = output && scoresOf(output).scores;
  if (!prediction || prediction.dtype !== "float32")
    throw new PareError("unsupported", "Gradients of a loss need scores of classes as the first output, in float32", {
      where: output?.name ?? "the model",
    });
  const b = new Builder(graph, { prefix: "pare_loss/" });
  const rows = b.op("Flatten", [prediction], { attributes: { axis: -1 } });
  const own = (): Value => b.op("ArgMax", [rows], { attributes: { axis: -1, keepdims: 1 } });
  const classes = labels ? b.input(LABELS, "int64", labels.shape) : own();
  const zero = b.constant("zero", Tensor.scalar("int64", 0));
  const counted = b.op("Cast", [b.op("GreaterOrEqual", [classes, zero])], { attributes: { to: dtypeCode("float32") } });
  const logs = b.op("LogSoftmax", [rows], { attributes: { axis: -1 } });
  const picked = b.op("GatherElements", [logs, b.op("Max", [classes, zero])], { attributes: { axis: 1 } });
  const sum = (value: Value): Value => b.op("ReduceSum", [value], { attributes: { keepdims: 0 } });
  const loss = b.op("Neg", [b.op("Div", [sum(b.op("Mul", [picked, counted])), sum(counted)])], { name: "loss" });
  [loss.dtype, loss.shape] = ["float32", []];
  return grad(copy, { of: loss.name, wrt: names });
}
