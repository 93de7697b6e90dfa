/** The report page: reads the embedded results and builds everything from them. */
import type { Entry, Results } from "../../search/results.ts";
import { quantityOf, rankValue } from "../../search/quantities.ts";
import { parseResults } from "../../search/results-json.ts";
import { digits, formatInterval, formatPoints, formatTimes } from "../format.ts";
import { axesOf, baselineOf, gainOf, recommended, summaryOf } from "../summary.ts";
import { frontChart } from "./chart.ts";
import { details } from "./details.ts";
import { h } from "./dom.ts";
import { method } from "./method.ts";
import { familyCss } from "./symbols.ts";
import { modelTable } from "./table.ts";

function start(results: Results, root: HTMLElement): void {
  document.head.append(h("style", {}, familyCss(results.entries)));
  const panel = h("section", {
    class: "card",
    id: "details",
    "aria-live": "polite",
    "aria-label": "Details of the chosen model",
  });
  const choose = (entry: Entry, scroll: boolean): void => {
    chart.select(entry);
    table.select(entry);
    panel.replaceChildren(details(results, entry));
    if (scroll && panel.getBoundingClientRect().top > innerHeight * 0.85)
      panel.scrollIntoView({
        behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
        block: "start",
      });
    try {
      history.replaceState(null, "", `#${encodeURIComponent(entry.id)}`);
    } catch {
      // A page without an address (about:srcdoc) has no history to write.
    }
  };
  const chart = frontChart(results, (entry) => choose(entry, false));
  const table = modelTable(results, (entry) => choose(entry, true));
  root.replaceChildren(
    header(results),
    section("The trade-off", chart.element, "card"),
    section("Models", table.element, "card"),
    panel,
    section("How this was measured", method(results), "card"),
    h("footer", {}, "Made by pare. This page is one file: everything it shows is inside it."),
  );
  const asked = decodeURIComponent(location.hash.slice(1));
  const first = results.entries.find(({ id }) => id === asked) ?? recommended(results) ?? results.entries[0];
  if (first) choose(first, false);
}

function section(title: string, content: HTMLElement, className: string): HTMLElement {
  return h("section", { class: className }, h("h2", {}, title), content);
}

function header(results: Results): HTMLElement {
  const best = recommended(results);
  const count = results.entries.length - 1;
  const date = new Date(results.created);
  const day = Number.isNaN(date.getTime()) ? results.created : date.toISOString().slice(0, 10);
  return h(
    "header",
    { class: "page" },
    h("p", { class: "eyebrow" }, "Compression report"),
    h("h1", {}, results.title),
    h("p", { class: "summary" }, summaryOf(results)),
    best && tiles(results, best),
    h(
      "p",
      { class: "muted" },
      `Original: ${baselineOf(results)} · ${count} compressed ${count === 1 ? "model" : "models"}, ${results.front.length} on the front · ${day}`,
    ),
  );
}

/** The recommended model's figures, large. */
function tiles(results: Results, best: Entry): HTMLElement {
  const baseline = results.entries[0];
  const { quality } = axesOf(results);
  const tile = (value: string, label: string, small = ""): HTMLElement =>
    h("div", { class: "tile" }, h("b", {}, value), h("span", {}, label), small !== "" && h("small", {}, small));
  const list: HTMLElement[] = [];
  const before = baseline?.bytes?.brotli ?? baseline?.bytes?.file;
  const after = best.bytes?.brotli ?? best.bytes?.file;
  if (before && after)
    list.push(tile(formatTimes(before / after), best.bytes?.brotli ? "smaller download" : "smaller file"));
  const ratio = best.latency?.ratio;
  const rank = rankValue(quantityOf("latency-ratio"), best);
  if (ratio && rank !== undefined && rank > 0) {
    const range = `${digits(1 / ratio.high)} – ${digits(1 / ratio.low)}`;
    if (rank === 1) list.push(tile("as fast", "as the original", range));
    else
      list.push(tile(formatTimes(rank < 1 ? 1 / rank : rank), rank < 1 ? "faster" : "slower", rank < 1 ? range : ""));
  }
  const now = quality?.of(best);
  const old = baseline && quality?.of(baseline);
  if (quality && now && old)
    list.push(
      quality.unit === "share"
        ? tile(
            formatPoints(now.value - old.value),
            `points of ${quality.label.toLowerCase()}`,
            formatInterval(now, quality.unit),
          )
        : tile(
            formatInterval({ value: now.value }, quality.unit),
            quality.label.toLowerCase(),
            `was ${formatInterval({ value: old.value }, quality.unit)}`,
          ),
    );
  return h("div", { class: "tiles", "aria-label": gainOf(results, best) }, ...list);
}

const data = document.getElementById("data")?.textContent ?? "";
const root = document.getElementById("app");
if (root) start(parseResults(data, "this page"), root);
