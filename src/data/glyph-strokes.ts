/** The glyphs of the synthetic set, as strokes: polylines and arcs in a square of −1..1, x to the right and y down. */

/** Points of one stroke, x and y alternating. */
export type Stroke = readonly number[];

export interface Glyph {
  readonly name: string;
  readonly strokes: readonly Stroke[];
}

/** Points of an arc of an ellipse; angles in turns, clockwise from the right. */
function arc(cx: number, cy: number, rx: number, ry: number, from: number, to: number): number[] {
  const steps = Math.max(3, Math.ceil(Math.abs(to - from) * 14));
  return Array.from({ length: steps + 1 }, (_, i) => {
    const angle = 2 * Math.PI * (from + ((to - from) * i) / steps);
    return [cx + rx * Math.cos(angle), cy + ry * Math.sin(angle)];
  }).flat();
}

/** Neighbours differ by little on purpose: a closed or open ring, a bar more or less, a hook to the left or right. */
export const GLYPHS: readonly Glyph[] = [
  { name: "ring", strokes: [arc(0, 0, 0.62, 0.8, 0, 1)] },
  { name: "horseshoe", strokes: [arc(0, 0, 0.65, 0.8, 0.12, 0.88)] },
  { name: "theta", strokes: [arc(0, 0, 0.62, 0.8, 0, 1), [-0.6, 0, 0.6, 0]] },
  { name: "tadpole", strokes: [[...arc(-0.05, 0.32, 0.48, 0.45, 0, 1)], [-0.52, 0.3, -0.4, -0.35, 0.1, -0.85]] },
  { name: "kite", strokes: [[...arc(0.05, -0.35, 0.48, 0.45, 0, 1)], [0.52, -0.3, 0.4, 0.3, 0.1, 0.85]] },
  { name: "zigzag", strokes: [[-0.6, -0.75, 0.6, -0.7, -0.55, 0.75, 0.6, 0.75]] },
  { name: "hook", strokes: [[...arc(0, -0.35, 0.55, 0.45, 0.5, 1.05), -0.55, 0.75, 0.6, 0.75]] },
  { name: "three", strokes: [[...arc(-0.05, -0.4, 0.5, 0.4, 0.55, 1.25), ...arc(-0.05, 0.4, 0.58, 0.42, 0.75, 1.45)]] },
  { name: "bolt", strokes: [[0.35, -0.85, -0.5, 0.1, 0.45, 0.05, -0.25, 0.85]] },
  {
    name: "chair",
    strokes: [
      [-0.45, -0.8, -0.45, 0.15, 0.55, 0.15],
      [0.3, -0.3, 0.3, 0.85],
    ],
  },
  { name: "seven", strokes: [[-0.6, -0.75, 0.55, -0.75, -0.1, 0.85]] },
  {
    name: "arrow",
    strokes: [
      [0, 0.85, 0, -0.8],
      [-0.5, -0.25, 0, -0.8, 0.5, -0.25],
    ],
  },
  {
    name: "fork",
    strokes: [
      [0, 0.85, 0, -0.05],
      [-0.55, -0.8, -0.5, -0.25, 0, -0.05, 0.5, -0.25, 0.55, -0.8],
    ],
  },
  { name: "square", strokes: [[-0.6, -0.65, 0.6, -0.65, 0.6, 0.65, -0.6, 0.65, -0.6, -0.65]] },
  { name: "triangle", strokes: [[0, -0.75, 0.7, 0.65, -0.7, 0.65, 0, -0.75]] },
  { name: "wave", strokes: [[...arc(-0.38, 0, 0.34, 0.5, 0.5, 1), ...arc(0.34, 0, 0.36, 0.5, 0.5, 0)]] },
  {
    name: "spiral",
    strokes: [
      [...arc(0, 0, 0.25, 0.25, 0, 0.5), ...arc(0.15, 0, 0.42, 0.45, 0.5, 1), ...arc(0, 0, 0.6, 0.75, 0, 0.75)],
    ],
  },
  {
    name: "cross",
    strokes: [
      [-0.6, -0.75, 0.6, 0.75],
      [0.6, -0.75, -0.6, 0.75],
    ],
  },
  {
    name: "tee",
    strokes: [
      [-0.65, -0.7, 0.65, -0.7],
      [0, -0.7, 0, 0.85],
    ],
  },
  {
    name: "dagger",
    strokes: [
      [-0.5, -0.3, 0.5, -0.3],
      [0, -0.85, 0, 0.85],
    ],
  },
];
