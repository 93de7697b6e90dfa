/**
 * Distillation: trains a small network of another kind to answer as the model does, and puts it in the model's place.
 *
 * Helps: bytes, latency and energy at once, by whatever the student is smaller; the student learns more from the teacher's
 *   soft answers than from labels alone, above all where it is neither much too small nor as large as the teacher, and it
 *   needs no labels at all.
 * Hurts: the result is another network: weights, layers and their names are gone. A student that is far too small learns as
 *   little from a teacher as from labels.
 * Needs: training data (labels are optional), and a student: a model file or an architecture by name.
 * Cost: the training of the student, and one forward pass of the teacher per sample (per step with random changes or matched
 *   inner values).
 * Maths: L = (1 - s) * CE(labels) + s * T^2 * KL(softmax(t/T) || softmax(x/T)), plus hidden states, attention maps or
 *   relations between samples that `match` names; without labels s = 1.
 * Paper: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; Romero et al. 2015, "FitNets"; Zagoruyko and
 *   Komodakis 2017, "Paying More Attention to Attention"; Park et al. 2019, "Relational Knowledge Distillation".
 */
import { z } from "zod";
import { costOf } from "../../analyse/cost.ts";
import { PareError } from "../../base/error.ts";
import { removeDead } from "../../transform/remove-dead.ts";
import { loadModelFile } from "../model-file.ts";
import { range } from "../search-range.ts";
import { type TechniqueFunction, defineTechnique } from "../technique.ts";
import { trainingOptions, trainOn } from "../training.ts";
import { studentOf, takeInterface } from "./student.ts";

export const distill: TechniqueFunction = defineTechnique({
  name: "distill",
  family: "distill",
  summary: "Train another, smaller network to answer as the model does, with labels or without.",
  needs: ["training"],
  options: z.object({
    student: z
      .string({ error: "A student must be named: a model file, or an architecture such as resnet-20:width=8" })
      .describe("model file, or an architecture with its options: resnet-20:width=8 or mlp:hidden=30-30+classes=10"),
    teacher: z
      .string()
      .default("input")
      .describe("'input', the model that comes in; 'original', what compression started from; or a model file"),
    share: z
      .number()
      .min(0)
      .max(1)
      .default(0.9)
      .describe("weight of the teacher's part of the loss; 0 trains the student alone, 1 needs no labels")
      .meta({ search: range(0.5, 1) }),
    ...trainingOptions,
    epochs: z.number().positive().default(10).describe("passes over the training data; 0.5 is half of it"),
    learningRate: z
      .number()
      .positive()
      .default(0.05)
      .describe("highest learning rate")
      .meta({ search: range(1e-4, 0.5, { log: true }) }),
    temperature: z
      .number()
      .positive()
      .default(4)
      .describe("temperature of the teacher's soft labels")
      .meta({ search: range(1, 20, { log: true }) }),
  }),
  async run(model, chosen, context) {
    const { student: wanted, teacher: named, share, ...training } = chosen;
    const { data, journal, original, seed } = context;
    if (!data) throw new PareError("bad-option", "distill needs training data", { help: "Name it with --data" });
    if (share === 0 && training.match.length === 0 && named !== "input")
      throw new PareError("bad-option", "A teacher was named, and its share is 0", { where: "distill option 'share'" });
    const teacher = named === "input" ? model : named === "original" ? original : await loadModelFile(named);
    const student = await studentOf(wanted, model, data, seed);
    takeInterface(student, model);
    removeDead(student);
    if (data.labels === undefined && share < 1) journal.note("no labels: the student learns from the teacher alone");
    const learns = share > 0 || training.match.length > 0;
    const result = await trainOn(
      student,
      training,
      { name: "distill", teaching: learns ? { model: teacher, share } : undefined },
      context,
    );
    const [before, after] = [costOf(model), costOf(student)];
    journal.change({
      what: student.graph.name || wanted,
      how: `takes the model's place after ${result.steps} steps: ${before.parameters} -> ${after.parameters} parameters, ${before.macs} -> ${after.macs} MACs`,
    });
    for (const [key, value] of model.metadata) student.metadata.set(key, value);
    return student;
  },
});
