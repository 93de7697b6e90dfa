/** One layer before and after compression, as a page of its own and as text for terminals: weights, grid, errors, channels. */
import type { Explanation } from "../evaluate/explain.node.ts";
import type { Bins, ChannelView } from "../evaluate/layer-view.ts";
import { digits, formatBytes, formatCount } from "./format.ts";
import { FOOTER, pageFrame } from "./page-frame.ts";
import { escapeXml, round, svgLine, svgText } from "./svg-text.ts";

const WIDTH = 720;
const LEFT = 48;
const RIGHT = 16;
/** Numbers of a grid that are drawn one by one. */
const MOST_LEVELS = 300;
/** Channels that are drawn; more are summed up in the table of the worst. */
const MOST_CHANNELS = 256;

const STYLE = `
svg { width: 100%; height: auto; font-size: 12px; display: block; }
svg text { fill: var(--muted); }
.grid, .axis { stroke: var(--line); }
.axis { stroke: var(--axis); }
.old { fill: var(--bar-before); stroke: none; }
.new { fill: var(--bar-after); stroke: none; }
.error { fill: var(--bar-added); stroke: none; }
.level { stroke: var(--accent); stroke-width: 1; }
.move { stroke: var(--bar-added); stroke-width: 0.7; stroke-opacity: 0.5; }
.range { stroke: var(--bar-before); }
.range.after { stroke: var(--accent); }
.key { display: inline-flex; align-items: center; gap: 6px; margin-right: 16px; font-size: 0.85rem; color: var(--muted); }
.key i { width: 12px; height: 12px; border-radius: 3px; display: inline-block; }
.key .k-old { background: var(--bar-before); } .key .k-new { background: var(--bar-after); } .key .k-error { background: var(--bar-added); }
table.worst { border-collapse: collapse; font-size: 0.875rem; margin-top: 12px; font-variant-numeric: tabular-nums; }
table.worst th, table.worst td { text-align: right; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); }
table.worst th { color: var(--muted); font-weight: 550; }
`;

/** The page: one file, no script, nothing fetched. Names are untrusted and escaped. */
export function explainPage(found: Explanation): string {
  const name = escapeXml(found.layer);
  const tile = (value: string, label: string, small = ""): string =>
    `<div class="tile"><b>${escapeXml(value)}</b><span>${escapeXml(label)}</span>${small === "" ? "" : `<small>${escapeXml(small)}</small>`}</div>`;
  const tiles = [
    tile(decibels(found.sqnrDb), "signal to rounding noise", `relative error ${digits(found.relativeError)}`),
    tile(`${found.bitsPerWeight.toFixed(2)} bits`, "per weight, with scales", `was ${found.dtype}`),
    tile(formatBytes(found.bytesAfter), "stored", `was ${formatBytes(found.bytesBefore)}`),
    tile(String(found.closest.levels.length), "different numbers", `in channel ${found.closest.channel}, the worst`),
  ];
  const card = (title: string, hint: string, ...parts: readonly string[]): string =>
    `<section class="card"><h2>${escapeXml(title)}</h2><p class="hint">${escapeXml(hint)}</p>${parts.join("")}</section>`;
  const main = `<header class="page"><p class="eyebrow">Weights of one layer</p><h1>${name}</h1><p class="summary">${escapeXml(summaryOf(found))}</p><div class="tiles">${tiles.join("")}</div></header>
${card(
  "Weights before and after",
  "How many weights lie where; after compression they sit on the numbers that their scales allow.",
  key("old", "before"),
  key("new", "after"),
  histogram(
    [
      { bins: found.before, className: "old" },
      { bins: found.after, className: "new" },
    ],
    "weight",
  ),
)}
${card("The grid", `Channel ${found.closest.channel}, where rounding does most harm: each weight above moves to a number below.`, gridSvg(found))}
${card("Rounding error", `After minus before: mean ${digits(found.meanError)}, largest ${digits(found.maxAbsError)}.`, histogram([{ bins: found.errors, className: "error" }], "error"))}
${card("Channels", "Smallest to largest weight of each output channel, before and after.", key("old", "before"), key("new", "after"), channelsSvg(found.channels), worstTable(found.channels))}
${FOOTER}`;
  return pageFrame({ title: `${found.layer}: weights before and after`, style: STYLE, main });
}

/** The same for a terminal. */
export function explainText(found: Explanation): string {
  const { closest, channels } = found;
  const levels = closest.levels.map((level) => digits(level));
  const shown = levels.length > 16 ? [...levels.slice(0, 8), "…", ...levels.slice(-8)] : levels;
  return [
    `${found.layer}: ${summaryOf(found)}`,
    "",
    `before  ${bars(found.before)}`,
    `after   ${bars(found.after)}`,
    `        ${span(found.before)}`,
    `error   ${bars(found.errors)}`,
    `        ${span(found.errors)}  mean ${digits(found.meanError)}`,
    "",
    `grid of channel ${closest.channel}, the worst (${closest.levels.length} numbers): ${shown.join("  ")}`,
    "channels, worst first:",
    ...worstChannels(channels).map(
      ({ channel, low, high, lowAfter, highAfter, sqnrDb, levels: count }) =>
        `  ${channel}: ${digits(low)} … ${digits(high)} became ${digits(lowAfter)} … ${digits(highAfter)}, ${count} numbers, ${decibels(sqnrDb)}`,
    ),
  ].join("\n");
}

function summaryOf(found: Explanation): string {
  const { op, opAfter, elements, shape, bitsPerWeight, dtype, sqnrDb, rescaled } = found;
  const became = op === opAfter ? op : `${op}, now ${opAfter}`;
  const folded = rescaled ? " A normalization was folded into it; the weights before are scaled like those after." : "";
  return `${became}, ${formatCount(elements)} weights (${shape.join(" × ")}), ${dtype} in ${bitsPerWeight.toFixed(2)} bits with scales: ${Number.isFinite(sqnrDb) ? `the rounding noise lies ${decibels(sqnrDb)} below the weights.` : "nothing was rounded."}${folded}`;
}

function decibels(value: number): string {
  return Number.isFinite(value) ? `${value.toFixed(1)} dB` : "exact";
}

function key(className: string, text: string): string {
  return `<span class="key"><i class="k-${className}"></i>${text}</span>`;
}

/** Histograms over one another; counts to the root, so that tails are seen beside spikes. */
function histogram(layers: readonly { readonly bins: Bins; readonly className: string }[], what: string): string {
  const [height, top, bottom] = [220, 10, 28];
  const { low, high } = layers[0]?.bins ?? { low: 0, high: 1 };
  const most = Math.max(1, ...layers.flatMap(({ bins }) => bins.counts));
  const x = (value: number): number => LEFT + ((value - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT);
  const y = (count: number): number => height - bottom - Math.sqrt(count / most) * (height - top - bottom);
  const parts: string[] = [];
  for (const share of [1, 0.25, 0.0625]) {
    parts.push(svgLine(LEFT, y(share * most), WIDTH - RIGHT, y(share * most), "grid"));
    parts.push(svgText(LEFT - 6, y(share * most) + 4, formatCount(Math.round(share * most)), "tick", "end"));
  }
  for (const [depth, { bins, className }] of layers.entries()) {
    const step = (bins.high - bins.low) / bins.counts.length;
    const width = ((WIDTH - LEFT - RIGHT) / bins.counts.length) * (depth === 0 ? 1 : 0.55);
    for (const [index, count] of bins.counts.entries())
      if (count > 0) {
        const centre = x(bins.low + (index + 0.5) * step);
        parts.push(
          `<rect class="${className}" x="${round(centre - width / 2)}" y="${round(y(count))}" width="${round(width)}" height="${round(height - bottom - y(count))}"/>`,
        );
      }
  }
  parts.push(
    svgLine(LEFT, height - bottom, WIDTH - RIGHT, height - bottom, "axis"),
    ...axisTexts(low, high, x, height - 10),
  );
  return svg(height, `Histogram of ${what}s, counts on a root scale`, parts);
}

/** Weights above, the numbers of the grid below, a line from each weight to what it became. */
function gridSvg({ closest }: Explanation): string {
  const [height, upper, lower] = [150, 24, 104];
  const all = [...closest.before, ...closest.after, ...closest.levels];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (value: number): number => LEFT + ((value - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT);
  const parts = [
    svgText(LEFT - 6, upper + 4, "before", "tick", "end"),
    svgText(LEFT - 6, lower + 4, "after", "tick", "end"),
    ...closest.before.map((value, i) => svgLine(x(value), upper, x(closest.after[i] ?? value), lower, "move")),
    ...closest.before.map((value) => `<circle class="old" cx="${round(x(value))}" cy="${upper}" r="2.5"/>`),
    ...closest.levels.slice(0, MOST_LEVELS).map((level) => svgLine(x(level), lower - 7, x(level), lower + 7, "level")),
    ...axisTexts(low, high, x, height - 14),
  ];
  return svg(height, "Weights of one channel and the numbers that they became", parts);
}

/** A bar for each channel from its smallest to its largest weight. */
function channelsSvg(channels: readonly ChannelView[]): string {
  const [height, top, bottom] = [220, 10, 28];
  const shown = channels.slice(0, MOST_CHANNELS);
  const low = Math.min(...shown.map((one) => Math.min(one.low, one.lowAfter)));
  const high = Math.max(...shown.map((one) => Math.max(one.high, one.highAfter)));
  const y = (value: number): number => top + ((high - value) / (high - low || 1)) * (height - top - bottom);
  const step = (WIDTH - LEFT - RIGHT) / shown.length;
  const thick = Math.max(0.8, Math.min(9, step * 0.7));
  const line = (x: number, from: number, to: number, width: number, className: string): string =>
    `<line class="${className}" x1="${round(x)}" x2="${round(x)}" y1="${round(y(from))}" y2="${round(y(to))}" stroke-width="${round(width)}"/>`;
  const parts: string[] = [];
  for (const value of [low, (low + high) / 2, high]) {
    parts.push(svgLine(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"));
    parts.push(svgText(LEFT - 6, y(value) + 4, digits(value, 2), "tick", "end"));
  }
  for (const [index, one] of shown.entries()) {
    const x = LEFT + (index + 0.5) * step;
    parts.push(line(x, one.low, one.high, thick, "range"));
    parts.push(line(x, one.lowAfter, one.highAfter, Math.max(0.6, thick * 0.4), "range after"));
  }
  const more = channels.length > shown.length ? ` (the first ${shown.length} of ${channels.length})` : "";
  parts.push(
    svgText((LEFT + WIDTH - RIGHT) / 2, height - 8, `channels 0 to ${shown.length - 1}${more}`, "tick", "middle"),
  );
  return svg(height, "Ranges of the channels before and after", parts);
}

function worstChannels(channels: readonly ChannelView[]): ChannelView[] {
  return [...channels].sort((a, b) => a.sqnrDb - b.sqnrDb || a.channel - b.channel).slice(0, 10);
}

function worstTable(channels: readonly ChannelView[]): string {
  const row = (cells: readonly string[], tag: string): string =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeXml(cell)}</${tag}>`).join("")}</tr>`;
  const rows = worstChannels(channels).map((one) =>
    row(
      [
        String(one.channel),
        digits(one.low),
        digits(one.high),
        digits(one.lowAfter),
        digits(one.highAfter),
        String(one.levels),
        decibels(one.sqnrDb),
      ],
      "td",
    ),
  );
  const head = row(["channel", "lowest", "highest", "lowest after", "highest after", "numbers", "SQNR"], "th");
  return `<h3>Worst channels</h3><table class="worst"><thead>${head}</thead><tbody>${rows.join("")}</tbody></table>`;
}

function axisTexts(low: number, high: number, x: (value: number) => number, y: number): string[] {
  const values = low < 0 && high > 0 ? [low, low / 2, 0, high / 2, high] : [low, (low + high) / 2, high];
  return values.map((value, index) =>
    svgText(x(value), y, digits(value), "tick", index === 0 ? "start" : index === values.length - 1 ? "end" : "middle"),
  );
}

function svg(height: number, label: string, parts: readonly string[]): string {
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escapeXml(label)}">${parts.join("")}</svg>`;
}

const BARS = " ▁▂▃▄▅▆▇█";
/** Bins that share a character. */
const PER_CHARACTER = 2;

/** A histogram in one line, counts to the root. */
function bars({ counts }: Bins): string {
  const merged: number[] = [];
  for (let i = 0; i < counts.length; i += PER_CHARACTER)
    merged.push(counts.slice(i, i + PER_CHARACTER).reduce((sum, count) => sum + count, 0));
  const most = Math.max(1, ...merged);
  return merged
    .map((count) => BARS[count === 0 ? 0 : Math.max(1, Math.round(Math.sqrt(count / most) * (BARS.length - 1)))])
    .join("");
}

function span({ low, high, counts }: Bins): string {
  const [left, right] = [digits(low), digits(high)];
  return left + right.padStart(counts.length / PER_CHARACTER - left.length);
}
