/** What a loss is: one record per name, from predictions and targets to one number on the graph. */
import { z } from "zod";
import { PareError } from "../../base/error.ts";
import { formatShape, isConcrete } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import type { Tensor } from "../../ir/tensor.ts";
import type { Site } from "../../ops/gradients/words.ts";

/**
 * What a loss compares the prediction with. "indices": one class per row, or one distribution where the labels are soft;
 * "values": numbers of the prediction's shape; "sequences": rows of classes, padded with -1; "teacher": a value of the
 * teacher.
 */
export type Target = "indices" | "values" | "sequences" | "teacher";

/** Where a loss is written. */
export interface LossSite extends Site {
  /** A weight of the loss itself (a learned projection): trained with the model, not part of it. */
  parameter(name: string, initial: Tensor): Value;
}

export interface Loss<Options extends z.ZodObject = z.ZodObject> {
  readonly name: string;
  readonly summary: string;
  readonly target: Target;
  /** Which value it reads unless the term names one: the scores before a final Softmax (or Sigmoid), or the output itself. */
  readonly reads: "scores" | "output" | "named";
  readonly options: Options;
  /** A scalar. Shapes of both values are known numbers. Throws `shape-mismatch`. */
  build(s: LossSite, student: Value, target: Value, options: z.output<Options>): Value;
}

/** Declares a loss. */
export function defineLoss<Options extends z.ZodObject>(loss: Loss<Options>): Loss {
  return loss as unknown as Loss;
}

/** The shape of a value, all numbers. */
export function shapeOf(value: Value, loss: string): readonly number[] {
  if (isConcrete(value.shape)) return value.shape;
  throw new PareError("unsupported", `The loss ${loss} needs a value of known shape`, {
    where: `'${value.name}'`,
    found: formatShape(value.shape),
    help: "Fix the model's open dimensions first",
  });
}

/** Both shapes; throws unless they are equal. */
export function sameShapes(student: Value, target: Value, loss: string): readonly number[] {
  const [a, b] = [shapeOf(student, loss), shapeOf(target, loss)];
  if (a.length === b.length && a.every((size, axis) => size === b[axis])) return a;
  throw new PareError("shape-mismatch", `The loss ${loss} compares values of one shape`, {
    where: `'${student.name}' and '${target.name}'`,
    found: `${formatShape(a)} and ${formatShape(b)}`,
  });
}
