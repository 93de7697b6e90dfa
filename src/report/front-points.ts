/** The points of a chart of two quantities, its non-dominated points and the staircase through them: what all charts share. */
import { paretoFront } from "../search/pareto.ts";
import { type Quantity, rankValue } from "../search/quantities.ts";
import type { Entry } from "../search/results.ts";

export interface ChartPoint {
  readonly entry: Entry;
  readonly x: { readonly value: number; readonly low?: number; readonly high?: number };
  readonly y: { readonly value: number; readonly low?: number; readonly high?: number };
  /** Not dominated in these two quantities. */
  readonly front: boolean;
}

/** Entries that have both quantities, in order. Failed entries and infinite values have no place on a chart. */
export function chartPoints(entries: readonly Entry[], x: Quantity, y: Quantity): ChartPoint[] {
  const measured = entries.flatMap((entry) => {
    const px = entry.error ? undefined : x.of(entry);
    const py = entry.error ? undefined : y.of(entry);
    return px && py && Number.isFinite(px.value) && Number.isFinite(py.value) ? [{ entry, x: px, y: py }] : [];
  });
  const { front } = paretoFront(
    measured.map(({ entry }) => [rankValue(x, entry), rankValue(y, entry)]),
    [x, y],
  );
  const chosen = new Set(front);
  return measured.map((point, index) => ({ ...point, front: chosen.has(index) }));
}

/** Corners of the staircase through the front, from the lowest x to the highest: the border of what is dominated. */
export function staircase(points: readonly ChartPoint[], x: Quantity): { x: number; y: number }[] {
  const front = points.filter((point) => point.front).sort((a, b) => a.x.value - b.x.value || a.y.value - b.y.value);
  const corners: { x: number; y: number }[] = [];
  for (const [index, point] of front.entries()) {
    const previous = front[index - 1];
    // Between two neighbours the border keeps the worse of both in each quantity.
    if (previous) {
      const corner =
        x.direction === "minimize"
          ? { x: point.x.value, y: previous.y.value }
          : { x: previous.x.value, y: point.y.value };
      corners.push(corner);
    }
    corners.push({ x: point.x.value, y: point.y.value });
  }
  return corners;
}

/** Loss in quality, for shares, beyond which a point is shown at the edge of the chart: a broken model must not squash the others. */
const FOCUS_LOSS = 0.2;

/** Points too bad to set the scale of y: shares more than 20 points behind the best. Others are never cut off. */
export function offScale(points: readonly ChartPoint[], y: Quantity): ReadonlySet<ChartPoint> {
  if (y.unit !== "share" || y.direction !== "maximize") return new Set();
  const best = Math.max(...points.map((point) => point.y.value));
  const bad = points.filter((point) => point.y.value < best - FOCUS_LOSS);
  // Where most are that bad, that is the picture.
  return new Set(bad.length * 2 > points.length ? [] : bad);
}
