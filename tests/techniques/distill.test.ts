/** Distillation through the technique's contract: the student learns the teacher's answers and takes its interface. */
import { describe, expect, test } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { Builder } from "../../src/ir/builder.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { fidelity } from "../../src/evaluate/fidelity.node.ts";
import { evaluate } from "../../src/evaluate/evaluate.node.ts";
import { makeStep } from "../../src/techniques/recipe.ts";
import { compress } from "../../src/techniques/pipeline.node.ts";
import { distill } from "../../src/techniques/distill/distill.ts";
import { takeInterface } from "../../src/techniques/distill/student.ts";
import { parseMatch } from "../../src/techniques/training.ts";
import { train } from "../../src/train/train.node.ts";
import { clouds } from "../train/tiny-data.ts";

const data = clouds({ size: 512, shape: [12], classes: 4, apart: 1.8 });

async function teacher(): Promise<Model> {
  const model = buildArchitecture("mlp", { input: [12], classes: 4, hidden: [48] });
  await train(model, data, { epochs: 15, batch: 32, inProcess: true });
  return model;
}

/** The data without its labels. */
const unlabelled: Dataset = {
  ...data,
  labels: undefined,
  labelShape: undefined,
  classes: undefined,
  take: async (indices) => ({ ...(await data.take(indices)), labels: undefined }),
  async *batches(options) {
    for await (const batch of data.batches(options)) yield { ...batch, labels: undefined };
  },
  subset: () => unlabelled,
};

const step = (options: Readonly<Record<string, unknown>>): ReturnType<typeof makeStep> =>
  makeStep(distill, { epochs: 12, batch: 32, learningRate: 0.1, ...options });
const accuracy = async (model: Model): Promise<number> =>
  (await evaluate(model, data, {})).metrics["accuracy"]?.value ?? Number.NaN;

describe("distill", () => {
  test("puts a smaller network in the model's place, proven by the pipeline, with labels and without", async () => {
    const original = await teacher();
    const best = await accuracy(original);
    for (const set of [data, unlabelled]) {
      const { model, report } = await compress(original, [step({ student: "mlp:hidden=10" })], {
        data: set,
        threads: 1,
      });
      expect(report.result.parameters).toBeLessThan(report.input.parameters / 3);
      expect(report.steps[0]?.changed[0]?.how).toMatch(/takes the model's place after \d+ steps/);
      expect(report.steps[0]?.notes.some((note) => note.includes("no labels"))).toBe(set === unlabelled);
      expect(model.metadata.get("pare.recipe")).toContain("distill:student=mlp:hidden=10");
      expect(await accuracy(model)).toBeGreaterThan(best - 0.05);
      // It has learned the teacher's answers, not only the classes: an untrained student is far from them.
      const untrained = buildArchitecture("mlp", { input: [12], classes: 4, hidden: [10] });
      const near = async (each: Model): Promise<number> =>
        (await fidelity(original, each, { data })).sqnrDb ?? Number.NaN;
      expect(await near(model)).toBeGreaterThan((await near(untrained)) + 8);
    }
  });

  test("matches inner values beside the scores", async () => {
    const original = await teacher();
    const value = original.graph.nodes.find(({ opType }) => opType === "Relu")?.outputs[0]?.name ?? "";
    const steps = [
      step({ student: "mlp:hidden=10", epochs: 2, match: [`hidden*0.1:${value}=${value}`, "relation-distance"] }),
    ];
    const { report } = await compress(original, steps, { data, threads: 1 });
    expect(report.steps[0]?.changed.length).toBe(1);
    await expect(
      compress(original, [step({ student: "mlp:hidden=10", match: ["hidden:nothing"] })], { data, threads: 1 }),
    ).rejects.toThrow("has no such value");
  });

  test("is the same for the same seed, and another for another", async () => {
    const original = await teacher();
    const weights = async (seed: number): Promise<unknown> => {
      const steps = [step({ student: "mlp:hidden=6", epochs: 1 })];
      const { model } = await compress(original, steps, { data, threads: 1, seed });
      return model.graph.initializers.get("fc1.weight")?.tensor?.data();
    };
    expect(await weights(1)).toEqual(await weights(1));
    expect(await weights(1)).not.toEqual(await weights(2));
  });

  test("names what does not go together", async () => {
    const original = await teacher();
    const run = (options: object, set: Dataset = data): Promise<unknown> =>
      compress(original, [step({ student: "mlp", ...options })], { data: set, threads: 1 });
    await expect(run({ student: "mpl:hidden=3" })).rejects.toThrow("Did you mean 'mlp'?");
    await expect(run({ student: "mlp:hiden=3" })).rejects.toThrow("Did you mean 'hidden'?");
    await expect(run({ student: "mlp:hidden" })).rejects.toThrow("option=value");
    await expect(run({ student: "absent.onnx" })).rejects.toThrow("There is no such file");
    await expect(run({ student: "mlp:classes=7" })).rejects.toThrow("Student and teacher differ in their output");
    await expect(run({ share: 0 }, unlabelled)).rejects.toThrow("Training needs labels");
    await expect(run({ patience: 2 })).rejects.toThrow("hold-out");
    await expect(run({ match: ["hidden relu"] })).rejects.toThrow("Not something to match");
  });
});

describe("the student's interface", () => {
  test("gets the teacher's names, order and kind of answer", () => {
    const original = buildArchitecture("mlp", { input: [12], classes: 4, hidden: [5] });
    const [logits] = original.graph.outputs;
    original.graph.outputs.length = 0;
    const b = new Builder(original.graph);
    const p = b.op("Softmax", [logits], { attributes: { axis: -1 } });
    [p.dtype, p.shape] = ["float32", ["batch", 4]];
    b.output(p);
    p.name = "fc1.weight"; // a name that the student uses inside
    const student = buildArchitecture("mlp", { input: [12], classes: 4, hidden: [3] });
    const scores = cloneModel(student);
    takeInterface(student, original);
    expect(student.graph.outputs.map(({ name }) => name)).toEqual(["fc1.weight"]);
    expect(student.graph.outputs[0]?.producer?.opType).toBe("Softmax");
    expect(student.graph.initializers.has("student/fc1.weight")).toBe(true);
    expect(student.graph.initializers.has("fc1.weight")).toBe(false);
    takeInterface(student, scores);
    expect(student.graph.outputs[0]?.producer?.opType).toBe("Gemm");
  });
});

test("what to match is read from text", () => {
  expect(parseMatch("hidden*0.5:relu4=relu9")).toEqual({
    kind: "hidden",
    weight: 0.5,
    student: "relu4",
    teacher: "relu9",
  });
  expect(parseMatch("relation-angle")).toEqual({
    kind: "relation-angle",
    weight: 1,
    student: undefined,
    teacher: undefined,
  });
  for (const text of ["cross-entropy", "hidden*x:a", "hidden:"]) expect(() => parseMatch(text)).toThrow("to match");
});
