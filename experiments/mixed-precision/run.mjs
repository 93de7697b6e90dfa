/**
 * Formats layer by layer against the same format everywhere, at equal bytes, on real models. Chosen on training images, or on text that
 * the language model writes itself; judged on images and stories that nothing was chosen on. After a build:
 * node experiments/mixed-precision/run.mjs [folder of shared data]. Resumes: rows that are in results.json are not made again, and
 * sensitivities are kept in the cache folder. `--table` only writes README.md from results.json.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { evaluate, load, mix, openDataset, quantizeWeights } from "../../dist/index.js";
import { pairedDifference } from "../../dist/base/statistics.js";
import { encodedBytes } from "../../dist/techniques/mixed/variant.js";
import { runSteps } from "../../dist/techniques/pipeline.node.js";
import { table } from "../../bench/support.mjs";
import { JUDGE, MODEL, recorded, shared, store } from "../language-model.mjs";

const here = import.meta.dirname;
const FORMATS = ["int8", "int6", "int4", "int3", "int2"];
const UNIFORM = ["int4", "int3"];
const file = join(here, "results.json");
const results = recorded(file, { models: {} });

const MODELS = {
  "resnet20-cifar10": {
    file: join(shared, "models", "resnet20-cifar10.onnx"),
    data: `cifar10:${join(shared, "cifar10-exact")}?split=train&scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225`,
    judge: `cifar10:${join(shared, "cifar10-exact")}?split=test&scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225`,
    by: ["kl", "loss"],
    metric: "accuracy",
  },
  stories260k: {
    file: MODEL,
    data: undefined,
    judge: JUDGE,
    by: ["kl"],
    metric: "perplexity",
  },
};

const lossesOf = ({ rows }) => rows.losses;

async function run() {
  for (const [name, spec] of Object.entries(MODELS)) {
    const model = await load(spec.file);
    const judge = await openDataset(spec.judge);
    const data = spec.data && (await openDataset(spec.data));
    const found = (results.models[name] ??= { rows: [] });
    let original;
    const score = async (subject, row) => {
      original ??= await evaluate(model, judge, { threads: 1 });
      const judged = await evaluate(subject, judge, { threads: 1 });
      const rise = pairedDifference(lossesOf(judged), lossesOf(original));
      found.rows.push({ ...row, metrics: judged.metrics, lossRise: rise });
      found.float = { bytes: encodedBytes(model), metrics: original.metrics };
      store(file, results, 1);
      console.error(name, row.label, row.bytes, judged.metrics[spec.metric].value);
    };
    for (const format of UNIFORM) {
      const rowOf = (label) => found.rows.find((row) => row.label === label);
      if (!rowOf(format)) {
        const step = quantizeWeights({ to: format, method: "mse", compute: "fp32" });
        const made = await runSteps(model, [step], { seed: 1, threads: 1 });
        await score(made.model, { label: format, bytes: encodedBytes(made.model) });
      }
      for (const by of spec.by) {
        const label = `mix by ${by} in the bytes of ${format}`;
        if (rowOf(label)) continue;
        const step = mix({ bytes: rowOf(format).bytes, by, formats: FORMATS, compute: "fp32", samples: data ? 256 : 32, length: 128 });
        const started = performance.now();
        const made = await runSteps(model, [step], { seed: 1, threads: 1, data });
        const [report] = made.steps;
        const seconds = (performance.now() - started) / 1000;
        const formats = report.changed.map(({ what, how }) => [what, how]);
        await score(made.model, { label, bytes: encodedBytes(made.model), seconds, notes: report.notes.map((note) => note.replace(/ of \w+:[^\s)]+/g, "")), formats });
      }
    }
  }
}

function page() {
  const blocks = Object.entries(results.models).map(([name, { float, rows }]) => {
    const { metric } = MODELS[name];
    const shown = (value) => (metric === "accuracy" ? `${(100 * value).toFixed(1)} %` : value.toFixed(3));
    const line = ({ label, bytes, metrics, lossRise }) => [
      label,
      String(bytes),
      shown(metrics[metric].value),
      lossRise ? `${lossRise.value.toFixed(4)} (${lossRise.low.toFixed(4)} to ${lossRise.high.toFixed(4)})` : "",
    ];
    const notes = rows.filter((row) => row.notes).map((row) => `- ${row.label}: ${row.notes.filter((note) => /Formats|adds up|judged|uniform/.test(note)).join(" ")}`);
    return `## ${name}\n\n${table(["formats", "bytes", metric, "rise of loss, 95 %"], [line({ label: "float", bytes: float.bytes, metrics: float.metrics }), ...rows.map(line)])}\n\n${verdict(name)}\n\nWhat the search said, on the samples that it chose on:\n\n${notes.join("\n")}\n`;
  });
  return `# Bits layer by layer

One format for each layer (${FORMATS.join(", ")}), chosen by \`pare mix\`, beside the same format everywhere, at no more bytes of the file. Weights are rounded
by the same rule (MSE), activations are not. What each layer loses alone was measured on 256 training images of CIFAR-10 (by the
divergence of the scores, and by the labels' loss), for the language model on 32 texts of 128 tokens that it wrote itself; the tables are
judged on the test images and on stories that nothing was chosen on. This page is written by the script from \`results.json\`:

    node experiments/mixed-precision/run.mjs

${blocks.join("\n")}
## Reading

Intervals are of the rise against the float model, the same images (tokens) for both, tokens taken as independent; where two of them
overlap, one table proves no order. On CIFAR-10 the guide matters more than the search: on images that a network was trained on its
loss is next to nothing, so that what a layer adds to it is small and badly measured, and the sum of what single layers lose falls
short of what they lose together by several times; the divergence of the scores adds up to within a third, and its choice keeps more on
images that it has not seen. Name held-out images for \`by=loss\`, or use \`by=kl\`. The file of a small network is to a large part scales and
node names, which is why 3 bits everywhere save so little against 4.
`;
}

/** What the table shows, said by its numbers. */
function verdict(name) {
  const { rows } = results.models[name];
  return UNIFORM.flatMap((format) => {
    const same = rows.find((row) => row.label === format);
    return rows
      .filter((row) => row.label.startsWith("mix") && row.label.endsWith(` ${format}`))
      .map((row) => {
        const better = row.lossRise.value < same.lossRise.value;
        const part = `${row.label.replace(/ in the.*/, "")} against ${format} everywhere: the loss rises by ${row.lossRise.value.toFixed(4)} instead of ${same.lossRise.value.toFixed(4)}`;
        return `- ${part}, ${better ? "better" : "not better"}, in ${row.bytes <= same.bytes ? "no more bytes" : "more bytes"}.`;
      });
  }).join("\n");
}

if (!process.argv.includes("--table")) await run();
writeFileSync(join(here, "README.md"), page());
process.exit(0);
