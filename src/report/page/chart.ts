/** The interactive chart of the front: two quantities, the staircase, intervals, labels, hover and selection. */
import * as Plot from "@observablehq/plot";
import { type Quantity, quantitiesOf } from "../../search/quantities.ts";
import type { Entry, Results } from "../../search/results.ts";
import { type Axis, axisFor, bestKind, kindsFor } from "../axis.ts";
import { familiesOf, familyStyle, shapePath } from "../families.ts";
import { formatInterval, formatValue } from "../format.ts";
import { type ChartPoint, chartPoints, offScale, staircase } from "../front-points.ts";
import { placeLabels } from "../labels.ts";
import { axesOf, gainOf, recommended } from "../summary.ts";
import { clip } from "../svg-text.ts";
import { checkbox, h, s, select } from "./dom.ts";
import { familyColor, familySign } from "./symbols.ts";

export interface Chart {
  readonly element: HTMLElement;
  /** Marks the entry that is shown in detail. */
  select(entry: Entry): void;
}

interface Spot extends ChartPoint {
  /** Place on the axes, 0..1. */
  readonly px: number;
  readonly py: number;
  readonly low: number;
  readonly high: number;
  readonly outside: boolean;
}

export function frontChart(results: Results, onSelect: (entry: Entry) => void): Chart {
  const quantities = quantitiesOf(results.entries);
  const named = (name: string | undefined): Quantity | undefined =>
    quantities.find((quantity) => quantity.name === name);
  const axes = axesOf(results);
  let x = named(axes.cost?.name) ?? quantities.find(({ direction }) => direction === "minimize");
  let y = named(axes.quality?.name) ?? quantities.find((quantity) => quantity !== x);
  let logX: boolean | undefined;
  let logY: boolean | undefined;
  let everything = false;
  let selected: Entry | undefined;
  const plot = h("div", { class: "plot" });
  const controls = h("div", { class: "controls" });
  const legend = h("ul", { class: "legend" });
  for (const family of familiesOf(results.entries.filter((entry) => !entry.error)))
    legend.append(h("li", {}, familySign(results.entries, family.name), family.label));
  legend.append(h("li", {}, h("span", { class: "dash", "aria-hidden": "true" }), "Pareto front"));
  if (recommended(results)) legend.append(h("li", {}, h("span", { class: "halo", "aria-hidden": "true" }), "Best buy"));

  const draw = (): void => {
    if (!x || !y) {
      plot.replaceChildren(h("p", { class: "muted" }, "Nothing was measured in two quantities yet."));
      return;
    }
    const width = Math.max(280, Math.floor(plot.clientWidth));
    const focused = document.activeElement?.getAttribute("data-entry");
    const svg = render(results, { x, y, logX, logY, everything, selected, width, onSelect });
    plot.replaceChildren(svg);
    if (focused)
      for (const dot of svg.querySelectorAll<SVGElement>("[data-entry]"))
        if (dot.dataset["entry"] === focused) dot.focus();
  };
  const drawControls = (): void => {
    if (!x || !y) return;
    const options = quantities.map(({ name, label }) => ({ value: name, text: label }));
    const points = chartPoints(results.entries, x, y);
    const canLogX =
      kindsFor(
        x.unit,
        points.map((point) => point.x.value),
      ).length > 1;
    const canLogY =
      kindsFor(
        y.unit,
        points.map((point) => point.y.value),
      ).length > 1;
    const update = (change: () => void) => (): void => {
      change();
      drawControls();
      draw();
    };
    controls.replaceChildren(
      select("Up", options, y.name, (name) =>
        update(() => {
          y = named(name);
          logY = undefined;
        })(),
      ),
      select("Across", options, x.name, (name) =>
        update(() => {
          x = named(name);
          logX = undefined;
        })(),
      ),
      h(
        "span",
        { class: "checks" },
        canLogY
          ? checkbox("log scale up", isLog(y, points, "y", logY, everything), (on) =>
              update(() => {
                logY = on;
              })(),
            )
          : "",
        canLogX
          ? checkbox("log scale across", isLog(x, points, "x", logX, true), (on) =>
              update(() => {
                logX = on;
              })(),
            )
          : "",
        offScale(points, y).size > 0
          ? checkbox("broken models to scale", everything, (on) =>
              update(() => {
                everything = on;
              })(),
            )
          : "",
      ),
    );
  };
  drawControls();
  let lastWidth = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth !== lastWidth) {
      lastWidth = plot.clientWidth;
      draw();
    }
  }).observe(plot);
  return {
    element: h("div", { class: "chart" }, controls, legend, plot),
    select(entry) {
      selected = entry;
      draw();
    },
  };
}

function isLog(
  quantity: Quantity,
  points: readonly ChartPoint[],
  side: "x" | "y",
  chosen: boolean | undefined,
  all: boolean,
): boolean {
  const outside = all || side === "x" ? new Set<ChartPoint>() : offScale(points, quantity);
  const values = points.filter((point) => !outside.has(point)).map((point) => point[side].value);
  return chosen ?? bestKind(quantity.unit, values) !== "linear";
}

interface View {
  readonly x: Quantity;
  readonly y: Quantity;
  readonly logX: boolean | undefined;
  readonly logY: boolean | undefined;
  readonly everything: boolean;
  readonly selected: Entry | undefined;
  readonly width: number;
  readonly onSelect: (entry: Entry) => void;
}

function render(results: Results, view: View): HTMLElement | SVGSVGElement {
  const { x, y, width } = view;
  const narrow = width < 560;
  const height = narrow ? 380 : 470;
  const points = chartPoints(results.entries, x, y);
  const outside = view.everything ? new Set<ChartPoint>() : offScale(points, y);
  const inside = points.filter((point) => !outside.has(point));
  const axis = (quantity: Quantity, side: "x" | "y", log: boolean | undefined, count: number): Axis => {
    const values = (side === "y" ? inside : points).map((point) => point[side].value);
    const ends = (side === "y" ? inside : []).flatMap((point) => [
      point.y.low ?? point.y.value,
      point.y.high ?? point.y.value,
    ]);
    const kind = log === undefined ? undefined : log ? (kindsFor(quantity.unit, values).at(-1) ?? "linear") : "linear";
    return axisFor(quantity, values, { count, extra: ends, kind });
  };
  const axisX = axis(x, "x", view.logX, Math.max(3, Math.floor(width / 110)));
  const axisY = axis(y, "y", view.logY, 8);
  const clamp = (value: number): number => Math.max(0, Math.min(1, value));
  const spots: Spot[] = points.map((point) => ({
    ...point,
    px: axisX.place(point.x.value),
    py: clamp(axisY.place(point.y.value)),
    low: clamp(axisY.place(point.y.low ?? point.y.value)),
    high: clamp(axisY.place(point.y.high ?? point.y.value) || 1),
    outside: outside.has(point),
  }));
  const margin = { left: narrow ? 52 : 62, right: 16, top: 30, bottom: 48 };
  const floor = outside.size > 0 ? 28 : 0;
  const corners = staircase(points, x).map((corner) => ({
    px: axisX.place(corner.x),
    py: clamp(axisY.place(corner.y)),
  }));
  const best = recommended(results);
  const tickFormat =
    (target: Axis) =>
    (at: number): string =>
      target.ticks.find((tick) => tick.at === at)?.text ?? "";
  const svg = Plot.plot({
    width,
    height,
    marginLeft: margin.left,
    marginRight: margin.right,
    marginTop: margin.top,
    marginBottom: margin.bottom,
    style: { fontSize: "12px", fontFamily: "inherit", overflow: "visible" },
    x: { domain: [0, 1], label: null },
    y: { domain: [0, 1], label: null, insetBottom: floor },
    marks: [
      Plot.gridY(
        axisY.ticks.map((tick) => tick.at),
        { stroke: "var(--line)", strokeOpacity: 1 },
      ),
      Plot.axisY(
        axisY.ticks.map((tick) => tick.at),
        { tickFormat: tickFormat(axisY), tickSize: 0, tickPadding: 8 },
      ),
      Plot.axisX(
        axisX.ticks.map((tick) => tick.at),
        { tickFormat: tickFormat(axisX), tickSize: 4 },
      ),
      Plot.line(corners, { x: "px", y: "py", stroke: "var(--muted)", strokeWidth: 1.5, strokeDasharray: "5 4" }),
      Plot.ruleX(
        spots.filter((spot) => spot.high > spot.low && !spot.outside),
        {
          x: "px",
          y1: "low",
          y2: "high",
          stroke: (spot: Spot) => familyColor(results.entries, spot.entry.family),
          strokeOpacity: (spot: Spot) => (spot.front ? 0.5 : 0.22),
          strokeWidth: 1.6,
        },
      ),
      () => marks(),
      Plot.tip(
        spots,
        Plot.pointer({
          x: "px",
          y: "py",
          maxRadius: 30,
          title: (spot: Spot) => tipText(results, spot, x, y),
          fontSize: 12,
          lineHeight: 1.35,
          lineWidth: narrow ? 22 : 34,
          textPadding: 10,
        }),
      ),
    ],
  });
  function marks(): SVGElement {
    const toX = (at: number): number => margin.left + at * (width - margin.left - margin.right);
    const toY = (at: number): number =>
      height - margin.bottom - floor - at * (height - margin.top - margin.bottom - floor);
    const rank = (spot: Spot): number => (spot.entry === results.entries[0] ? 2 : spot.front ? 1 : 0);
    const ground = height - margin.bottom;
    const group = s(
      "g",
      {},
      s("line", { x1: margin.left, x2: width - margin.right, y1: ground, y2: ground, stroke: "var(--axis)" }),
    );
    for (const spot of [...spots].sort((a, b) => rank(a) - rank(b))) {
      const color = familyColor(results.entries, spot.entry.family);
      const place = `translate(${toX(spot.px).toFixed(1)} ${toY(spot.py).toFixed(1)})`;
      const choose = (): void => view.onSelect(spot.entry);
      const dot = s(
        "g",
        {
          transform: place,
          class: `dot${rank(spot) > 0 ? "" : " dim"}${spot.entry.id === view.selected?.id ? " selected" : ""}`,
          tabindex: 0,
          role: "button",
          "data-entry": spot.entry.id,
          "aria-label": tipText(results, spot, x, y).replaceAll("\n", ", "),
          onclick: choose,
          onkeydown: (event) => {
            const { key } = event as KeyboardEvent;
            if (key !== "Enter" && key !== " ") return;
            event.preventDefault();
            choose();
          },
        },
        s("circle", { class: "hit", r: 14 }),
        s("circle", { class: "focus", r: 12 }),
        spot.entry === best && s("circle", { class: "best-ring", r: 10.5, stroke: color }),
        spot.outside && s("path", { class: "arrow", d: "M0,9v11m-4,-4.5l4,4.5l4,-4.5", stroke: color }),
        s("path", {
          class: "shape",
          d: shapePath(familyStyle(results.entries, spot.entry.family).shape, 6),
          fill: color,
        }),
      );
      group.append(dot);
    }
    const wanted = spots
      .filter((spot) => rank(spot) > 0 || spot.outside || spot.entry.id === view.selected?.id)
      .sort((a, b) => priority(b) - priority(a) || a.px - b.px)
      .map((spot) => {
        const label = clip(spot.entry.label, narrow ? 130 : 200, 12);
        const text = spot.outside ? `${label}: ${formatValue(spot.y.value, y.unit)}` : label;
        return { x: toX(spot.px), y: toY(spot.py), text };
      });
    const steps = corners.slice(1).map((to, index) => {
      const from = corners[index] ?? to;
      return [toX(from.px), toY(from.py), toX(to.px), toY(to.py)] as const;
    });
    const obstacles = spots.map((spot) => ({ x: toX(spot.px), y: toY(spot.py) }));
    const area = { width: width - 2, height: height - margin.bottom, left: margin.left + 2, fontSize: 12, radius: 8 };
    for (const label of placeLabels(wanted, { ...area, obstacles, segments: steps }))
      group.append(
        s("text", { class: "name", x: label.textX, y: label.textY, "text-anchor": label.anchor }, label.text),
      );
    group.append(
      s("text", { class: "axis-name", x: width - margin.right, y: height - 6, "text-anchor": "end" }, axisName(x)),
      s("text", { class: "axis-name", x: 4, y: 14, "text-anchor": "start" }, axisName(y)),
    );
    return group;
  }
  function priority(spot: Spot): number {
    return spot.entry.id === view.selected?.id
      ? 3
      : spot.entry === best
        ? 2
        : spot.entry === results.entries[0]
          ? 1
          : 0;
  }
  svg.setAttribute("aria-label", `${y.label} against ${x.label}`);
  svg.removeAttribute("title");
  return svg;
}

function axisName(quantity: Quantity): string {
  return `${quantity.label} · ${quantity.direction === "minimize" ? "lower" : "higher"} is better`;
}

function tipText(results: Results, spot: ChartPoint, x: Quantity, y: Quantity): string {
  const lines = [
    spot.entry.label,
    `${y.label}: ${formatInterval(spot.y, y.unit)}`,
    `${x.label}: ${formatInterval(spot.x, x.unit)}`,
  ];
  if (spot.entry !== results.entries[0]) lines.push(gainOf(results, spot.entry));
  if (!spot.front) lines.push("dominated: another model is at least as good in both");
  return lines.join("\n");
}
