/** Small line charts in braille characters for terminals. */

export interface TextSeries {
  readonly label: string;
  readonly xs: readonly number[];
  readonly ys: readonly number[];
}

export interface TextChartOptions {
  /** Cells of the whole chart, labels of the axis included; default 64 by 8. */
  readonly width?: number | undefined;
  readonly height?: number | undefined;
  /** The x axis is logarithmic; default false. */
  readonly logX?: boolean | undefined;
  /** The y axis is logarithmic where all values are positive and the largest is ten times the smallest; default false. */
  readonly logY?: boolean | undefined;
  /** Range of the x axis; default: that of the points. */
  readonly from?: number | undefined;
  readonly to?: number | undefined;
  /** x values marked by a line from top to bottom. */
  readonly marks?: readonly number[] | undefined;
  /** How x values are written; default: three digits. */
  readonly formatX?: ((x: number) => string) | undefined;
}

const BRAILLE = 0x2800;
/** Bits of the dots of a cell, by column (0, 1) and row (0..3). */
const DOTS = [
  [0x01, 0x02, 0x04, 0x40],
  [0x08, 0x10, 0x20, 0x80],
] as const;

/** One line, drawn as points joined by straight lines; points that are not finite are left out. Empty without two points. */
export function textChart(series: TextSeries, options: TextChartOptions = {}): string[] {
  const { logX = false, height = 8, width = 64 } = options;
  const scaleX = logX ? Math.log10 : (x: number): number => x;
  const finite = series.ys.filter(Number.isFinite);
  const logY = options.logY === true && Math.min(...finite) > 0 && Math.max(...finite) > 10 * Math.min(...finite);
  const points = series.xs.flatMap((x, i) => {
    const [px, value] = [scaleX(x), series.ys[i] ?? Number.NaN];
    const y = logY ? Math.log10(value) : value;
    return Number.isFinite(px) && Number.isFinite(y) ? [[px, y] as const] : [];
  });
  if (points.length < 2) return [];
  const [low, high] = [Math.min(...points.map(([, y]) => y)), Math.max(...points.map(([, y]) => y))];
  const labels = [high, low].map((y) => short(logY ? 10 ** y : y));
  const gutter = Math.max(...labels.map((text) => text.length)) + 2;
  const columns = Math.max(8, width - gutter);
  const first = options.from === undefined ? Math.min(...points.map(([x]) => x)) : scaleX(options.from);
  const last = options.to === undefined ? Math.max(...points.map(([x]) => x)) : scaleX(options.to);
  const cells = new Uint8Array(columns * height);
  const [across, down] = [2 * columns - 1, 4 * height - 1];
  const place = (x: number, y: number): [number, number] => [
    last > first ? ((x - first) / (last - first)) * across : 0,
    high > low ? ((high - y) / (high - low)) * down : down,
  ];
  const dot = (x: number, y: number): void => {
    const [column, row] = [Math.round(x), Math.round(y)];
    if (column < 0 || column > across || row < 0 || row > down) return;
    const at = (row >> 2) * columns + (column >> 1);
    cells[at] = (cells[at] ?? 0) | (DOTS[column & 1]?.[row & 3] ?? 0);
  };
  for (const mark of options.marks ?? []) {
    const [x] = place(scaleX(mark), low);
    for (let y = 0; y <= down; y += 2) dot(x, y);
  }
  let before: readonly [number, number] | undefined;
  for (const [x, y] of points) {
    const here = place(x, y);
    const from = before ?? here;
    const steps = Math.max(1, Math.ceil(Math.max(Math.abs(here[0] - from[0]), Math.abs(here[1] - from[1]))));
    for (let k = 0; k <= steps; k++)
      dot(from[0] + ((here[0] - from[0]) * k) / steps, from[1] + ((here[1] - from[1]) * k) / steps);
    before = here;
  }
  const lines = Array.from({ length: height }, (_, row) => {
    const label = row === 0 ? labels[0] : row === height - 1 ? labels[1] : "";
    const text = Array.from(cells.subarray(row * columns, (row + 1) * columns), (bits) =>
      bits === 0 ? " " : String.fromCodePoint(BRAILLE + bits),
    ).join("");
    return `${(label ?? "").padStart(gutter - 2)} │${text}`.trimEnd();
  });
  const format = options.formatX ?? short;
  const unscale = (x: number): number => (logX ? 10 ** x : x);
  const [left, right] = [format(unscale(first)), format(unscale(last))];
  const room = Math.max(1, columns - left.length - right.length);
  const middle = series.label.length + 2 <= room ? series.label : "";
  const pad = room - middle.length;
  const axis = left + " ".repeat(Math.floor(pad / 2)) + middle + " ".repeat(Math.ceil(pad / 2)) + right;
  return [...lines, `${" ".repeat(gutter - 1)}└${axis}`];
}

function short(value: number): string {
  const text = Number(value.toPrecision(3)).toString();
  return text.length > 8 ? value.toExponential(1) : text;
}
