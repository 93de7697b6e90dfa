/** The table of all models: sortable, the best of each column marked, a row opens the details. */
import { type Quantity, quantitiesOf, quantityOf, rankValue } from "../../search/quantities.ts";
import type { Entry, Results } from "../../search/results.ts";
import { formatPoints, formatTimes, formatValue } from "../format.ts";
import { axesOf } from "../summary.ts";
import { checkbox, h } from "./dom.ts";
import { familySign } from "./symbols.ts";

export interface Table {
  readonly element: HTMLElement;
  select(entry: Entry): void;
}

interface PageColumn {
  readonly key: string;
  readonly title: string;
  readonly full: string;
  readonly direction: Quantity["direction"] | undefined;
  readonly value: (entry: Entry) => number | undefined;
  /** What decides which is best, where that is not the value. */
  readonly rank?: (entry: Entry) => number | undefined;
  readonly cell: (entry: Entry) => { readonly text: string; readonly small?: string };
}

/** Shown without being asked for, besides the objectives. */
const CORE = ["file", "energy", "nonzero", "memory"];

export function modelTable(results: Results, onSelect: (entry: Entry) => void): Table {
  const baseline = results.entries[0];
  let sortKey = "";
  let ascending = true;
  let all = false;
  let selected: Entry | undefined;
  const table = h("table", { class: "models" });
  const draw = (): void => {
    const columns = columnsFor(results, all);
    const sorted = sortEntries(
      results,
      columns.find(({ key }) => key === sortKey),
      ascending,
    );
    const bests = columns.map((column) => bestValue(column, results.entries));
    const header = (column: PageColumn | undefined): HTMLElement => {
      const key = column?.key ?? "";
      const active = column !== undefined && key === sortKey;
      const sort = (): void => {
        if (active) ascending = !ascending;
        else {
          sortKey = key;
          ascending = column?.direction !== "maximize";
        }
        draw();
        table.querySelector<HTMLElement>(`[data-key="${CSS.escape(key)}"]`)?.focus();
      };
      const arrow = active ? (ascending ? " ↑" : " ↓") : "";
      return h(
        "th",
        {
          scope: "col",
          class: column ? "number" : "label",
          "aria-sort": active ? (ascending ? "ascending" : "descending") : "none",
        },
        h(
          "button",
          { type: "button", "data-key": key, title: column?.full ?? "As measured", onclick: sort },
          column?.title ?? "Model",
          h("span", { class: "sort", "aria-hidden": "true" }, arrow),
        ),
      );
    };
    const row = (entry: Entry): HTMLElement => {
      const front = results.front.includes(entry.id);
      const classes = [front ? "front" : "back", entry.id === selected?.id && "selected", entry.error && "failed"];
      const name = h(
        "th",
        { scope: "row", class: "label" },
        h(
          "button",
          {
            type: "button",
            "aria-pressed": entry.id === selected?.id ? "true" : "false",
            onclick: (event) => {
              event.stopPropagation();
              onSelect(entry);
            },
          },
          familySign(results.entries, entry.family),
          h("span", { class: "label-text" }, entry.label),
          front &&
            h(
              "span",
              { class: "star", title: "On the Pareto front" },
              "★",
              h("span", { class: "hidden" }, " on the Pareto front"),
            ),
        ),
      );
      const cells = entry.error
        ? [h("td", { colspan: columns.length, class: "failure" }, `Failed: ${entry.error.message}`)]
        : columns.map((column, index) => {
            const { text, small } = column.cell(entry);
            const rank = (column.rank ?? column.value)(entry);
            const best = rank !== undefined && rank === bests[index];
            return h(
              "td",
              { class: best ? "number best" : "number" },
              text,
              best && h("span", { class: "hidden" }, " best"),
              small !== undefined && h("small", {}, small),
            );
          });
      return h(
        "tr",
        { class: classes.filter(Boolean).join(" "), "data-id": entry.id, onclick: () => onSelect(entry) },
        name,
        ...cells,
      );
    };
    table.replaceChildren(
      h("caption", { class: "hidden" }, "All models. Choose a heading to sort, a model to see its details."),
      h("thead", {}, h("tr", {}, header(undefined), ...columns.map(header))),
      h("tbody", {}, ...sorted.map(row)),
    );
    if (baseline) table.querySelector(`[data-id="${CSS.escape(baseline.id)}"]`)?.classList.add("baseline");
  };
  draw();
  const scroller = h("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Table of models" }, table);
  return {
    element: h(
      "div",
      {},
      h(
        "p",
        { class: "hint" },
        h("span", {}, "★ on the Pareto front · bold: best of its column · small print: 95 % interval"),
        checkbox("all measurements", false, (on) => {
          all = on;
          draw();
        }),
      ),
      scroller,
    ),
    select(entry) {
      selected = entry;
      draw();
    },
  };
}

function columnsFor(results: Results, all: boolean): PageColumn[] {
  const baseline = results.entries[0];
  const { quality } = axesOf(results);
  const available = quantitiesOf(results.entries);
  const objectives = results.objectives.map(({ name }) => quantityOf(name));
  const wanted = new Map(
    [...objectives, ...available.filter((quantity) => all || CORE.includes(quantity.name))].map((quantity) => [
      quantity.name,
      quantity,
    ]),
  );
  const columns: PageColumn[] = [];
  for (const quantity of wanted.values()) {
    const value = (entry: Entry): number | undefined => (entry.error ? undefined : quantity.of(entry)?.value);
    const before = baseline && value(baseline);
    columns.push({
      key: quantity.name,
      title: quantity.short,
      full: `${quantity.label}: ${quantity.direction === "minimize" ? "lower" : "higher"} is better`,
      direction: quantity.direction,
      value,
      rank: (entry) => rankValue(quantity, entry),
      cell: (entry) => {
        const measured = entry.error ? undefined : quantity.of(entry);
        if (!measured) return { text: "–" };
        const { low, high } = measured;
        const text = formatValue(measured.value, quantity.unit);
        if (low === undefined || high === undefined || low === high) return { text };
        const bare = (number: number): string => formatValue(number, quantity.unit).replace(/ ?[%×]$/, "");
        return { text, small: `${bare(low)} – ${bare(high)}` };
      },
    });
    if (quantity.name === quality?.name && quantity.unit === "share" && before !== undefined)
      columns.push({
        key: "points",
        title: "Points",
        full: "Difference from the original in percentage points",
        direction: undefined,
        value,
        cell: (entry) => {
          const after = value(entry);
          if (after === undefined || entry === baseline) return { text: "" };
          const paired = entry.differences?.[quantity.name];
          const small = paired && `${formatPoints(paired.low)} – ${formatPoints(paired.high)}`;
          return { text: formatPoints(after - before), ...(small === undefined ? {} : { small }) };
        },
      });
    if (["brotli", "file"].includes(quantity.name) && before !== undefined && objectives.includes(quantity))
      columns.push({
        key: "smaller",
        title: "Smaller",
        full: `Original's ${quantity.label.toLowerCase()} over this one's`,
        direction: undefined,
        value: (entry) => (value(entry) === undefined ? undefined : -(value(entry) as number)),
        cell: (entry) => {
          const after = value(entry);
          return { text: after === undefined || entry === baseline ? "" : formatTimes(before / after) };
        },
      });
  }
  return columns;
}

function bestValue(column: PageColumn, entries: readonly Entry[]): number | undefined {
  if (!column.direction) return undefined;
  const values = entries.flatMap((entry) => (column.rank ?? column.value)(entry) ?? []);
  const best = column.direction === "minimize" ? Math.min(...values) : Math.max(...values);
  return values.filter((value) => value === best).length * 2 > values.length ? undefined : best;
}

/** Baseline first as measured; under a sort, entries without the value come last. */
function sortEntries(results: Results, column: PageColumn | undefined, ascending: boolean): Entry[] {
  const entries = [...results.entries];
  if (!column) return ascending ? entries : entries.reverse();
  const sign = ascending ? 1 : -1;
  return entries.sort((a, b) => {
    const left = column.value(a);
    const right = column.value(b);
    if (left === undefined || right === undefined) return Number(left === undefined) - Number(right === undefined);
    return sign * (left - right);
  });
}
