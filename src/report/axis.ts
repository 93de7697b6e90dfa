/** Axes of the charts: values to 0..1 on a linear scale, a logarithmic one, or (for shares near 100 %) a logarithmic one of the error. */
import type { Quantity, Unit } from "../search/quantities.ts";
import { formatValue } from "./format.ts";

/** "log-error" is the logarithm of 1 − value: 98 and 99 % lie as far apart as 80 and 90 %, and failures do not squash the rest. */
export type ScaleKind = "linear" | "log" | "log-error";

export interface Axis {
  readonly kind: ScaleKind;
  /** Place of a value: 0 at the low end, 1 at the high end; values outside the domain lie outside. */
  place(value: number): number;
  readonly ticks: readonly { readonly at: number; readonly text: string }[];
}

/** Kinds that can show these values. */
export function kindsFor(unit: Unit, values: readonly number[]): ScaleKind[] {
  const kinds: ScaleKind[] = ["linear"];
  if (unit === "share" && values.every((value) => value < 1)) kinds.push("log-error");
  else if (unit !== "share" && values.every((value) => value > 0)) kinds.push("log");
  return kinds;
}

/** The kind that shows them best: logarithmic when the largest is more than four times the smallest. */
export function bestKind(unit: Unit, values: readonly number[]): ScaleKind {
  const kind = kindsFor(unit, values).at(-1) ?? "linear";
  if (kind === "linear" || values.length === 0) return "linear";
  const sizes = kind === "log" ? values : values.map((value) => 1 - value);
  return Math.max(...sizes) > 4 * Math.min(...sizes) ? kind : "linear";
}

/**
 * The axis for these values: a little wider than their range, with about `count` ticks.
 * `extra` values (ends of intervals) widen the domain only where the scale can show them.
 */
export function axisFor(
  quantity: Pick<Quantity, "unit">,
  values: readonly number[],
  options: { readonly kind?: ScaleKind | undefined; readonly count?: number; readonly extra?: readonly number[] } = {},
): Axis {
  const { unit } = quantity;
  const asked = options.kind ?? bestKind(unit, values);
  const kind = kindsFor(unit, values).includes(asked) ? asked : "linear";
  const forward =
    kind === "log"
      ? (value: number): number => Math.log10(value)
      : kind === "log-error"
        ? (value: number): number => -Math.log10(1 - value)
        : (value: number): number => value;
  const usable = [...values, ...(options.extra ?? [])].filter((value) => Number.isFinite(forward(value)));
  const low = usable.length > 0 ? Math.min(...usable.map(forward)) : 0;
  const high = usable.length > 0 ? Math.max(...usable.map(forward)) : 1;
  const span = high - low || Math.max(Math.abs(high) * 0.1, kind === "linear" ? 1e-6 : 0.3);
  const from = low - span * 0.06;
  const to = low + span * 1.06 + (high === low ? span * 0.5 : 0);
  const start = high === low ? from - span * 0.5 : from;
  const place = (value: number): number => (forward(value) - start) / (to - start);
  const count = options.count ?? 6;
  const candidates =
    kind === "linear"
      ? linearTicks(start, to, count, unit)
      : kind === "log"
        ? logTicks(10 ** start, 10 ** to, count)
        : logTicks(10 ** -to, 10 ** -start, count).map((error) => 1 - error);
  const texts = tickTexts(candidates, unit);
  const ticks = candidates
    .map((value, index) => ({ at: place(value), text: texts[index] ?? "" }))
    .filter(({ at }) => at >= -1e-9 && at <= 1 + 1e-9)
    .sort((a, b) => a.at - b.at);
  return { kind, place, ticks };
}

/** Multiples of 1, 2 or 5 · 10^k in [low, high]. Shares never leave 0..1. */
function linearTicks(low: number, high: number, count: number, unit: Unit): number[] {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const ticks: number[] = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-6; i++) {
    const value = Number((i * step).toPrecision(12));
    if (unit !== "share" || (value >= 0 && value <= 1)) ticks.push(value);
  }
  return ticks;
}

/** 1, 2 and 5 · 10^k in [low, high]; 1 and 3, powers of ten, or every n-th of them when those are too many; finer when too few. */
function logTicks(low: number, high: number, count: number): number[] {
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const within = (factors: readonly number[], every = 1): number[] => {
    const ticks: number[] = [];
    for (let k = first; k <= last; k++)
      if (k % every === 0)
        for (const factor of factors) {
          const value = Number((factor * 10 ** k).toPrecision(6));
          if (value >= low && value <= high) ticks.push(value);
        }
    return ticks;
  };
  const fine = [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  for (const factors of [fine, [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = within(factors);
    if (ticks.length <= count + 1) return ticks;
  }
  return within([1], Math.ceil((last - first) / count));
}

/** Texts of ticks: trailing zeros dropped, shares with as many decimals as they need. */
function tickTexts(values: readonly number[], unit: Unit): string[] {
  if (unit === "share") {
    const decimals = [0, 1, 2, 3].find((places) => values.every((value) => isRound(value * 100, places))) ?? 4;
    return values.map((value) => `${(value * 100).toFixed(decimals)} %`);
  }
  return values.map((value) =>
    formatValue(value, unit)
      .replace(/(\.\d*?)0+(?!\d)/, "$1")
      .replace(/\.(?!\d)/, ""),
  );
}

function isRound(value: number, places: number): boolean {
  const shifted = value * 10 ** places;
  return Math.abs(shifted - Math.round(shifted)) < 1e-6;
}
