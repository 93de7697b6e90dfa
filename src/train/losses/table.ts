/** The losses by name, and weighted mixes of them. */
import { z } from "zod";
import { PareError, nearest } from "../../base/error.ts";
import { binaryCrossEntropy } from "./binary.ts";
import { crossEntropy, kullbackLeibler } from "./cross-entropy.ts";
import { connectionistTemporal } from "./ctc.ts";
import { attentionMaps, attentionTransfer, hiddenStates, softLogits } from "./distill.ts";
import type { Loss } from "./loss.ts";
import { huberLoss, meanAbsoluteError, meanSquaredError } from "./regression.ts";
import { relationAngle, relationDistance } from "./relation.ts";

/** Losses against labels. */
export const LOSSES = ["cross-entropy", "mse", "mae", "huber", "bce", "kl", "ctc"] as const;
export type LossName = (typeof LOSSES)[number];

/** Losses against a teacher. */
export const TEACHER_LOSSES = [
  "soft-logits",
  "hidden",
  "attention-transfer",
  "attention-maps",
  "relation-distance",
  "relation-angle",
] as const;
export type TeacherLossName = (typeof TEACHER_LOSSES)[number];

const ALL: readonly Loss[] = [
  crossEntropy,
  meanSquaredError,
  meanAbsoluteError,
  huberLoss,
  binaryCrossEntropy,
  kullbackLeibler,
  connectionistTemporal,
  softLogits,
  hiddenStates,
  attentionTransfer,
  attentionMaps,
  relationDistance,
  relationAngle,
];

export const LOSS_TABLE: ReadonlyMap<string, Loss> = new Map(ALL.map((loss) => [loss.name, loss]));

/** One summand of the loss, options beside the common ones by the loss's own schema: `{ kind: "soft-logits", temperature: 4 }`. */
export interface LossTerm {
  readonly kind: LossName | TeacherLossName;
  /** Factor in the sum; default 1. */
  readonly weight?: number | undefined;
  /** Name of the value it reads; default: the model's first output, or what goes into its final Softmax or Sigmoid. */
  readonly student?: string | undefined;
  /** Name of the teacher's value it is compared with; default: as `student`, in the teacher. */
  readonly teacher?: string | undefined;
  readonly [option: string]: unknown;
}

/** A term with every option checked and filled in. */
export interface CheckedTerm {
  readonly loss: Loss;
  readonly weight: number;
  readonly student: string | undefined;
  readonly teacher: string | undefined;
  readonly options: Readonly<Record<string, unknown>>;
}

const common = {
  weight: z.number().min(0).default(1).describe("factor in the sum"),
  student: z.string().optional().describe("value of the model that is compared"),
  teacher: z.string().optional().describe("value of the teacher that it is compared with"),
};

/** The options of a term of this loss, those that all share first. */
export function termOptions(loss: Loss): z.ZodObject {
  return z.strictObject({ ...common, ...loss.options.shape });
}

/** The loss of that name, or an error that names the nearest. */
export function lossNamed(name: string): Loss {
  const loss = LOSS_TABLE.get(name);
  if (loss) return loss;
  const near = nearest(name, LOSS_TABLE.keys());
  throw new PareError("bad-option", `Unknown loss '${name}'`, {
    help: near ? `Did you mean '${near}'?` : `Known: ${[...LOSS_TABLE.keys()].join(", ")}`,
  });
}

/** Fills in a term's defaults. Throws `bad-option` for what its loss does not know or take. */
export function checkTerm(term: LossTerm): CheckedTerm {
  const { kind, ...rest } = term;
  const loss = lossNamed(kind);
  const schema = termOptions(loss);
  const parsed = schema.safeParse(rest);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new PareError("bad-option", issue?.message ?? "Invalid option", {
      where: [`loss ${kind}`, ...(issue?.path ?? [])].join(": "),
      expected: Object.keys(schema.shape).join(", "),
    });
  }
  const { weight, student, teacher, ...options } = parsed.data as Record<string, unknown>;
  const own = { loss, weight: weight as number, options };
  const names = { student: student as string | undefined, teacher: teacher as string | undefined };
  if (loss.reads === "named" && names.student === undefined)
    throw new PareError("bad-option", `The loss ${kind} needs the name of a value of the model`, {
      where: "student",
      help: "pare inspect --json lists the values of each layer",
    });
  if (loss.target !== "teacher" && names.teacher !== undefined)
    throw new PareError("bad-option", `The loss ${kind} compares with labels, not with a teacher`, {
      where: `teacher '${names.teacher}'`,
    });
  return { ...own, ...names };
}
