/** The student of a distillation: a model file or an architecture by name, given the inputs and outputs of its teacher. */
import { ARCHITECTURES, buildArchitecture } from "../../architectures/build.ts";
import { optionsFor } from "../../architectures/fit.ts";
import { inferShapes } from "../../analyse/shapes.ts";
import { PareError, nearest } from "../../base/error.ts";
import { formatShape } from "../../base/shape.ts";
import type { Dataset } from "../../data/dataset.ts";
import { Builder } from "../../ir/builder.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { scoresOf } from "../../train/scores.ts";
import { loadModelFile } from "../model-file.ts";
import { camelCase, fromText } from "../recipe.ts";

/**
 * Builds `name[:option=value[+option=value…]]`, such as `resnet-20:width=8`, or loads a file. The sizes of samples and
 * outputs follow from the teacher. Throws `bad-option` for what nobody knows, naming the nearest.
 */
export async function studentOf(text: string, teacher: Model, data: Dataset, seed: number): Promise<Model> {
  const colon = text.indexOf(":");
  const name = colon < 0 ? text : text.slice(0, colon);
  const architecture = ARCHITECTURES.get(name);
  if (!architecture) {
    const near = nearest(name, ARCHITECTURES.keys());
    if (near && !text.endsWith(".onnx")) buildArchitecture(name); // fails, naming it
    return loadModelFile(text);
  }
  const options: Record<string, unknown> = { ...optionsFor(architecture, data), ...sizesOf(teacher) };
  for (const key of Object.keys(options)) if (!(key in architecture.options.shape)) delete options[key];
  for (const setting of colon < 0 ? [] : text.slice(colon + 1).split("+")) {
    const equals = setting.indexOf("=");
    if (equals < 0)
      throw new PareError("bad-option", "Not an option of an architecture", {
        where: `student '${text}'`,
        found: `'${setting}'`,
        expected: "option=value, several joined by '+'",
      });
    const option = camelCase(setting.slice(0, equals).trim());
    const schema = architecture.options.shape[option];
    const value = setting.slice(equals + 1);
    options[option] = schema ? fromText(value, schema) : value;
  }
  return buildArchitecture(name, { ...options, seed });
}

/** Shape of a sample and number of classes, where the teacher's first input and output say them. */
function sizesOf(teacher: Model): Record<string, unknown> {
  const input = teacher.graph.inputs.find(({ tensor }) => !tensor)?.shape?.slice(1);
  const classes = teacher.graph.outputs[0]?.shape?.at(-1);
  return {
    ...(input && input.length > 0 && input.every((size) => typeof size === "number") ? { input } : {}),
    ...(typeof classes === "number" ? { classes } : {}),
  };
}

/**
 * Gives the student the teacher's interface: its inputs and outputs get the teacher's names, in order where they differ, and
 * scores become probabilities where the teacher answers with these. Throws `shape-mismatch` where they do not go together.
 */
export function takeInterface(student: Model, teacher: Model): void {
  inferShapes(student);
  const fed = (model: Model): Value[] => model.graph.inputs.filter(({ tensor }) => !tensor);
  adoptKind(student, teacher);
  for (const [side, own, wanted] of [
    ["input", fed(student), fed(teacher)],
    ["output", student.graph.outputs, teacher.graph.outputs],
  ] as const) {
    const pairs = pairUp(side, own, wanted);
    for (const [value, model] of pairs) checkPort(side, value, model);
    for (const [value, model] of pairs) rename(student.graph, value, model.name);
    const order = wanted.map((model) => pairs.find(([, each]) => each === model)?.[0] as Value);
    const list = side === "input" ? student.graph.inputs : student.graph.outputs;
    const rest = side === "input" ? student.graph.inputs.filter(({ tensor }) => tensor) : [];
    list.splice(0, list.length, ...order, ...rest);
  }
}

function pairUp(side: string, own: readonly Value[], wanted: readonly Value[]): [Value, Value][] {
  if (own.length !== wanted.length)
    throw new PareError("shape-mismatch", `Student and teacher have different numbers of ${side}s`, {
      found: own.map(({ name }) => name).join(", "),
      expected: wanted.map(({ name }) => name).join(", "),
    });
  const named = wanted.every(({ name }) => own.some((value) => value.name === name));
  return wanted.map((model, i) => [(named ? own.find(({ name }) => name === model.name) : own[i]) as Value, model]);
}

/** Equal dtypes, ranks and known sizes; the batch axis may differ. */
function checkPort(side: string, own: Value, wanted: Value): void {
  const [a, b] = [own.shape, wanted.shape];
  const sizes =
    !a ||
    !b ||
    (a.length === b.length &&
      a.every((dim, i) => i === 0 || typeof dim !== "number" || typeof b[i] !== "number" || dim === b[i]));
  if (own.dtype === wanted.dtype && sizes) return;
  throw new PareError("shape-mismatch", `Student and teacher differ in their ${side}`, {
    where: `${side} '${wanted.name}'`,
    found: `${own.dtype} ${formatShape(a)} of the student`,
    expected: `${wanted.dtype} ${formatShape(b)}`,
    help: "Choose another student, or give the architecture the teacher's input and classes",
  });
}

/** Scores, probabilities or their logarithms, as the teacher gives them. */
function adoptKind(student: Model, teacher: Model): void {
  const { graph } = student;
  const [own, wanted] = [graph.outputs[0], teacher.graph.outputs[0]];
  if (!own || !wanted) return;
  const [has, wants] = [scoresOf(own), scoresOf(wanted)];
  if (has.kind === wants.kind) return;
  const { scores } = has;
  scores.dtype ??= own.dtype;
  scores.shape ??= own.shape;
  const last = wanted.producer;
  const made =
    wants.kind === "logits" || !last
      ? scores
      : new Builder(graph).op(last.opType, [scores], { attributes: wants.kind === "sigmoid" ? {} : { axis: -1 } });
  [made.dtype, made.shape] = [own.dtype, own.shape];
  graph.outputs[0] = made;
}

/** Another value of that name steps aside. */
function rename(graph: Graph, value: Value, name: string): void {
  if (value.name === name) return;
  const taken = graph.find(name);
  if (taken) {
    const old = taken.name;
    taken.name = graph.uniqueName(`student/${old}`);
    if (graph.initializers.delete(old)) graph.initializers.set(taken.name, taken);
  }
  value.name = name;
}
