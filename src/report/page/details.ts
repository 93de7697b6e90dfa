/** Everything about one model: gains, recipe, command to make it again, layers, journal. */
import { quantitiesOf } from "../../search/quantities.ts";
import type { Entry, RecipeStep, Results, StepRecord } from "../../search/results.ts";
import { formatBytes, formatInterval, formatSeconds, formatValue } from "../format.ts";
import { gainOf } from "../summary.ts";
import { h } from "./dom.ts";
import { layerChart } from "./layers.ts";
import { familySign } from "./symbols.ts";

/** Long lists are shown in part until asked for. */
const SHORT_LIST = 12;

export function details(results: Results, entry: Entry): HTMLElement {
  const baseline = results.entries[0] === entry;
  const gain = baseline ? "The model that everything is compared with." : gainOf(results, entry);
  return h(
    "div",
    { class: "details" },
    h(
      "header",
      {},
      h("h2", {}, familySign(results.entries, entry.family), h("span", {}, entry.label)),
      results.front.includes(entry.id) && h("span", { class: "badge" }, "★ on the front"),
    ),
    entry.error
      ? h("p", { class: "failure" }, `This recipe failed: ${entry.error.message}`)
      : h("p", { class: "gain" }, gain.charAt(0).toUpperCase() + gain.slice(1)),
    recipe(entry),
    !entry.error && measurements(results, entry),
    entry.layers.length > 0 && layerChart(entry),
    entry.steps.length > 0 && journal(entry.steps),
  );
}

function recipe(entry: Entry): HTMLElement | undefined {
  if (entry.recipe.length === 0 && entry.command === undefined) return undefined;
  const steps = entry.recipe.map((step) => {
    const text = optionsText(step);
    return h("li", {}, h("code", {}, step.technique), text !== "" && h("span", { class: "options" }, text));
  });
  return h(
    "section",
    {},
    steps.length > 0 && h("h3", {}, "Recipe"),
    steps.length > 0 && h("ol", { class: "steps" }, ...steps),
    entry.command !== undefined && commandBox(entry.command),
  );
}

/** Options that are not at their defaults, where that is known. */
function optionsText(step: RecipeStep): string {
  if (step.text !== undefined) {
    const colon = step.text.indexOf(":");
    return colon < 0
      ? ""
      : step.text
          .slice(colon + 1)
          .replaceAll(",", " · ")
          .replaceAll("=", " ");
  }
  return Object.entries(step.options)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key} ${Array.isArray(value) ? value.join(", ") : String(value)}`)
    .join(" · ");
}

/** A command with a button that copies it. */
export function commandBox(command: string): HTMLElement {
  const code = h("code", {}, command);
  const button = h(
    "button",
    {
      type: "button",
      class: "copy",
      onclick: async () => {
        const copied = await navigator.clipboard?.writeText(command).then(
          () => true,
          () => false,
        );
        // Without leave to use the clipboard the command is selected, ready to be copied by hand.
        if (!copied) getSelection()?.selectAllChildren(code);
        button.textContent = copied ? "Copied" : "Selected";
        setTimeout(() => {
          button.textContent = "Copy";
        }, 1500);
      },
    },
    "Copy",
  );
  return h("div", { class: "command" }, h("pre", {}, code), button);
}

function measurements(results: Results, entry: Entry): HTMLElement {
  const baseline = results.entries[0];
  const rows = quantitiesOf(results.entries).flatMap((quantity) => {
    const now = quantity.of(entry);
    if (!now) return [];
    const old = baseline && baseline !== entry ? quantity.of(baseline) : undefined;
    const was = old && formatValue(old.value, quantity.unit);
    return [
      h(
        "div",
        {},
        h("dt", {}, quantity.label),
        h(
          "dd",
          {},
          formatInterval(now, quantity.unit),
          was !== undefined && was !== formatValue(now.value, quantity.unit) && h("small", {}, `was ${was}`),
        ),
      ),
    ];
  });
  const proof = entry.verified;
  const facts: string[] = [];
  if (proof) {
    const parts = [`opens on ${proof.provider}`];
    if (proof.samples !== undefined) parts.push(`outputs compared with the original on ${proof.samples} samples`);
    if (proof.maxAbsError !== undefined) parts.push(`largest difference ${proof.maxAbsError.toPrecision(3)}`);
    if (proof.sqnrDb !== undefined) parts.push(`SQNR ${proof.sqnrDb.toFixed(1)} dB`);
    facts.push(`Verified: ${parts.join(", ")}.`);
  }
  if (entry.output !== undefined) facts.push(`File: ${entry.output}.`);
  facts.push(`Built and measured in ${formatSeconds(entry.seconds)}.`);
  return h(
    "section",
    {},
    h("h3", {}, "Measured"),
    h("dl", { class: "facts" }, ...rows),
    h("p", { class: "muted" }, facts.join(" ")),
    ...(entry.notes ?? []).map((note) => h("p", {}, note)),
  );
}

function journal(steps: readonly StepRecord[]): HTMLElement {
  return h("section", {}, h("h3", {}, "Journal"), ...steps.map(stepJournal));
}

function stepJournal(step: StepRecord): HTMLElement {
  const changed = step.changed.map((change) => {
    const bytes =
      change.bytesBefore !== undefined && change.bytesAfter !== undefined
        ? `${formatBytes(change.bytesBefore)} → ${formatBytes(change.bytesAfter)}`
        : "";
    const error = change.error === undefined ? "" : `weight error ${(change.error * 100).toPrecision(2)} %`;
    const tail = [bytes, error].filter((text) => text !== "").join(", ");
    return h(
      "li",
      {},
      h("b", {}, change.what),
      ` ${change.how}`,
      tail !== "" && h("span", { class: "muted" }, ` · ${tail}`),
    );
  });
  const skipped = step.skipped.map((skip) => h("li", {}, h("b", {}, skip.what), ` ${skip.why}`));
  const count = `${changed.length} changed, ${skipped.length} skipped, ${formatSeconds(step.seconds)}`;
  return h(
    "details",
    { class: "step" },
    h("summary", {}, h("code", {}, step.technique), h("span", { class: "muted" }, ` ${count}`)),
    skipped.length > 0 && h("h4", {}, "Left alone, and why"),
    skipped.length > 0 && longList(skipped),
    changed.length > 0 && h("h4", {}, "Changed"),
    changed.length > 0 && longList(changed),
    ...(step.notes ?? []).map((note) => h("p", { class: "muted" }, note)),
  );
}

function longList(items: readonly HTMLElement[]): HTMLElement {
  const list = h("ul", { class: "journal" }, ...items.slice(0, SHORT_LIST));
  if (items.length <= SHORT_LIST) return list;
  const more = h(
    "button",
    {
      type: "button",
      class: "more",
      onclick: () => {
        list.append(...items.slice(SHORT_LIST));
        more.remove();
      },
    },
    `Show all ${items.length}`,
  );
  return h("div", {}, list, more);
}
