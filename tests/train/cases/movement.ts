/** Gradient cases of operators that move elements. */
import { type GradientCase, node } from "../gradient-check.ts";

export const MOVEMENT_CASES: readonly GradientCase[] = [
  { name: "Tile", inputs: [{ shape: [2, 3] }, { shape: [2], ints: [3, 2] }], build: node("Tile") },
];
