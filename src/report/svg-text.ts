/** Pieces of SVG as strings: escaped text, lines, wrapping by estimated width. */
import { textWidth } from "./labels.ts";

/** Text for element content and attributes; control characters that XML forbids become spaces. */
export function escapeXml(value: string): string {
  return (
    value
      // oxlint-disable-next-line no-control-regex -- XML 1.0 forbids these characters even escaped
      .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, " ")
      .replace(/&/g, "&amp;")
      .replace(/</g, "&lt;")
      .replace(/>/g, "&gt;")
      .replace(/"/g, "&quot;")
  );
}

export function round(value: number): string {
  return String(Math.round(value * 10) / 10);
}

export function svgText(
  x: number,
  y: number,
  value: string,
  className: string,
  anchor: "start" | "middle" | "end" = "start",
): string {
  const place = anchor === "start" ? "" : ` text-anchor="${anchor}"`;
  return `<text class="${className}" x="${round(x)}" y="${round(y)}"${place}>${escapeXml(value)}</text>`;
}

export function svgLine(x1: number, y1: number, x2: number, y2: number, className: string): string {
  return `<line class="${className}" x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}"/>`;
}

/** Shortens to about `width` pixels with an ellipsis. */
export function clip(value: string, width: number, fontSize: number): string {
  if (textWidth(value, fontSize) <= width) return value;
  let short = "";
  for (const character of value) {
    if (textWidth(`${short}${character}…`, fontSize) > width) break;
    short += character;
  }
  return `${short.trimEnd()}…`;
}

/** Breaks at spaces into at most `lines` lines of about `width` pixels; the last is clipped. */
export function wrap(value: string, width: number, fontSize: number, lines: number): string[] {
  const out: string[] = [];
  let rest = value.split(/\s+/).filter((word) => word !== "");
  while (rest.length > 0 && out.length < lines) {
    let taken = 1;
    while (taken < rest.length && textWidth(rest.slice(0, taken + 1).join(" "), fontSize) <= width) taken++;
    if (out.length === lines - 1) taken = rest.length;
    out.push(clip(rest.slice(0, taken).join(" "), width, fontSize));
    rest = rest.slice(taken);
  }
  return out;
}

/** Places of legend items in rows no wider than `width`. */
export function legendLayout(
  labels: readonly string[],
  width: number,
  fontSize: number,
): { readonly rows: number; readonly spots: readonly { readonly x: number; readonly row: number }[] } {
  const spots: { x: number; row: number }[] = [];
  let x = 0;
  let row = 0;
  for (const label of labels) {
    const size = 18 + textWidth(label, fontSize) + 20;
    if (x > 0 && x + size > width) {
      x = 0;
      row++;
    }
    spots.push({ x, row });
    x += size;
  }
  return { rows: row + 1, spots };
}
