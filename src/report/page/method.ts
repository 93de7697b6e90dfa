/** How the numbers came about: machine, versions, data, how each quantity was measured, and what is only estimated. */
import { quantitiesOf, quantityOf } from "../../search/quantities.ts";
import type { Results } from "../../search/results.ts";
import { formatBytes } from "../format.ts";
import { commandBox } from "./details.ts";
import { h } from "./dom.ts";

export function method(results: Results): HTMLElement {
  const { machine, measured, data } = results;
  const fact = (name: string, value: string | undefined): HTMLElement | undefined =>
    value === undefined || value === "" ? undefined : h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const versions = Object.entries(machine.versions)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");
  const { hypervolume } = results;
  const objectives = results.objectives.map(
    ({ name, direction }) => `${quantityOf(name).label} (${direction === "minimize" ? "lower" : "higher"} is better)`,
  );
  return h(
    "div",
    { class: "method" },
    h(
      "dl",
      { class: "facts wide" },
      fact(
        "Machine",
        `${machine.cpu}, ${machine.cores} cores, ${formatBytes(machine.memoryBytes)} memory, ${machine.platform}`,
      ),
      fact("Versions", versions),
      fact(
        "Model",
        `${results.model.name}, ${formatBytes(results.model.bytes)}${results.model.sha256 ? `, sha256 ${results.model.sha256.slice(0, 16)}…` : ""}`,
      ),
      fact("Judged on", data.evaluation),
      fact("Calibrated and trained on", data.calibration),
      fact("Seed", String(results.seed)),
      fact(
        "Engine",
        [
          measured?.provider && `provider ${measured.provider}`,
          measured?.threads !== undefined && `${measured.threads || "all"} threads`,
          measured?.batch !== undefined && `batch ${measured.batch}`,
          measured?.rounds !== undefined && `${measured.rounds} timed rounds`,
        ]
          .filter(Boolean)
          .join(", "),
      ),
      fact("Objectives", objectives.join("; ")),
      fact(
        "Hypervolume",
        hypervolume &&
          `${(hypervolume.share * 100).toFixed(1)} % of the box between the best values and the reference point (${hypervolume.reference.map((value) => value.toPrecision(3)).join(", ")})`,
      ),
    ),
    h("h3", {}, "How each number was measured"),
    h(
      "ul",
      { class: "how" },
      ...explanations(results).map(([name, text]) => h("li", {}, h("b", {}, name), ` ${text}`)),
    ),
    results.command !== undefined && h("h3", {}, "Make this report again"),
    results.command !== undefined && commandBox(results.command),
  );
}

/** One line per quantity that this document has. */
function explanations(results: Results): (readonly [string, string])[] {
  const { entries } = results;
  const names = new Set(quantitiesOf(entries).map(({ name }) => name));
  const has = (...wanted: readonly string[]): boolean => wanted.some((name) => names.has(name));
  const lines: (readonly [string, string])[] = [];
  const metrics = Object.entries(entries[0]?.metrics ?? {});
  if (metrics.length > 0) {
    const { calibration, evaluation } = results.data;
    const origin =
      calibration !== undefined && calibration === evaluation
        ? "samples, the same that calibration and training used: it flatters what was fitted to them"
        : "samples of the data set named above";
    const samples = Math.max(...metrics.map(([, metric]) => metric.samples));
    lines.push([
      metrics.map(([name]) => quantityOf(name).label).join(", "),
      `on ${samples} ${origin}; ranges are 95 % intervals. All models saw the same samples: the range under “Points” is that of the paired difference, which is surer than the ranges of both suggest.`,
    ]);
  }
  const compressed = entries.find((entry) => entry.bytes)?.bytes;
  if (has("file", "brotli", "gzip"))
    lines.push([
      "Sizes",
      `of the files as written${compressed?.brotliQuality === undefined ? "" : `; Brotli at quality ${compressed.brotliQuality}`}. 1 kB is 1000 bytes.${entries.some((entry) => entry.bytes?.estimated) ? " Some compressed sizes are extrapolated from parts of a large file." : ""}`,
    ]);
  if (has("latency", "latency-ratio"))
    lines.push([
      "Time",
      "of one run after warm-up. The time relative to the original comes from running both in turns in the same minute; absolute times of different rows were taken at different moments.",
    ]);
  if (has("memory")) lines.push(["Peak memory", "of a fresh process that loads the model and runs it."]);
  const energy = entries.find((entry) => entry.energy)?.energy;
  if (energy)
    lines.push([
      "Energy",
      energy.estimated
        ? `is an estimate from operation counts, not a measurement (${energy.source}).`
        : `read from ${energy.source}.`,
    ]);
  if (has("bops")) lines.push(["BOPs", "are computed: multiply-accumulates × bits of weights × bits of activations."]);
  if (has("agreement", "sqnr", "cosine", "kl"))
    lines.push(["Fidelity", "compares outputs with the original's on the same inputs; no labels needed."]);
  if (entries.some((entry) => entry.layers.some((layer) => layer.error !== undefined)))
    lines.push([
      "Layer error",
      "is ‖ŷ − y‖ / ‖y‖ of a layer's output: “so far” with everything before it compressed too, “added” when the layer is fed the original's values.",
    ]);
  return lines;
}
