/** A teacher inside the step graph: its forward pass on the same inputs, frozen, under prefixed names. */
import { inferShapes } from "../analyse/shapes.ts";
import { PareError, nearest } from "../base/error.ts";
import { cloneModel } from "../ir/clone.ts";
import { graftGraph } from "../ir/clone.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { bindBatch } from "./bind-batch.ts";
import { scoresOf } from "./scores.ts";

/** Looks up a value of the teacher: by its own name, or what stands for its first output. */
export interface TeacherValues {
  named(name: string): Value;
  readonly output: Value;
  readonly scores: Value;
}

/**
 * Puts the teacher's forward pass into the student's graph. Inputs of one name are shared; otherwise they go together in
 * order. Throws `unsupported` where the opsets differ, `shape-mismatch` where the inputs do.
 */
export function graftTeacher(student: Model, teacher: Model, inputs: readonly Value[], batch: number): TeacherValues {
  for (const [domain, version] of teacher.opsets) {
    const own = student.opsets.get(domain);
    if (own === undefined) student.opsets.set(domain, version);
    else if (own !== version)
      throw new PareError("unsupported", "Teacher and student must have one opset to run in one graph", {
        where: domain === "" ? "the standard operators" : `domain '${domain}'`,
        found: `student ${own}, teacher ${version}`,
        help: "Convert the older of the two (pare convert --opset)",
      });
  }
  const copy = cloneModel(teacher);
  bindBatch(copy.graph, batch);
  inferShapes(copy);
  const wanted = copy.graph.inputs.filter((input) => !input.tensor);
  const bound = new Map<Value, Value>();
  for (const [index, input] of wanted.entries()) {
    const match =
      inputs.find(({ name }) => name === input.name) ?? (wanted.length === inputs.length ? inputs[index] : undefined);
    if (!match || match.dtype !== input.dtype || match.shape?.join() !== input.shape?.join())
      throw new PareError("shape-mismatch", "Teacher and student do not take the same inputs", {
        where: `the teacher's input '${input.name}'`,
        found: match ? `${input.dtype} [${input.shape?.join(", ")}]` : "no such input of the student",
        expected: inputs.map(({ name, dtype, shape }) => `${name}: ${dtype} [${shape?.join(", ")}]`).join("; "),
      });
    bound.set(input, match);
  }
  for (const body of copy.functions)
    if (!student.functions.some(({ name, domain }) => name === body.name && domain === body.domain))
      student.functions.push(body);
  const output = copy.graph.outputs[0];
  if (!output) throw new PareError("bad-model", "The teacher has no output");
  const { scores } = scoresOf(output);
  const names = new Map([...copy.graph.values()].map((value) => [value.name, value]));
  const grafted = graftGraph(copy.graph, student.graph, "teacher/", bound);
  const copyOf = (value: Value): Value => grafted.get(value) as Value;
  return {
    output: copyOf(output),
    scores: copyOf(scores),
    named(name) {
      const value = names.get(name);
      if (value) return copyOf(value);
      throw noSuchValue(name, names.keys(), "The teacher");
    },
  };
}

/** The error for a name that no value has. */
export function noSuchValue(name: string, known: Iterable<string>, who: string): PareError {
  const near = nearest(name, known);
  return new PareError("bad-option", `${who} has no such value`, {
    where: `'${name}'`,
    ...(near ? { help: `Did you mean '${near}'?` } : {}),
  });
}
