/**
 * Structured pruning of every model of a folder and of every architecture by name: MACs, parameters and latency before and
 * after, and what could not be pruned, with the reason. Latency is a ratio: both networks are timed in turns.
 * `node bench/prune-channels.mjs [--models ../shared/data/models] [--ratios 0.3,0.5] [--seconds 2] [--width] [--only NAME]` after
 * `npm run build`. Writes bench/runs/prune-channels.json after every row; rows that are in it are not measured again.
 */
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
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
import { root, runs, table, writeRun } from "./support.mjs";

const { values } = parseArgs({
  options: {
    models: { type: "string", default: join(root, "..", "shared", "data", "models") },
    ratios: { type: "string", default: "0.3,0.5" },
    seconds: { type: "string", default: "2" },
    width: { type: "boolean", default: false },
    only: { type: "string" },
  },
});
const ratios = values.ratios.split(",").map(Number);
const seconds = Number(values.seconds);

function* models() {
  if (existsSync(values.models))
    for (const entry of readdirSync(values.models).sort()) {
      const path = join(values.models, entry);
      const files = statSync(path).isDirectory() ? readdirSync(path).map((name) => join(entry, name)) : [entry];
      for (const file of files.filter((name) => name.endsWith(".onnx"))) yield [file, () => loadFile(join(values.models, file))];
    }
  for (const name of ARCHITECTURES.keys()) yield [name, async () => buildArchitecture(name)];
}

/** What stays, by reason: how many layers, the first of them, and why; names of values in a reason are no reason of their own. */
function byReason(skipped) {
  const reasons = new Map();
  for (const { what, why } of skipped) {
    const key = why.replaceAll(/'[^']*'/g, "…");
    const entry = reasons.get(key) ?? { layers: 0, first: what, why };
    reasons.set(key, { ...entry, layers: entry.layers + 1 });
  }
  return [...reasons.values()];
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

const file = join(runs, "prune-channels.json");
const settings = { ratios, seconds, width: values.width };
const recorded = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined;
const isSame = recorded && Object.entries(settings).every(([key, value]) => JSON.stringify(recorded[key]) === JSON.stringify(value));
const rows = isSame ? recorded.rows : [];
for (const [name, load] of models()) {
  if (values.only !== undefined && !name.includes(values.only)) continue;
  const missing = ratios.filter((ratio) => !rows.some((row) => row.name === name && row.ratio === ratio));
  if (missing.length === 0) continue;
  const original = await load();
  const before = costOf(original);
  for (const ratio of missing) {
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
        stays: byReason(skipped),
        latency: await ratioOf(original, model),
      });
    } catch (error) {
      rows.push({ ...row, error: error.message });
    }
    const last = rows.at(-1);
    writeRun("prune-channels", rows, settings);
    console.error(name, ratio, last.error ?? `MACs ${(last.macsAfter / last.macs).toFixed(2)}`);
  }
}
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
      row.error ?? row.stays.map(({ layers, first, why }) => `${layers > 1 ? `${layers} layers, ` : ""}${first}: ${why}`).join("; "),
    ]),
  ),
);
