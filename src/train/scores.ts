/** What a model's output holds: scores, or probabilities whose scores lie just before them. */
import type { Value } from "../ir/graph.ts";

export type OutputKind = "logits" | "probabilities" | "log-probabilities" | "sigmoid";

/** The scores behind a prediction: what a final Softmax or LogSoftmax over the last axis, or a Sigmoid, reads. */
export function scoresOf(prediction: Value): { readonly scores: Value; readonly kind: OutputKind } {
  const producer = prediction.producer;
  const input = producer?.inputs[0];
  if (!producer || !input) return { scores: prediction, kind: "logits" };
  if (producer.opType === "Sigmoid") return { scores: input, kind: "sigmoid" };
  const over = producer.int("axis", -1);
  const ends = over === -1 || over === (prediction.shape?.length ?? 0) - 1;
  if (ends && producer.opType === "Softmax") return { scores: input, kind: "probabilities" };
  if (ends && producer.opType === "LogSoftmax") return { scores: input, kind: "log-probabilities" };
  return { scores: prediction, kind: "logits" };
}
