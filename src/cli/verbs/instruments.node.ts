/** The instruments: every verb that is not a technique, in the order of `pare --help`. */
import type { Command } from "commander";
import { addBenchmark } from "./benchmark.node.ts";
import { addBisect } from "./bisect.node.ts";
import { addCheck } from "./check.node.ts";
import { addCompare } from "./compare.node.ts";
import { addCompress } from "./compress.node.ts";
import { addConvert } from "./convert.node.ts";
import { addDemo } from "./demo.node.ts";
import { addDiff } from "./diff.node.ts";
import { addDoctor } from "./doctor.node.ts";
import { addExplain } from "./explain.node.ts";
import { addEvaluate } from "./evaluate.node.ts";
import { addGroups } from "./groups.node.ts";
import { addInspect } from "./inspect.node.ts";
import { addReport } from "./report.node.ts";
import { addSensitivity } from "./sensitivity.node.ts";
import { addSweep } from "./sweep.node.ts";
import { addVocabulary } from "./vocabulary.node.ts";
import { addTrain } from "./train.node.ts";

export function addInstruments(program: Command): void {
  addDemo(program);
  addInspect(program);
  addGroups(program);
  addVocabulary(program);
  addCheck(program);
  addDiff(program);
  addCompare(program);
  addBisect(program);
  addExplain(program);
  addConvert(program);
  addEvaluate(program);
  addBenchmark(program);
  addSensitivity(program);
  addTrain(program);
  addCompress(program);
  addSweep(program);
  addReport(program);
  addDoctor(program);
}
