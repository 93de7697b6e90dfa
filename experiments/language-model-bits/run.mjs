/**
 * Bits of a language model against its perplexity, by method of rounding. Calibrated on text that the model writes itself, judged
 * on stories that it has not seen. After a build: node experiments/language-model-bits/run.mjs [folder of shared data].
 * Resumes: cells that are in results.json are not run again. `--table` only writes README.md from results.json.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { quantizeWeights } from "../../dist/index.js";
import { runSteps } from "../../dist/techniques/pipeline.node.js";
import { table } from "../../bench/support.mjs";
import { CALIBRATION, openStudy, recorded, store } from "../language-model.mjs";

const here = import.meta.dirname;
const block = 32;
const METHODS = { rtn: "round to nearest", mse: "MSE clipping", hqq: "HQQ", gptq: "GPTQ", awq: "AWQ", "awq-gptq": "AWQ, then GPTQ" };
const CELLS = [
  [8, "rtn"],
  [8, "mse"],
  [8, "gptq"],
  ...["rtn", "mse", "hqq", "gptq", "awq", "awq-gptq"].flatMap((method) => [4, 3, 2].map((bits) => [bits, method])),
];
/** Bits, method and rank of the factors that give a part of the error back. */
const COMPENSATED = [
  [3, "mse", 4],
  [3, "mse", 8],
  [3, "gptq", 4],
  [3, "gptq", 8],
  [2, "mse", 8],
  [2, "mse", 16],
  [2, "gptq", 8],
  [2, "gptq", 16],
];
const file = join(here, "results.json");
const results = recorded(file, { calibration: CALIBRATION, block, cells: [] });

function cellAt(bits, method, compensate) {
  return results.cells.find((cell) => cell.bits === bits && cell.method === method && cell.compensate === compensate);
}

async function run() {
  const { model, data, score } = await openStudy();
  if (!results.float) {
    results.float = await score(model);
    store(file, results);
  }
  for (const [bits, method, compensate] of [...CELLS, ...COMPENSATED]) {
    if (cellAt(bits, method, compensate)) continue;
    const started = performance.now();
    const step = quantizeWeights({ bits, method, block, keep: ["op:Gather"], compute: "fp32", ...(compensate && { compensate }) });
    const quantized = await runSteps(model, [step], { seed: CALIBRATION.seed, data, threads: 1 });
    const seconds = (performance.now() - started) / 1000;
    const { changed } = quantized.steps[0];
    const bytes = changed.reduce((sum, { bytesAfter }) => sum + bytesAfter, 0);
    const cell = { bits, method, ...(compensate && { compensate }), weights: changed.length, bytes, seconds };
    results.cells.push({ ...cell, ...(await score(quantized.model)) });
    store(file, results);
    console.error(bits, method, compensate ?? "", results.cells.at(-1).perplexity.value.toFixed(4));
  }
}

/** What the table shows, said by its numbers. */
function reading() {
  const at = (bits, method) => cellAt(bits, method)?.perplexity.value;
  const lines = [];
  const eight = at(8, "rtn");
  const float = results.float.perplexity.value;
  if (eight) lines.push(`8 bits cost ${(100 * (eight / float - 1)).toFixed(2)} % of perplexity.`);
  for (const bits of [4, 3, 2]) {
    const nearest = at(bits, "rtn");
    const done = Object.keys(METHODS).filter((method) => at(bits, method) !== undefined);
    const order = done.sort((a, b) => at(bits, a) - at(bits, b)).map((method) => METHODS[method]);
    const better = ["gptq", "awq"].filter((method) => at(bits, method) < nearest).map((method) => METHODS[method]);
    if (nearest) lines.push(`At ${bits} bits, best first: ${order.join(", ")}. Better than rounding to nearest: ${better.join(" and ") || "neither GPTQ nor AWQ"}.`);
  }
  const missing = CELLS.filter(([bits, method]) => at(bits, method) === undefined);
  if (missing.length > 0) lines.push(`Not run yet: ${missing.map(([bits, method]) => `${METHODS[method]} at ${bits} bits`).join(", ")}.`);
  return lines.map((line) => `- ${line}`).join("\n");
}

/** Plain cells and those with factors, by bytes. */
function factorRows() {
  const plain = [4, 3, 2].flatMap((bits) => ["mse", "gptq"].map((method) => [bits, method]));
  return [...plain, ...COMPENSATED]
    .flatMap((cell) => cellAt(...cell) ?? [])
    .sort((a, b) => a.bytes - b.bytes)
    .map(({ bits, method, compensate, bytes, perplexity }) => [bits, METHODS[method], compensate ?? "", bytes, perplexity.value.toFixed(3)]);
}

/** Whether factors pay here: cells with them that no plain cell of as few bytes beats. */
function factorReading() {
  const all = results.cells.filter(({ bits }) => bits < 8);
  const best = all.filter(
    (one) =>
      one.compensate && !all.some((other) => !other.compensate && other.bytes <= one.bytes && other.perplexity.value <= one.perplexity.value),
  );
  const verdict =
    best.length > 0
      ? `Not beaten by a plain format of as few bytes: ${best.map(({ bits, method, compensate }) => `${METHODS[method]} at ${bits} bits with rank ${compensate}`).join(", ")}.`
      : "Every one of them is beaten by a plain format of as few bytes: here another bit is the better use of them.";
  return `Each rank lowers the perplexity at the same bits. ${verdict} Factors take 16·r·(k + n)/(k·n) bits per weight: 4 bits for rank 8 in
matrices of 64 × 64, a sixteenth of a bit in those of 4096 × 4096, of which the papers speak.`;
}

function page() {
  const value = (bits, method) => cellAt(bits, method)?.perplexity.value.toFixed(3) ?? "";
  const { perplexity } = results.float;
  return `# Bits of a language model

The matrix products of \`stories260k\` (a Llama of five layers, width 64) in few bits, a scale and zero point for every ${results.block} weights.
GPTQ and AWQ are calibrated on ${results.calibration.count} texts of ${results.calibration.length} tokens that the model wrote itself (seed ${results.calibration.seed}, in \`calibration-text.json\`); the judge is
\`text/tinystories\`: five stories, each from its start token. Tables that are looked up (the tied embedding, positions) stay as they
were, as in the papers, and activations are not rounded. This page is written by the script from \`results.json\`:

    node experiments/language-model-bits/run.mjs

Perplexity, less is better; fp32 ${perplexity.value.toFixed(4)} (95 % interval over the stories ${perplexity.low.toFixed(2)} to ${perplexity.high.toFixed(2)}).

${table(["method", "8 bits", "4 bits", "3 bits", "2 bits"], Object.keys(METHODS).map((method) => [METHODS[method], ...[8, 4, 3, 2].map((bits) => value(bits, method))]))}

${reading()}

## Thin factors of the error

With \`compensate\` the best part of rank r of what rounding lacks is stored beside the codes, as two float16 factors (LoRC); with GPTQ
that of the outputs. Bytes are those of codes, scales, zero points and factors.

${table(["bits", "method", "rank", "bytes", "perplexity"], factorRows())}

${factorReading()}

Five stories are few: the interval above is that of the stories themselves, wider than most differences between methods, which
are seen only because every method is judged on the same stories; an order of two methods that are within a few percent of
each other proves nothing. The model has so few weights that every bit hurts more than in the papers' models of billions,
where 4 bits with GPTQ or AWQ cost about 2 % of perplexity. 3 bits have no kernel in ONNX Runtime: they save bytes in the
file and are unpacked to floats at load.
`;
}

if (!process.argv.includes("--table")) await run();
if (results.float) writeFileSync(join(here, "README.md"), page());
