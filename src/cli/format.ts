/** Numbers and tables as people read them. */

/** Bytes with a decimal unit: 1.10 MB. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return unit === 0 ? `${value} B` : `${value.toPrecision(3)} ${units[unit]}`;
}

/** A count with a decimal prefix: 41.4 M. */
export function formatCount(count: number): string {
  const units = ["", "k", "M", "G", "T"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return unit === 0 ? String(value) : `${value.toPrecision(3)} ${units[unit]}`;
}

/** A duration with three digits: 1.23 ms. */
export function formatDuration(seconds: number): string {
  if (seconds >= 1) return `${seconds.toPrecision(3)} s`;
  if (seconds >= 1e-3) return `${(seconds * 1e3).toPrecision(3)} ms`;
  return `${(seconds * 1e6).toPrecision(3)} µs`;
}

/** A fraction as a percentage: 91.73 %. */
export function formatPercent(fraction: number, digits = 2): string {
  return `${(100 * fraction).toFixed(digits)} %`;
}

/** Rows in aligned columns; numbers (and everything after the first column that begins with one) to the right. */
export function formatTable(rows: readonly (readonly string[])[], header?: readonly string[]): string {
  const all = header ? [header, ...rows] : rows;
  const columns = Math.max(0, ...all.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, c) => Math.max(0, ...all.map((row) => row[c]?.length ?? 0)));
  const right = widths.map((_, c) => c > 0 && rows.some((row) => row[c]) && rows.every((row) => !row[c] || /^[-+~]?\d/.test(row[c])));
  const line = (row: readonly string[]): string =>
    widths
      .map((width, c) => (right[c] ? (row[c] ?? "").padStart(width) : (row[c] ?? "").padEnd(width)))
      .join("  ")
      .trimEnd();
  return all.map(line).join("\n");
}
