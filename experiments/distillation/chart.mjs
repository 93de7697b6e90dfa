/** The chart of the MNIST study as SVG: test error over temperature, one line per student, the teacher as a dashed line. */

const SIZE = { width: 720, height: 400, left: 64, right: 110, top: 24, bottom: 52 };
const COLOURS = ["#1f66d1", "#c2410c", "#0b7a75", "#7c3aed", "#8a6100"];

/** Errors on a logarithmic scale; columns: labels alone, then the temperatures in order. */
export function mnistChart(students, teacher) {
  const { width, height, left, right, top, bottom } = SIZE;
  const temperatures = students[0].points.map(({ temperature }) => temperature);
  const errors = [teacher, ...students.flatMap(({ points }) => points.map(({ error }) => error))].map((e) => 100 * e);
  const [low, high] = [Math.min(...errors) * 0.85, Math.max(...errors) * 1.15];
  const x = (i) => left + 24 + (i * (width - left - right - 48)) / Math.max(1, temperatures.length - 1);
  const y = (error) => top + ((Math.log(high) - Math.log(error)) / (Math.log(high) - Math.log(low))) * (height - top - bottom);
  const at = (value) => value.toFixed(1);
  const parts = [];
  const label = (content, px, py, attributes = "") =>
    parts.push(`<text x="${at(px)}" y="${at(py)}" ${attributes}>${content}</text>`);
  for (const tick of [0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20].filter((value) => value > low && value < high)) {
    parts.push(`<line x1="${left}" x2="${width - right}" y1="${at(y(tick))}" y2="${at(y(tick))}" class="grid"/>`);
    label(`${tick} %`, left - 8, y(tick) + 4, 'text-anchor="end"');
  }
  for (const [i, temperature] of temperatures.entries())
    label(temperature === null ? "labels alone" : `T = ${temperature}`, x(i), height - bottom + 22, 'text-anchor="middle"');
  label("test error", 4, top - 8);
  label("what the student learns from", (left + width - right) / 2, height - 8, 'text-anchor="middle"');
  const line = y(100 * teacher);
  parts.push(`<line x1="${left}" x2="${width - right}" y1="${at(line)}" y2="${at(line)}" class="teacher"/>`);
  label("teacher", width - right + 6, line + 4);
  for (const [k, { network, points }] of students.entries()) {
    const colour = COLOURS[k % COLOURS.length];
    const places = points.map(({ error }, i) => [x(i), y(100 * error)]);
    const path = places.slice(1).map(([px, py]) => `${at(px)},${at(py)}`).join(" ");
    parts.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>`);
    for (const [px, py] of places) parts.push(`<circle cx="${at(px)}" cy="${at(py)}" r="4" fill="${colour}"/>`);
    const [px, py] = places.at(-1);
    label(network, px + 10, py + 4, `fill="${colour}" font-weight="600"`);
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="Test error of the students by temperature">
<style>text{font:13px system-ui,sans-serif}text:not([fill]){fill:#57606a}.grid{stroke:#8b949e;stroke-opacity:.35}.teacher{stroke:#57606a;stroke-dasharray:6 4}</style>
<rect width="${width}" height="${height}" fill="#ffffff"/>
${parts.join("\n")}
</svg>
`;
}
