/**
 * Peak memory of static calibration with 100, 1,000 and 10,000 samples, each in fresh processes: statistics are held, samples
 * are not. Glyphs and an untrained small-cnn always; resnet20 on CIFAR-10 where ../shared/data is present.
 * `node bench/calibration-memory.mjs [--rounds 3] [--samples 100,1000,10000]` after `npm run build`. Writes
 * bench/runs/calibration-memory.json.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { buildArchitecture } from "../dist/architectures/build.js";
import { openDataset } from "../dist/data/open.node.js";
import { loadFile } from "../dist/ir/load.node.js";
import { runSteps } from "../dist/techniques/pipeline.node.js";
import { quantize } from "../dist/techniques/quantize/static/quantize.js";
import { measureNode, median, root, table, writeRun } from "./support.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "3" },
    samples: { type: "string", default: "100,1000,10000" },
  },
});
const shared = join(root, "..", "shared", "data");
const CASES = {
  "small-cnn on glyphs": {
    model: async () => buildArchitecture("small-cnn"),
    data: "glyphs:?split=train",
  },
  "resnet20 on CIFAR-10": {
    needs: join(shared, "cifar10-exact"),
    model: () => loadFile(join(shared, "models", "resnet20-cifar10.onnx")),
    data: `cifar10:${shared}/cifar10-exact?split=test&scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225`,
  },
};

if (positionals[0] === "calibrate") await calibrate(CASES[positionals[1]], Number(positionals[2]));
else await main();

/** What a measured child does. */
async function calibrate({ model, data }, samples) {
  await runSteps(await model(), [quantize({ samples })], { data: await openDataset(data) });
}

async function main() {
  const rows = [];
  for (const [name, { needs }] of Object.entries(CASES)) {
    if (needs && !existsSync(needs)) {
      console.error(`skipped: ${name}, needs ../shared/data`);
      continue;
    }
    const counts = values.samples.split(",").map(Number);
    const all = new Map(counts.map((samples) => [samples, []]));
    for (let round = 0; round < Number(values.rounds); round++)
      for (const samples of counts) {
        const { stdout: _, ...usage } = await measureNode([process.argv[1], "calibrate", name, String(samples)]);
        all.get(samples).push(usage);
      }
    for (const [samples, found] of all)
      rows.push({
        case: name,
        samples,
        peakBytes: median(found.map(({ peakBytes }) => peakBytes)),
        seconds: median(found.map(({ seconds }) => seconds)),
        all: found,
      });
  }
  writeRun("calibration-memory", rows);
  console.log(
    table(
      ["case", "samples", "peak MB", "seconds"],
      rows.map((row) => [row.case, row.samples, (row.peakBytes / 1e6).toFixed(0), row.seconds.toFixed(1)]),
    ),
  );
}
