/** `pare demo`: the main job on an embedded default. It makes its own data, trains a network, compresses it in every family, and draws the front. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { buildArchitecture } from "../../architectures/build.ts";
import { TECHNIQUES } from "../../catalog.ts";
import type { Dataset } from "../../data/dataset.ts";
import { openDataset } from "../../data/open.node.ts";
import { saveFile } from "../../ir/save.node.ts";
import type { Objective } from "../../search/results.ts";
import { standardRecipes } from "../../search/standard-recipes.ts";
import { parseStep, type Recipe } from "../../techniques/recipe.ts";
import { train } from "../../train/train.node.ts";
import { makeOutputFolder } from "../files.node.ts";
import { addCommonOptions, commonOptions } from "../options.node.ts";
import { type Terminal, runVerb } from "../run.node.ts";
import { sweepAndReport } from "./sweep.node.ts";

const GLYPHS = "scale=255";
const TRAINING = `glyphs:?split=train&count=12000&${GLYPHS}`;
const JUDGING = `glyphs:?split=test&count=4000&${GLYPHS}`;
const EPOCHS = 2;

/** Students for the demo's own network: a quarter of its multiplications, and a sixteenth. */
const STUDENTS: readonly Recipe[] = (
  [
    ["student", "Student of half the width", 4],
    ["small-student", "Student of a quarter of the width", 2],
  ] as const
).flatMap(([id, label, width]) => {
  const steps = [`distill:student=small-cnn:width=${width},epochs=4`, "simplify"];
  return [
    recipe(id, label, steps),
    recipe(`${id}-int8`, `${label}, int8 weights`, [...steps, "quantize-weights:bits=8"]),
    recipe(`${id}-int4`, `${label}, int4 weights`, [...steps, "quantize-weights:bits=4"]),
  ];
});

function recipe(id: string, label: string, steps: readonly string[]): Recipe {
  return { id, label, steps: steps.map((step) => parseStep(step, TECHNIQUES)) };
}

/** The demo's network is so small that every form of it takes about the same time: energy tells them apart. */
const OBJECTIVES: readonly Objective[] = [
  { name: "accuracy", direction: "maximize" },
  { name: "brotli", direction: "minimize" },
  { name: "latency-ratio", direction: "minimize" },
  { name: "energy", direction: "minimize" },
];

export function addDemo(program: Command): void {
  const verb = program
    .command("demo")
    .summary("the main job on an embedded default, in one to three minutes")
    .description(
      "Makes its own data, trains a small network, compresses it by a dozen recipes and more (quantized, pruned, recovered, tuned with a teacher, distilled), and writes models, the front and a report.",
    )
    .option("-o, --output <folder>", "folder for models and report", "pare-demo")
    .option("--fresh", "train and measure everything again", false);
  addCommonOptions(verb).action((parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const { provider, threads, seed } = commonOptions(parsed);
      const directory = parsed["output"] as string;
      const fresh = parsed["fresh"] === true;
      await makeOutputFolder(directory);
      const data = await openDataset(TRAINING);
      const evaluation = await openDataset(JUDGING);
      const model = join(directory, `glyphs-cnn-seed${seed}.onnx`);
      if (fresh || !existsSync(model)) await trainNetwork(terminal, model, data, { seed, threads });
      const recipes = [...standardRecipes(TECHNIQUES, { samples: true, labels: true }), ...STUDENTS];
      terminal.say(`Compressing by ${recipes.length} recipes…`);
      return sweepAndReport(terminal, model, recipes, {
        directory,
        data,
        evaluation,
        benchmarkSeconds: 0.6,
        batch: 32,
        objectives: OBJECTIVES,
        title: "pare demo: a small network on synthetic glyphs",
        command: "pare demo",
        memory: false,
        fresh,
        provider,
        threads,
        seed,
      });
    }),
  );
}

async function trainNetwork(
  terminal: Terminal,
  path: string,
  data: Dataset,
  options: { readonly seed: number; readonly threads: number },
): Promise<void> {
  terminal.say(`Training a small network on ${data.size} glyphs…`);
  const network = buildArchitecture("small-cnn", {
    input: data.fields[0]?.shape,
    classes: data.classes?.length,
    width: 8,
    seed: options.seed,
  });
  await train(network, data, {
    ...options,
    epochs: EPOCHS,
    signal: terminal.signal,
    onProgress: ({ done, total, loss }) =>
      terminal.onProgress({ stage: `training, loss ${loss.toPrecision(3)}`, done, total }),
  });
  await saveFile(network, path, { force: true, signal: terminal.signal });
}
