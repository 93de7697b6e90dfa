/** Places labels beside points so that they cover neither points nor each other; a label that fits nowhere is left out. */

export interface LabelRequest {
  readonly x: number;
  readonly y: number;
  readonly text: string;
}

export interface PlacedLabel extends LabelRequest {
  /** Anchor of the text in pixels, baseline at `textY`. */
  readonly textX: number;
  readonly textY: number;
  readonly anchor: "start" | "middle" | "end";
}

interface Box {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

export interface LabelOptions {
  readonly fontSize: number;
  readonly width: number;
  readonly height: number;
  /** Nothing is placed left of this; default 0. */
  readonly left?: number;
  /** Every point of the chart, in pixels: labels keep clear of them. */
  readonly obstacles: readonly { readonly x: number; readonly y: number }[];
  readonly radius: number;
  /** Line segments to keep clear of, where that is possible: [x1, y1, x2, y2]. */
  readonly segments?: readonly (readonly [number, number, number, number])[];
}

/** Width of a text in pixels, estimated from classes of characters (sans-serif). */
export function textWidth(text: string, fontSize: number): number {
  let width = 0;
  for (const character of text)
    width += /[ilj.,:;'|!]/.test(character)
      ? 0.28
      : /[mwMW%×]/.test(character)
        ? 0.86
        : /[A-Z]/.test(character)
          ? 0.67
          : 0.555;
  return width * fontSize;
}

const overlap = (a: Box, b: Box): number =>
  Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
  Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));

/** Greedy, in the order given (most important first), over eight directions and two distances. */
export function placeLabels(requests: readonly LabelRequest[], options: LabelOptions): PlacedLabel[] {
  const { fontSize, radius } = options;
  const taken: Box[] = options.obstacles.map(({ x, y }) => ({
    left: x - radius - 1,
    right: x + radius + 1,
    top: y - radius - 1,
    bottom: y + radius + 1,
  }));
  const placed: PlacedLabel[] = [];
  for (const request of requests) {
    const width = textWidth(request.text, fontSize);
    let best: { label: PlacedLabel; box: Box; cost: number } | undefined;
    for (const [rank, [dx, dy]] of DIRECTIONS.entries()) {
      for (const far of [0, 9]) {
        const gap = radius + 5 + far;
        const centerY = request.y + dy * (gap + (dx === 0 ? fontSize * 0.55 : fontSize * 0.35));
        const anchor = dx > 0 ? "start" : dx < 0 ? "end" : "middle";
        const textX = request.x + dx * (dy === 0 ? gap : gap * 0.75);
        const left = anchor === "start" ? textX : anchor === "end" ? textX - width : textX - width / 2;
        const box = { left, right: left + width, top: centerY - fontSize * 0.75, bottom: centerY + fontSize * 0.75 };
        if (box.left < (options.left ?? 0) || box.right > options.width || box.top < 0 || box.bottom > options.height)
          continue;
        if (taken.some((other) => overlap(box, other) > 0)) continue;
        const crossings = (options.segments ?? []).filter((segment) => crosses(box, segment)).length;
        const cost = rank + far * 0.8 + crossings * 6;
        if (!best || cost < best.cost)
          best = { box, cost, label: { ...request, textX, textY: centerY + fontSize * 0.36, anchor } };
      }
    }
    if (!best) continue;
    taken.push(best.box);
    placed.push(best.label);
  }
  return placed;
}

/** Right, left, above, below, then the corners; the order is the preference. */
const DIRECTIONS: readonly (readonly [number, number])[] = [
  [1, 0],
  [1, -1],
  [-1, -1],
  [0, -1],
  [1, 1],
  [-1, 1],
  [0, 1],
  [-1, 0],
];

/** True if an axis-parallel segment meets the box. */
function crosses(box: Box, [x1, y1, x2, y2]: readonly [number, number, number, number]): boolean {
  return (
    Math.max(x1, x2) >= box.left &&
    Math.min(x1, x2) <= box.right &&
    Math.max(y1, y2) >= box.top &&
    Math.min(y1, y2) <= box.bottom
  );
}
