/**
 * Structured pruning of every model of a folder and of every architecture by name: MACs, parameters and latency before and
 * after, and what could not be pruned, with the reason. Latency is a ratio: both networks are timed in turns.
 * `node bench/prune-channels.mjs [--models ../shared/data/models] [--ratios 0.3,0.5] [--seconds 2] [--width]` after
 * `npm run build`. Writes bench/runs/prune-channels.json.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { costOf } from "../dist/analyse/cost.js";
import { ARCHITECTURES, buildArchitecture } from "../dist/architectures/build.js";
import { latencyRatio } from "../dist/evaluate/latency.js";
import { checkModel } from "../dist/ir/check.js";
import { loadFile } from "../dist/ir/load.node.js";
import { openSession } from "../dist/run/open-session.node.js";
import { indexRanges, syntheticFeeds } from "../dist/run/synthetic.js";
import { runSteps } from "../dist/techniques/pipeline.node.js";
import { pruneChannels } from "../dist/techniques/prune/channels/prune-channels.js";
import { root, table, writeRun } from "./support.mjs";

const { values } = parseArgs({
  options: {
    models: { type: "string", default: join(root, "..", "shared", "data", "models") },
    ratios: { type: "string", default: "0.3,0.5" },
    seconds: { type: "string", default: "2" },
    width: { type: "boolean", default: false },
  },
});
const ratios = values.ratios.split(",").map(Number);
const seconds = Number(values.seconds);

function* models() {
  if (existsSync(values.models))
    for (const file of readdirSync(values.models).filter((name) => name.endsWith(".onnx")))
      yield [file, () => loadFile(join(values.models, file))];
  for (const name of ARCHITECTURES.keys()) yield [name, async () => buildArchitecture(name)];
}

/** p50 of the pruned network over that of the original, timed in turns on the same inputs. */
async function ratioOf(original, pruned) {
  const sessions = await Promise.all([original, pruned].map((model) => openSession(model, { threads: 1 })));
  try {
    const feeds = syntheticFeeds(sessions[0].inputs, { ranges: indexRanges(original) });
    const { ratio } = await latencyRatio(sessions[0], sessions[1], feeds, { seconds });
    return ratio;
  } finally {
    await Promise.all(sessions.map((session) => session.close()));
  }
}

const rows = [];
for (const [name, load] of models()) {
  const original = await load();
  const before = costOf(original);
  for (const ratio of ratios) {
    const row = { name, ratio, macs: before.macs, parameters: before.parameters };
    try {
      const { model, steps } = await runSteps(original, [pruneChannels({ ratio, width: values.width })]);
      const after = costOf(model);
      const problems = checkModel(model).filter(({ severity }) => severity === "error");
      const { changed, skipped } = steps[0];
      rows.push({
        ...row,
        macsAfter: after.macs,
        parametersAfter: after.parameters,
        problems: problems.length,
        families: changed.length,
        stays: skipped,
        latency: await ratioOf(original, model),
      });
    } catch (error) {
      rows.push({ ...row, error: error.message });
    }
    const last = rows.at(-1);
    console.error(name, ratio, last.error ?? `MACs ${(last.macsAfter / last.macs).toFixed(2)}`);
  }
}
writeRun("prune-channels", rows, { ratios, seconds, width: values.width });
const share = (after, all) => (all > 0 ? (after / all).toFixed(2) : "");
console.log(
  table(
    ["model", "ratio", "MACs left", "parameters left", "time left (95 %)", "stays"],
    rows.map((row) => [
      row.name,
      row.ratio,
      share(row.macsAfter, row.macs),
      share(row.parametersAfter, row.parameters),
      row.latency ? `${row.latency.value.toFixed(2)} (${row.latency.low.toFixed(2)} to ${row.latency.high.toFixed(2)})` : "",
      row.error ?? [...new Set(row.stays.map(({ what, why }) => `${what}: ${why}`))].slice(0, 3).join("; "),
    ]),
  ),
);
