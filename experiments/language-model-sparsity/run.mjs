/**
 * Zeros in a language model against its perplexity, by criterion. Calibrated on text that the model writes itself, judged on stories
 * that it has not seen. After a build: node experiments/language-model-sparsity/run.mjs [folder of shared data].
 * Resumes: cells that are in results.json are not run again. `--table` only writes README.md from results.json.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pruneWeights } from "../../dist/index.js";
import { encodeModel } from "../../dist/ir/encode.js";
import { runSteps } from "../../dist/techniques/pipeline.node.js";
import { table } from "../../bench/support.mjs";
import { CALIBRATION, openStudy, recorded, store } from "../language-model.mjs";

const here = import.meta.dirname;
const ROWS = {
  random: { text: "random", options: { score: "random" } },
  magnitude: { text: "magnitude", options: { score: "magnitude" } },
  "magnitude-output": { text: "magnitude, within each output", options: { score: "magnitude", scope: "output" }, free: true },
  lamp: { text: "magnitude, LAMP", options: { score: "magnitude", allocation: "lamp" }, free: true },
  erk: { text: "magnitude, Erdős–Rényi-kernel", options: { score: "magnitude", allocation: "erk" }, free: true },
  fisher: { text: "Fisher, all layers together", options: { score: "fisher", scope: "global" }, free: true },
  taylor: { text: "Taylor, first order", options: { score: "taylor" } },
  obd: { text: "OBD on the layer's inputs", options: { score: "obd" } },
  obs: { text: "OBS on the layer's inputs, no update", options: { score: "obs" } },
  wanda: { text: "Wanda", options: { score: "wanda" } },
  sparsegpt: { text: "SparseGPT", options: { score: "sparsegpt" } },
};
const COLUMNS = {
  30: { ratio: 0.3 },
  50: { ratio: 0.5 },
  70: { ratio: 0.7 },
  "2:4": { pattern: "2:4" },
  "4:8": { pattern: "4:8" },
};
/** The two that are claimed to beat magnitude come first. */
const CELLS = ["magnitude", "wanda", "sparsegpt", ...Object.keys(ROWS)].flatMap((row) =>
  Object.keys(COLUMNS)
    .filter((column) => !(ROWS[row].free && COLUMNS[column].pattern))
    .map((column) => [row, column]),
);
const file = join(here, "results.json");
const results = recorded(file, { calibration: CALIBRATION, cells: [] });

async function run() {
  const { model, data, score } = await openStudy();
  const measure = async (subject) => ({ ...(await score(subject)), bytes: (await encodeModel(subject)).length });
  results.float ??= await measure(model);
  store(file, results);
  for (const [row, column] of CELLS) {
    if (results.cells.some((cell) => cell.row === row && cell.column === column)) continue;
    const started = performance.now();
    const step = pruneWeights({ ...ROWS[row].options, ...COLUMNS[column], keep: ["op:Gather"] });
    const pruned = await runSteps(model, [step], { seed: CALIBRATION.seed, data, threads: 1 });
    const seconds = (performance.now() - started) / 1000;
    results.cells.push({ row, column, weights: pruned.steps[0].changed.length, seconds, ...(await measure(pruned.model)) });
    store(file, results);
    console.error(row, column, results.cells.at(-1).perplexity.value.toFixed(4), `${seconds.toFixed(1)} s`);
  }
}

const at = (row, column) => results.cells.find((cell) => cell.row === row && cell.column === column);

/** What the table shows, said by its numbers. */
function reading() {
  const lines = [];
  for (const column of Object.keys(COLUMNS)) {
    const plain = at("magnitude", column)?.perplexity.value;
    if (plain === undefined) continue;
    const done = Object.keys(ROWS).filter((row) => at(row, column));
    const order = done.sort((a, b) => at(a, column).perplexity.value - at(b, column).perplexity.value);
    const better = ["wanda", "sparsegpt"].filter((row) => at(row, column)?.perplexity.value < plain);
    const name = COLUMNS[column].pattern ?? `${column} % zeros`;
    lines.push(
      `${name}, best first: ${order.map((row) => ROWS[row].text).join("; ")}. Better than magnitude: ${better.map((row) => ROWS[row].text).join(" and ") || "neither Wanda nor SparseGPT"}.`,
    );
  }
  for (const column of ["50", "70"]) {
    const [group, wanda] = ["magnitude-output", "wanda"].map((row) => at(row, column)?.perplexity.value);
    if (group !== undefined && wanda !== undefined)
      lines.push(
        `Wanda differs from magnitude in two ways. At ${column} % zeros, comparing within each output alone, without a look at inputs, gives ${group.toFixed(1)}; with inputs ${wanda.toFixed(1)}.`,
      );
  }
  const missing = [...new Map(CELLS.map((cell) => [cell.join(), cell])).values()].filter(([row, column]) => !at(row, column));
  if (missing.length > 0) lines.push(`Not run yet: ${missing.map(([row, column]) => `${ROWS[row].text} at ${column}`).join(", ")}.`);
  return lines.map((line) => `- ${line}`).join("\n");
}

function page() {
  const columns = Object.keys(COLUMNS);
  const { perplexity, bytes } = results.float;
  const value = (row, column) => at(row, column)?.perplexity.value.toFixed(3) ?? "";
  const sizes = columns.map((column) => {
    const size = at("magnitude", column)?.bytes;
    return size === undefined ? "" : `${(bytes / size).toFixed(2)}`;
  });
  return `# Zeros in a language model

The matrix products of \`stories260k\` (a Llama of five layers, width 64) with some of their weights set to zero and nothing trained
afterwards. Criteria that read inputs or gradients see ${results.calibration.count} texts of ${results.calibration.length} tokens that the model wrote itself
(\`../language-model-bits/calibration-text.json\`); the judge is \`text/tinystories\`: five stories, each from its start token. Tables that
are looked up (the tied embedding, positions) stay as they were, as in the papers. Unless a row says otherwise every layer
loses the same share; Wanda compares within each output, SparseGPT within 128 inputs of a layer, Taylor and Fisher take gradients
of the model's own answers. This page is written by the script from \`results.json\`:

    node experiments/language-model-sparsity/run.mjs

Perplexity, less is better; dense ${perplexity.value.toFixed(4)} (95 % interval over the stories ${perplexity.low.toFixed(2)} to ${perplexity.high.toFixed(2)}).

${table(
  ["criterion", ...columns.map((column) => COLUMNS[column].pattern ?? `${column} %`)],
  [...Object.keys(ROWS).map((row) => [ROWS[row].text, ...columns.map((column) => value(row, column))]), ["dense file over sparse file, bytes", ...sizes]],
)}

${reading()}

Five stories are few: the interval above is that of the stories themselves, wider than most differences between criteria, which are
seen only because every criterion is judged on the same stories; an order of two that are within a few percent of each other
proves nothing. The model is tiny and has hardly a weight to spare: the papers' models of billions lose a few percent of
perplexity at 50 % where this one loses much more. The file shrinks less than its weights, since the tables stay dense.
`;
}

if (!process.argv.includes("--table")) await run();
if (results.float) writeFileSync(join(here, "README.md"), page());
