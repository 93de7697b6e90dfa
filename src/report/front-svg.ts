/** The Pareto front as one static SVG picture, made of strings: for README files, mails and pages without scripts. */
import { type Quantity, quantityOf } from "../search/quantities.ts";
import type { Results } from "../search/results.ts";
import { axisFor } from "./axis.ts";
import { type FamilyStyle, familiesOf, shapePath } from "./families.ts";
import { formatValue } from "./format.ts";
import { type ChartPoint, chartPoints, offScale, staircase } from "./front-points.ts";
import { placeLabels } from "./labels.ts";
import { axesOf, recommended, summaryOf } from "./summary.ts";
import { clip, escapeXml, legendLayout, round, svgLine, svgText, wrap } from "./svg-text.ts";

export interface FrontSvgOptions {
  /** Names of the quantities; default: the first cost and the first quality among the objectives. */
  readonly x?: string | undefined;
  readonly y?: string | undefined;
  /** Pixels; default 820 × 500. */
  readonly width?: number | undefined;
  readonly height?: number | undefined;
  /** Follow the reader's light or dark setting (default true), or stay light. */
  readonly adaptive?: boolean | undefined;
  /** Title and summary above the chart; default true. */
  readonly title?: boolean | undefined;
}

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const LABEL_SIZE = 12;
const LEGEND_ROW = 22;

/** The picture as SVG text. Every name in it is escaped. */
export function frontSvg(results: Results, options: FrontSvgOptions = {}): string {
  const { width = 820, height = 500, title = true } = options;
  const axes = axesOf(results);
  const quantityX = quantityOf(options.x ?? axes.cost?.name ?? "file");
  const quantityY = quantityOf(options.y ?? axes.quality?.name ?? "sqnr");
  const points = chartPoints(results.entries, quantityX, quantityY);
  const families = familiesOf(points.map(({ entry }) => entry));
  const summary = title ? wrap(summaryOf(results), width - 40, 13.5, 2) : [];
  const legend = legendLayout(
    families.map(({ label }) => label),
    width - 40,
    12.5,
  );
  const legendTop = title ? 42 + summary.length * 19 : 14;
  const top = legendTop + legend.rows * LEGEND_ROW + 16;
  const left = 72;
  const right = width - 24;
  const bottom = height - 52;
  const outside = offScale(points, quantityY);
  const inside = points.filter((point) => !outside.has(point));
  const best = recommended(results);
  const intervals = inside.flatMap(({ y: { low, high } }) =>
    low === undefined || high === undefined ? [] : [low, high],
  );
  const axisX = axisFor(
    quantityX,
    points.map((point) => point.x.value),
    { count: Math.max(3, Math.floor((right - left) / 95)) },
  );
  const axisY = axisFor(
    quantityY,
    inside.map((point) => point.y.value),
    { count: 9, extra: intervals },
  );
  const floor = bottom - (outside.size > 0 ? 26 : 0);
  const toX = (value: number): number => left + axisX.place(value) * (right - left);
  const toY = (value: number): number => floor - Math.max(0, Math.min(1, axisY.place(value))) * (floor - top);
  const mark = (x: number, y: number, family: FamilyStyle, front: boolean, name = ""): string => {
    const className = `mark f${families.findIndex((other) => other.name === family.name)}${front ? "" : " dim"}`;
    const inside = name === "" ? "" : `<title>${escapeXml(name)}</title>`;
    return `<path class="${className}" transform="translate(${round(x)} ${round(y)})" d="${shapePath(family.shape, 5.5)}">${inside}</path>`;
  };

  const out: string[] = [];
  if (title) {
    out.push(svgText(20, 30, clip(results.title, width - 40, 20), "title"));
    for (const [row, text] of summary.entries()) out.push(svgText(20, 53 + row * 19, text, "muted"));
  }
  for (const [index, family] of families.entries()) {
    const spot = legend.spots[index] ?? { x: 0, row: 0 };
    const y = legendTop + 14 + spot.row * LEGEND_ROW;
    out.push(mark(27 + spot.x, y, family, true), svgText(39 + spot.x, y + 4.5, family.label, "legend"));
  }
  for (const tick of axisY.ticks) {
    const y = floor - tick.at * (floor - top);
    out.push(svgLine(left, y, right, y, "grid"), svgText(left - 10, y + 4, tick.text, "tick", "end"));
  }
  for (const tick of axisX.ticks) {
    const x = left + tick.at * (right - left);
    out.push(svgLine(x, bottom, x, bottom + 5, "axis"), svgText(x, bottom + 19, tick.text, "tick", "middle"));
  }
  out.push(svgLine(left, bottom, right, bottom, "axis"));
  out.push(svgText((left + right) / 2, height - 12, axisTitle(quantityX), "name", "middle"));
  out.push(
    `<g transform="translate(18 ${round((top + bottom) / 2)}) rotate(-90)">${svgText(0, 0, axisTitle(quantityY), "name", "middle")}</g>`,
  );

  const corners = staircase(points, quantityX).map(({ x, y }) => ({ x: toX(x), y: toY(y) }));
  if (corners.length > 1)
    out.push(`<path class="front" d="M${corners.map(({ x, y }) => `${round(x)},${round(y)}`).join("L")}"/>`);
  const spots = points.map((point) => ({ point, x: toX(point.x.value), y: toY(point.y.value) }));
  const layer = (point: ChartPoint): number => (point.entry === results.entries[0] ? 2 : point.front ? 1 : 0);
  for (const { point, x, y } of [...spots].sort((a, b) => layer(a.point) - layer(b.point))) {
    const index = families.findIndex(({ name }) => name === point.entry.family);
    const family = families[index] as FamilyStyle;
    const { low, high } = point.y;
    if (low !== undefined && high !== undefined && high > low && !outside.has(point))
      out.push(
        `<g class="f${index}" opacity="${point.front ? 0.55 : 0.25}">${svgLine(x, toY(low), x, toY(high), "bar")}</g>`,
      );
    if (point.entry === best) out.push(`<circle class="ring f${index}" cx="${round(x)}" cy="${round(y)}" r="10.5"/>`);
    const values = `${formatValue(point.x.value, quantityX.unit)}, ${formatValue(point.y.value, quantityY.unit)}`;
    const strong = layer(point) > 0;
    if (outside.has(point))
      out.push(`<path class="arrow f${index}" d="M${round(x)},${round(y + 9)}v11m-4,-4.5l4,4.5l4,-4.5"/>`);
    out.push(mark(x, y, family, strong, `${point.entry.label}: ${values}`));
  }

  const wanted = spots
    .filter(({ point }) => layer(point) > 0 || outside.has(point))
    .sort((a, b) => Number(b.point.entry === best) - Number(a.point.entry === best) || a.x - b.x)
    .map(({ point, x, y }) => {
      const label = clip(point.entry.label, 190, LABEL_SIZE);
      return { x, y, text: outside.has(point) ? `${label}: ${formatValue(point.y.value, quantityY.unit)}` : label };
    });
  const segments = corners.slice(1).map((to, index) => {
    const from = corners[index] ?? to;
    return [from.x, from.y, to.x, to.y] as const;
  });
  const area = { width, height: bottom, left: left + 2, fontSize: LABEL_SIZE, radius: 7 };
  for (const label of placeLabels(wanted, { ...area, obstacles: spots, segments }))
    out.push(svgText(label.textX, label.textY, label.text, "label", label.anchor));

  const description = `${quantityY.label} against ${quantityX.label} of ${points.length} models. ${summaryOf(results)}`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="${FONT}">`,
    `<title>${escapeXml(results.title)}</title><desc>${escapeXml(description)}</desc>`,
    `<style>${styles(families, options.adaptive ?? true)}</style>`,
    `<rect class="paper" width="${width}" height="${height}" rx="8"/>`,
    ...out,
    "</svg>\n",
  ].join("\n");
}

function axisTitle(quantity: Quantity): string {
  return `${quantity.label} · ${quantity.direction === "minimize" ? "lower" : "higher"} is better`;
}

/** Colours as classes (numbered: names of families are untrusted), so that one picture serves light and dark pages. */
function styles(families: readonly FamilyStyle[], adaptive: boolean): string {
  const theme = (dark: boolean): string => {
    const [paper, ink, muted, grid, axis] = dark
      ? ["#14161a", "#eceff3", "#a7b0bb", "#262b33", "#59626e"]
      : ["#ffffff", "#1c2127", "#56606c", "#e9ecf0", "#9aa4b0"];
    return [
      `.paper{fill:${paper}}.title,.label{fill:${ink}}.muted,.tick,.name,.legend{fill:${muted}}`,
      `.grid{stroke:${grid}}.axis{stroke:${axis}}.front{stroke:${muted}}.label,.mark{stroke:${paper}}`,
      ...families.map((family, index) => `.f${index}{color:${dark ? family.dark : family.light}}`),
    ].join("");
  };
  return [
    ".title{font-size:20px;font-weight:650}.muted{font-size:13.5px}.tick{font-size:11.5px}.name,.legend{font-size:12.5px}",
    `.label{font-size:${LABEL_SIZE}px;font-weight:500;paint-order:stroke;stroke-width:3.5px;stroke-linejoin:round}`,
    ".grid,.axis{stroke-width:1}.front{fill:none;stroke-width:1.5;stroke-dasharray:5 4}",
    ".ring,.arrow{fill:none;stroke:currentColor;stroke-width:1.5}",
    ".bar{stroke:currentColor;stroke-width:1.5}.mark{fill:currentColor;stroke-width:1}.dim{fill-opacity:.4}",
    theme(false),
    adaptive ? `@media (prefers-color-scheme:dark){${theme(true)}}` : "",
  ].join("");
}
