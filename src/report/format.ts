/** Numbers as people read them: bytes, seconds, counts, ratios, points; the same words in every kind of report. */
import type { Unit } from "../search/quantities.ts";

const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB"];
const COUNT_UNITS = ["", " k", " M", " G", " T", " P"];

/** Three significant digits without exponent where that is short: 1.23, 12.3, 123, 1234. */
export function digits(value: number, significant = 3): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(Number(value.toPrecision(significant)));
  if (size < 1e-3 || size >= 1e6) {
    const [mantissa, exponent] = value.toExponential(significant - 1).split("e");
    return minus(`${mantissa}e${Number(exponent)}`);
  }
  const decimals = Math.max(0, significant - 1 - Math.floor(Math.log10(size)));
  return minus(value.toFixed(decimals));
}

/** A true minus sign. */
function minus(text: string): string {
  return text.replace(/^-/, "−");
}

function scaled(value: number, units: readonly string[], factor: number): string {
  let index = 0;
  let size = value;
  while (Math.abs(size) >= factor * 0.9995 && index + 1 < units.length) {
    size /= factor;
    index++;
  }
  const number = index === 0 ? String(Math.round(size)) : digits(size);
  return `${number}${units === BYTE_UNITS ? " " : ""}${units[index] ?? ""}`;
}

/** Decimal units: 1 kB = 1000 B, as downloads are counted. */
export function formatBytes(bytes: number): string {
  return scaled(bytes, BYTE_UNITS, 1000);
}

export function formatCount(count: number): string {
  return scaled(count, COUNT_UNITS, 1000);
}

export function formatSeconds(seconds: number): string {
  if (seconds === 0) return "0 s";
  if (seconds < 1e-3) return `${digits(seconds * 1e6)} µs`;
  if (seconds < 1) return `${digits(seconds * 1e3)} ms`;
  if (seconds < 120) return `${digits(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds - minutes * 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function formatJoules(joules: number): string {
  if (joules === 0) return "0 J";
  const units = ["J", "mJ", "µJ", "nJ"];
  let index = 0;
  let size = joules;
  while (size < 1 && index + 1 < units.length) {
    size *= 1000;
    index++;
  }
  return `${digits(size)} ${units[index]}`;
}

/** A share as a percentage with `decimals` places: 91.7 %. */
export function formatShare(share: number, decimals = 1): string {
  return `${minus((share * 100).toFixed(decimals))} %`;
}

/** A difference of shares in points, signed: −0.2. */
export function formatPoints(difference: number): string {
  const points = (difference * 100).toFixed(1);
  return Number(points) === 0 ? "±0.0" : difference > 0 ? `+${points}` : minus(points);
}

/** A factor: 3.9×. */
export function formatTimes(factor: number): string {
  return `${factor >= 9.95 ? digits(factor) : factor.toFixed(factor < 0.1 ? 3 : factor < 2 ? 2 : 1)}×`;
}

/** A value in its unit. */
export function formatValue(value: number, unit: Unit): string {
  if (!Number.isFinite(value)) return digits(value);
  switch (unit) {
    case "bytes":
      return formatBytes(value);
    case "seconds":
      return formatSeconds(value);
    case "count":
      return formatCount(value);
    case "share":
      return formatShare(value);
    case "times":
      return formatTimes(value);
    case "decibels":
      return `${minus(value.toFixed(1))} dB`;
    case "joules":
      return formatJoules(value);
    case "per-second":
      return `${digits(value)} /s`;
    case "number":
      return digits(value, 4);
  }
}

/** A value with its 95 % interval, where it has one: 91.4 % (90.8 – 91.9). */
export function formatInterval(
  measured: { readonly value: number; readonly low?: number; readonly high?: number },
  unit: Unit,
): string {
  const text = formatValue(measured.value, unit);
  if (measured.low === undefined || measured.high === undefined || measured.low === measured.high) return text;
  const bare = (value: number): string => formatValue(value, unit).replace(/ ?[%×]$/, "");
  return `${text} (${bare(measured.low)} – ${bare(measured.high)})`;
}
