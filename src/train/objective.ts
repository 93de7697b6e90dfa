/** The objective: a weighted mix of losses on one graph, with the inputs that bring its targets. */
import { PareError } from "../base/error.ts";
import { formatShape, isConcrete } from "../base/shape.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { add, scale } from "../ops/gradients/words.ts";
import type { LossSite, Target } from "./losses/loss.ts";
import { type CheckedTerm, checkTerm, type LossName, type LossTerm } from "./losses/table.ts";
import { widened } from "./precision.ts";
import { scoresOf } from "./scores.ts";
import { graftTeacher, noSuchValue, type TeacherValues } from "./teacher-graph.ts";

export interface ObjectiveOptions {
  /** Default "cross-entropy". */
  readonly loss?: LossName | undefined;
  readonly labelSmoothing?: number | undefined;
  /**
   * A teacher on the same inputs. `share` s and `temperature` T (defaults ½ and 2) stand for the terms
   * (1 − s)·loss + s·soft-logits; with `terms` they are not used. Without a model its scores are fed as `teacher_logits`.
   */
  readonly teacher?:
    | {
        readonly model?: Model | undefined;
        readonly share?: number | undefined;
        readonly temperature?: number | undefined;
      }
    | undefined;
  /** The whole mix, instead of `loss`, `labelSmoothing` and the teacher's share. */
  readonly terms?: readonly LossTerm[] | undefined;
  /** Labels are distributions over the classes (mixed samples, soft labels) instead of indices; default false. */
  readonly softLabels?: boolean | undefined;
  /** Longest label of a sequence: the loss ctc needs it. */
  readonly labelLength?: number | undefined;
}

/** What the labels are: indices of classes, distributions over classes, values, or padded sequences of indices. */
export type LabelKind = Exclude<Target, "teacher"> | "soft";

export interface Objective {
  /** The sum, a scalar. */
  readonly loss: Value;
  readonly labels: Value | undefined;
  readonly labelKind: LabelKind | undefined;
  readonly teacherLogits: Value | undefined;
  /** Number of classes where labels are indices. */
  readonly classes: number | undefined;
}

/** The summands that the options stand for, those of weight 0 left out. */
export function termsOf(options: ObjectiveOptions): readonly CheckedTerm[] {
  const { loss = "cross-entropy", labelSmoothing, teacher } = options;
  if (options.terms) {
    const terms = options.terms.map(checkTerm);
    if (terms.length === 0) throw new PareError("bad-option", "A loss needs at least one term", { where: "terms" });
    if (!teacher && terms.some((term) => term.loss.target === "teacher"))
      throw new PareError("bad-option", "A term of the loss compares with a teacher, and there is none", {
        where: `term ${terms.find((term) => term.loss.target === "teacher")?.loss.name}`,
        help: "Name the teacher (--teacher)",
      });
    return terms;
  }
  if (labelSmoothing !== undefined && labelSmoothing > 0 && loss !== "cross-entropy")
    throw new PareError("bad-option", `Label smoothing belongs to the cross-entropy, not to ${loss}`, {
      where: "label-smoothing",
    });
  const share = teacher ? (teacher.share ?? 0.5) : 0;
  const own = loss === "cross-entropy" ? { labelSmoothing: labelSmoothing ?? 0 } : {};
  const mix: LossTerm[] = [
    { kind: loss, weight: 1 - share, ...own },
    { kind: "soft-logits", weight: share, temperature: teacher?.temperature ?? 2 },
  ];
  return mix.filter(({ weight }) => weight !== 0).map(checkTerm);
}

/** True if a teacher's final scores are all that the terms want of it, so that they can be fed. */
export function wantsScoresAlone(terms: readonly CheckedTerm[]): boolean {
  return terms.every(({ loss, teacher }) => loss.target !== "teacher" || (loss.name === "soft-logits" && !teacher));
}

/** Appends the loss to the forward pass in `model`, whose shapes are inferred. */
export function addObjective(
  s: LossSite,
  model: Model,
  inputs: readonly Value[],
  options: ObjectiveOptions,
): Objective {
  const { graph } = model;
  const prediction = graph.outputs[0] as Value;
  const { scores } = scoresOf(prediction);
  if (scores.shape === undefined) scores.shape = prediction.shape;
  const terms = termsOf(options);
  const byName = new Map([...graph.values()].map((value) => [value.name, value]));
  const studentOf = ({ student, loss }: CheckedTerm): Value => {
    if (student === undefined) return loss.reads === "scores" ? scores : prediction;
    const value = byName.get(student);
    if (value) return widened(s.b, value);
    throw noSuchValue(student, byName.keys(), "The model");
  };
  const students = terms.map(studentOf);
  const { labels, kind, classes } = labelInput(s, terms, students, options);
  let logits: Value | undefined;
  let inside: TeacherValues | undefined;
  const teacherOf = (term: CheckedTerm): Value => {
    const given = options.teacher?.model;
    if (!given) return (logits ??= s.b.input("teacher_logits", "float32", scores.shape));
    inside ??= graftTeacher(model, given, inputs, inputs[0]?.shape?.[0] as number);
    const name = term.teacher ?? (term.loss.reads === "named" ? term.student : undefined);
    if (name !== undefined) return inside.named(name);
    return term.loss.reads === "scores" ? inside.scores : inside.output;
  };
  let loss: Value | undefined;
  for (const [i, term] of terms.entries()) {
    const target = term.loss.target === "teacher" ? teacherOf(term) : (labels as Value);
    const value = term.loss.build(s, students[i] as Value, target, term.options);
    const weighted = scale(s, value, term.weight, "float32");
    loss = loss ? add(s, loss, weighted) : weighted;
  }
  return { loss: loss as Value, labels, labelKind: kind, teacherLogits: logits, classes };
}

/** The input that brings the labels, in the form that the labelled terms agree on. */
function labelInput(
  s: LossSite,
  terms: readonly CheckedTerm[],
  students: readonly Value[],
  options: ObjectiveOptions,
): { labels: Value | undefined; kind: Objective["labelKind"]; classes: number | undefined } {
  const first = terms.findIndex(({ loss }) => loss.target !== "teacher");
  if (first < 0) return { labels: undefined, kind: undefined, classes: undefined };
  const { name, target } = (terms[first] as CheckedTerm).loss;
  const other = terms.find(({ loss }) => loss.target !== "teacher" && loss.target !== target);
  if (other)
    throw new PareError("bad-option", "The terms of the loss want labels of different kinds", {
      found: `${name} and ${other.loss.name}`,
    });
  const shape = students[first]?.shape;
  if (!isConcrete(shape))
    throw new PareError("unsupported", "The shape of the model's output could not be found", {
      where: `'${students[first]?.name}'`,
      found: formatShape(shape),
    });
  const classes = shape.at(-1);
  if (target === "values") return { labels: s.b.input("labels", "float32", shape), kind: "values", classes: undefined };
  if (shape.length < 2)
    throw new PareError("unsupported", `The loss ${name} needs scores per class as the first output`, {
      where: `'${students[first]?.name}'`,
      found: formatShape(shape),
      expected: formatShape([shape[0] ?? "batch", "classes"]),
    });
  if (target === "sequences")
    return {
      labels: s.b.input("labels", "int64", [shape[0] ?? 1, options.labelLength ?? 1]),
      kind: "sequences",
      classes,
    };
  return options.softLabels
    ? { labels: s.b.input("labels", "float32", shape), kind: "soft", classes: undefined }
    : { labels: s.b.input("labels", "int64", shape.slice(0, -1)), kind: "indices", classes };
}
