/** Sensitivities of layers as a table for people and as a document for programs. */
import { formatCount, formatPoints } from "../report/format.ts";
import { type Cell, type Sensitivities, damageOf } from "../techniques/mixed/sensitivity.ts";
import type { MixLayer } from "../techniques/mixed/variant.ts";
import { formatTable } from "./format.ts";

/** Layers, worst first by the most that any of its formats does. */
export function worstLayers(found: Sensitivities, measure: string): MixLayer[] {
  const worst = new Map<string, number>();
  for (const cell of found.cells) worst.set(cell.layer, Math.max(worst.get(cell.layer) ?? 0, damageOf(cell, measure)));
  return [...found.layers].sort((a, b) => (worst.get(b.name) ?? 0) - (worst.get(a.name) ?? 0));
}

/** One row for each layer and one column for each format; `top`: so many rows at most. */
export function sensitivityTable(
  found: Sensitivities,
  options: { readonly measure: string; readonly top?: number | undefined },
): string {
  const { measure, top = found.layers.length } = options;
  const cells = new Map(found.cells.map((cell) => [`${cell.format} ${cell.layer}`, cell]));
  const ordered = worstLayers(found, measure);
  const rows = ordered
    .slice(0, top)
    .map((layer) => [
      layer.name,
      layer.op,
      formatCount(layer.elements),
      ...found.formats.map((format) => cellText(cells.get(`${format} ${layer.name}`), measure)),
    ]);
  const hidden = ordered.length - rows.length;
  return [
    formatTable(rows, ["layer", "op", "weights", ...found.formats]),
    ...(hidden > 0 ? [`… ${hidden} more`] : []),
    legend(found, measure),
    ...refusals(found),
  ].join("\n");
}

/** What programs read: every cell with every measure. */
export function sensitivityJson(found: Sensitivities, measure: string): Readonly<Record<string, unknown>> {
  return {
    ...found,
    measure,
    worst: worstLayers(found, measure)
      .slice(0, 10)
      .map(({ name }) => name),
  };
}

function cellText(cell: Cell | undefined, measure: string): string {
  const damage = cell?.score.damages[measure];
  if (!cell || !damage) return "–";
  const { value, low, high } = damage;
  if (measure === "noise") return `${cell.score.sqnrDb.toFixed(1)} dB`;
  const text = measure === "accuracy" || measure === "top5" ? formatPoints(value) : short(value);
  // A difference whose interval holds zero may be chance.
  return low !== undefined && high !== undefined && low <= 0 && high >= 0 ? `(${text})` : text;
}

function short(value: number): string {
  if (!Number.isFinite(value)) return "∞";
  return Math.abs(value) >= 1e-4 || value === 0 ? value.toFixed(4) : value.toExponential(1);
}

function legend(found: Sensitivities, measure: string): string {
  const before = found.baseline[measure];
  const was = before === undefined ? "" : ` (original ${before.toFixed(4)})`;
  if (measure === "noise") return "SQNR of the outputs with this layer alone in the format; lower is worse";
  const what =
    measure === "kl"
      ? "divergence of the scores from the original's, in nats"
      : measure === "accuracy" || measure === "top5"
        ? `points of ${measure} lost${was}`
        : `rise of ${measure}${was}`;
  return `${what}, with this layer alone in the format; in brackets where the 95 % interval holds zero`;
}

function refusals(found: Sensitivities): string[] {
  const reasons = new Map<string, string[]>();
  for (const { layer, format, why } of found.refused)
    reasons.set(`${format}: ${why}`, [...(reasons.get(`${format}: ${why}`) ?? []), layer]);
  return [...reasons].map(([why, layers]) => {
    const names =
      layers.length > 3 ? `${layers.slice(0, 3).join(", ")} and ${layers.length - 3} more` : layers.join(", ");
    return `not in ${why} (${names})`;
  });
}
