/** A line chart of a study as SVG: series with spreads over a numeric or named axis, dashed lines across for what is compared with. */

const SIZE = { width: 720, height: 400, left: 64, right: 150, top: 28, bottom: 52 };
const COLOURS = ["#1f66d1", "#c2410c", "#0b7a75", "#7c3aed", "#8a6100", "#be185d", "#4b5563", "#0369a1"];
/** Pixels between the baselines of two labels at the right. */
const LABEL_STEP = 16;

/** Where a value lies between low and high, 0 to 1. */
function place(value, { low, high, log }) {
  const on = log ? Math.log : (each) => each;
  return (on(value) - on(low)) / (on(high) - on(low));
}

/**
 * `x` and `y`: `{ label, low, high, log?, ticks: [[value, text], …] }`; `series`: `{ name, points: [[x, y, spread?], …] }`, a spread
 * drawn as a bar of y ± spread, with `style` "dashed" or "dots" (no line between them) for figures of others; `lines`:
 * `{ name, y }`; `about` says what is seen to who cannot see it.
 */
export function lineChart({ about, x, y, series, lines = [] }) {
  const { width, height, left, right, top, bottom } = SIZE;
  const px = (value) => left + place(value, x) * (width - left - right);
  const py = (value) => height - bottom - place(value, y) * (height - top - bottom);
  const at = (value) => value.toFixed(1);
  const parts = [];
  const label = (content, tx, ty, attributes = "") =>
    parts.push(`<text x="${at(tx)}" y="${at(ty)}" ${attributes}>${content}</text>`);
  for (const [value, content] of y.ticks) {
    parts.push(`<line x1="${left}" x2="${width - right}" y1="${at(py(value))}" y2="${at(py(value))}" class="grid"/>`);
    label(content, left - 8, py(value) + 4, 'text-anchor="end"');
  }
  for (const [value, content] of x.ticks) label(content, px(value), height - bottom + 22, 'text-anchor="middle"');
  label(y.label, 4, top - 12);
  label(x.label, (left + width - right) / 2, height - 8, 'text-anchor="middle"');
  for (const line of lines)
    parts.push(`<line x1="${left}" x2="${width - right}" y1="${at(py(line.y))}" y2="${at(py(line.y))}" class="line"/>`);
  const names = lines.map((line) => ({ name: line.name, y: py(line.y), attributes: "" }));
  for (const [k, { name, points, style }] of series.entries()) {
    const colour = COLOURS[k % COLOURS.length];
    const path = points.map(([a, b]) => `${at(px(a))},${at(py(b))}`).join(" ");
    const dashes = style === "dashed" ? ' stroke-dasharray="5 4"' : "";
    if (style !== "dots")
      parts.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"${dashes}/>`);
    for (const [a, b, spread = 0] of points) {
      if (spread > 0)
        parts.push(
          `<line x1="${at(px(a))}" x2="${at(px(a))}" y1="${at(py(Math.max(b - spread, y.low)))}" y2="${at(py(Math.min(b + spread, y.high)))}" stroke="${colour}"/>`,
        );
      parts.push(`<circle cx="${at(px(a))}" cy="${at(py(b))}" r="4" ${style ? `fill="#ffffff" stroke="${colour}" stroke-width="2"` : `fill="${colour}"`}/>`);
    }
    const last = points.at(-1);
    names.push({ name, y: py(last[1]), attributes: `fill="${colour}" font-weight="600"` });
  }
  // Names stand beside the ends of their lines, moved apart where they would cover each other.
  names.sort((a, b) => a.y - b.y);
  let free = top;
  for (const each of names) {
    free = Math.max(each.y, free);
    label(each.name, width - right + 10, free + 4, each.attributes);
    free += LABEL_STEP;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${about}">
<style>text{font:13px system-ui,sans-serif}text:not([fill]){fill:#57606a}.grid{stroke:#8b949e;stroke-opacity:.35}.line{stroke:#57606a;stroke-dasharray:6 4}</style>
<rect width="${width}" height="${height}" fill="#ffffff"/>
${parts.join("\n")}
</svg>
`;
}
