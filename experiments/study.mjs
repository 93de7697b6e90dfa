/** What studies of training share: runs that are skipped when they are recorded already, and how a model is judged. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { evaluate } from "../dist/evaluate/evaluate.node.js";
import { machineInfo } from "../dist/evaluate/machine.node.js";
import { loadFile } from "../dist/ir/load.node.js";
import { saveFile } from "../dist/ir/save.node.js";
import { runSteps } from "../dist/techniques/pipeline.node.js";
import { formatStep } from "../dist/techniques/recipe.js";

const here = dirname(fileURLToPath(import.meta.url));

/** Options of every study, and its own: where data lies and models are kept, threads, how many runs to make before stopping. */
export function studyOptions(own = {}) {
  const { values } = parseArgs({
    options: {
      data: { type: "string", default: join(here, "..", "..", "shared", "data") },
      models: { type: "string", default: join(here, "..", ".tmp", "studies") },
      threads: { type: "string", default: "2" },
      runs: { type: "string", default: "1000" },
      pictures: { type: "string" },
      ...own,
    },
  });
  if (!existsSync(values.data)) {
    console.error(`skipped: needs ${values.data}`);
    process.exit(0);
  }
  mkdirSync(values.models, { recursive: true });
  return { ...values, threads: Number(values.threads), left: Number(values.runs) };
}

/** Options of a study that can be tried on a part of its data, which records nothing. */
export function workplaceOptions(folder) {
  return {
    part: { type: "string", default: "1" },
    models: { type: "string", default: join(here, "..", ".tmp", basename(folder)) },
  };
}

/** Where results and models go, and what takes the chosen part of a data set: `--part` below 1 works in a temporary folder. */
export function workplace(folder, options) {
  const part = Number(options.part);
  if (part >= 1) return { records: folder, models: options.models, some: (set) => set };
  const scratch = mkdtempSync(join(tmpdir(), `${basename(folder)}-`));
  return { records: scratch, models: scratch, some: (set) => set.subset({ part: [0, part], seed: 1 }) };
}

/**
 * The raw results of a study, one row per run, in runs/<name>.json of its folder: written after every run. Two processes may work
 * on different runs of it at the same time.
 */
export class Study {
  constructor(folder, name, options) {
    this.file = join(folder, "runs", `${name}.json`);
    this.options = options;
    const { versions, ...machine } = machineInfo();
    this.record = { study: name, command: `node experiments/${basename(folder)}/${name}.mjs`, machine, versions, rows: [] };
    this.#refresh();
  }

  #refresh() {
    if (existsSync(this.file)) this.record = JSON.parse(readFileSync(this.file, "utf8"));
  }

  find(key) {
    return this.record.rows.find((row) => Object.entries(key).every(([name, value]) => row[name] === value));
  }

  /** Makes a run unless it is recorded or enough were made; `work` gives its figures. */
  async run(key, work) {
    if (this.find(key) || this.options.left <= 0) return;
    this.options.left--;
    const started = performance.now();
    const figures = await work();
    this.#refresh();
    const row = { ...key, ...figures, seconds: Number(((performance.now() - started) / 1000).toFixed(1)) };
    this.record.rows.push(row);
    mkdirSync(dirname(this.file), { recursive: true });
    writeFileSync(this.file, `${JSON.stringify(this.record, null, 1)}\n`);
    console.log(JSON.stringify(row));
  }
}

/** The model after one step of the pipeline on the data, and the step as text. */
export async function applied(model, step, data, { threads }, seed) {
  const { model: result } = await runSteps(model, [step], { data, seed, threads });
  return { result, recipe: formatStep(step) };
}

/** The model of a file, made and stored where it is missing. */
export async function kept(path, make) {
  if (!existsSync(path)) await saveFile(await make(), path, { force: true });
  return loadFile(path);
}

/** A figure and its interval, as they are recorded. */
export function rounded({ value, low, high }) {
  return [value, low, high].map((each) => Number(each.toFixed(5)));
}

/** Wrong answers on the test set, as a share. */
export async function errorOf(model, test, threads) {
  const { metrics } = await evaluate(model, test, { threads });
  return Number((1 - metrics.accuracy.value).toFixed(5));
}
