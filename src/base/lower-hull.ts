/** The lower convex hull of a curve. */

/** Those of the points, given in rising x, whose connecting lines no point lies below: their slopes rise. */
export function lowerHull<Point extends { readonly x: number; readonly y: number }>(points: readonly Point[]): Point[] {
  const hull: Point[] = [];
  for (const point of points) {
    for (;;) {
      const [a, b] = hull.slice(-2);
      if (!a || !b || (b.y - a.y) * (point.x - b.x) < (point.y - b.y) * (b.x - a.x)) break;
      hull.pop();
    }
    hull.push(point);
  }
  return hull;
}
