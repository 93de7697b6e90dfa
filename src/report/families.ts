/** Families of techniques in charts: each has a colour for light and dark backgrounds and a shape, so that colour is never the only sign. */

export type Shape =
  | "circle"
  | "square"
  | "triangle"
  | "diamond"
  | "star"
  | "cross"
  | "wye"
  | "triangle-down"
  | "hexagon"
  | "hourglass";

export interface FamilyStyle {
  readonly name: string;
  readonly label: string;
  /** Contrast of at least 3:1 against white and against #14161a respectively. */
  readonly light: string;
  readonly dark: string;
  readonly shape: Shape;
}

const STYLES: readonly FamilyStyle[] = [
  { name: "baseline", label: "Original", light: "#1c2127", dark: "#f2f4f7", shape: "star" },
  { name: "quantize", label: "Quantization", light: "#1f66d1", dark: "#74a9ff", shape: "circle" },
  { name: "prune", label: "Pruning", light: "#c2410c", dark: "#ff9d5c", shape: "triangle" },
  { name: "combined", label: "Combined", light: "#7c3aed", dark: "#bd9bff", shape: "diamond" },
  { name: "simplify", label: "Simplification", light: "#4b7a12", dark: "#a3d36a", shape: "square" },
  { name: "sparsify", label: "Sparsity", light: "#b0186a", dark: "#ff8ac4", shape: "triangle-down" },
  { name: "factorize", label: "Factorization", light: "#0b7a75", dark: "#4fd1c5", shape: "wye" },
  { name: "share", label: "Weight sharing", light: "#8a6100", dark: "#eac04b", shape: "cross" },
  { name: "distill", label: "Distillation", light: "#99154b", dark: "#ff8fa3", shape: "hexagon" },
  { name: "tune", label: "Training", light: "#42526b", dark: "#a9b8cf", shape: "hourglass" },
];

const BY_NAME = new Map(STYLES.map((style) => [style.name, style]));
const OTHER: Omit<FamilyStyle, "name" | "label"> = { light: "#5b6470", dark: "#a7b0bb", shape: "cross" };

/**
 * Families of these entries: those that are known in a fixed order, then others, which keep their own names and take the
 * colours and shapes that are left, in order; when none is left they are grey.
 */
export function familiesOf(entries: readonly { readonly family: string }[]): FamilyStyle[] {
  const present = new Set(entries.map(({ family }) => family));
  const known = STYLES.filter(({ name }) => present.has(name));
  const left = STYLES.filter(({ name }) => name !== "baseline" && !present.has(name));
  const others = [...present].filter((name) => !BY_NAME.has(name));
  return [...known, ...others.map((name, i) => ({ ...(left[i] ?? OTHER), name, label: name }))];
}

/** The style of one family among these entries. */
export function familyStyle(entries: readonly { readonly family: string }[], name: string): FamilyStyle {
  return familiesOf(entries).find((family) => family.name === name) ?? { ...OTHER, name, label: name };
}

/** SVG path of a shape around the origin; all shapes look about as large as a circle of radius `r`. */
export function shapePath(shape: Shape, r: number): string {
  const ring = (corners: number, radius: (i: number) => number, turn = -90): string => {
    const points = Array.from({ length: corners }, (_, i) => {
      const angle = ((turn + (360 * i) / corners) * Math.PI) / 180;
      return `${(radius(i) * Math.cos(angle)).toFixed(2)},${(radius(i) * Math.sin(angle)).toFixed(2)}`;
    });
    return `M${points.join("L")}Z`;
  };
  switch (shape) {
    case "circle":
      return `M${r},0A${r},${r} 0 1 1 ${-r},0A${r},${r} 0 1 1 ${r},0Z`;
    case "square":
      return ring(4, () => r * 1.25, -45);
    case "diamond":
      return ring(4, () => r * 1.3);
    case "triangle":
      return ring(3, () => r * 1.4);
    case "triangle-down":
      return ring(3, () => r * 1.4, 90);
    case "hexagon":
      return ring(6, () => r * 1.1);
    case "hourglass":
      return `M${-r},${-r * 1.25}H${r}L${-r},${r * 1.25}H${r}Z`;
    case "star":
      return ring(10, (i) => (i % 2 === 0 ? r * 1.6 : r * 0.7));
    case "wye":
      return ring(6, (i) => (i % 2 === 0 ? r * 1.5 : r * 0.5), 90);
    case "cross": {
      const a = r * 0.45;
      const b = r * 1.25;
      return `M${-a},${-b}H${a}V${-a}H${b}V${a}H${a}V${b}H${-a}V${a}H${-b}V${-a}H${-a}Z`;
    }
  }
}
