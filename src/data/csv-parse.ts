/** Comma-separated values: quoted fields, doubled quotes, CR LF, byte order mark. */
import { PareError } from "../base/error.ts";

/** Rows of a CSV text (RFC 4180); empty lines are left out. */
export function* csvRows(text: string, separator = ",", where = "csv"): Generator<string[]> {
  let at = text.charCodeAt(0) === 0xfeff ? 1 : 0;
  let row: string[] = [];
  const quote = '"';
  while (at < text.length) {
    let field: string;
    if (text[at] === quote) {
      [field, at] = quoted(text, at, where);
    } else {
      const end = endOfField(text, at, separator);
      field = text.slice(at, end);
      at = end;
    }
    row.push(field);
    if (text[at] === separator) {
      at++;
      if (at === text.length) row.push("");
      continue;
    }
    if (text[at] === "\r") at++;
    if (text[at] === "\n") at++;
    if (row.length > 1 || row[0] !== "") yield row;
    row = [];
  }
  if (row.length > 0) yield row;
}

function endOfField(text: string, from: number, separator: string): number {
  for (let at = from; at < text.length; at++) {
    const character = text[at];
    if (character === separator || character === "\n" || (character === "\r" && text[at + 1] === "\n")) return at;
  }
  return text.length;
}

/** The field that begins with a quote at `from`, and the position after its closing quote. */
function quoted(text: string, from: number, where: string): [string, number] {
  let field = "";
  let at = from + 1;
  for (;;) {
    const end = text.indexOf('"', at);
    if (end < 0)
      throw new PareError("bad-data", "A quoted field is not closed", {
        where,
        found: `an opening quote in line ${text.slice(0, from).split("\n").length}`,
      });
    field += text.slice(at, end);
    if (text[end + 1] !== '"') return [field, end + 1];
    field += '"';
    at = end + 2;
  }
}
