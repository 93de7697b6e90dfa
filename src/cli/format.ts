/** Tables as people read them. */

/** Rows in aligned columns; columns of numbers after the first to the right. */
export function formatTable(rows: readonly (readonly string[])[], header?: readonly string[]): string {
  const all = header ? [header, ...rows] : rows;
  const columns = Math.max(0, ...all.map((row) => row.length));
  const indices = Array.from({ length: columns }, (_, column) => column);
  const widths = indices.map((c) => Math.max(0, ...all.map((row) => row[c]?.length ?? 0)));
  const isNumeric = (c: number): boolean =>
    c > 0 && rows.some((row) => row[c]) && rows.every((row) => /^([-+~−(±]*\d|[–∞]?$)/.test(row[c] ?? ""));
  const right = indices.map(isNumeric);
  const line = (row: readonly string[]): string =>
    widths
      .map((width, c) => (right[c] ? (row[c] ?? "").padStart(width) : (row[c] ?? "").padEnd(width)))
      .join("  ")
      .trimEnd();
  return all.map(line).join("\n");
}
