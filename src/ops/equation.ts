/** The equation of an Einsum: which letter each axis of each operand and of the output has. */
import type { Node } from "../ir/graph.ts";

/** Axes of an ellipsis are named by digits, 0 being the last: "...ij" of rank 4 is "10ij". */
export interface Equation {
  readonly operands: readonly (readonly string[])[];
  readonly output: readonly string[];
}

/** The letters of each operand and of the output; undefined if an ellipsis meets an operand of unknown rank. */
export function equationOf(node: Node, ranks: readonly (number | undefined)[]): Equation | undefined {
  const [left = "", right] = (node.string("equation") ?? "").replaceAll(/\s/g, "").split("->");
  let widest = 0;
  const operands: string[][] = [];
  for (const [i, text] of left.split(",").entries()) {
    const rank = ranks[i];
    const letters = [...text.replace("...", "")];
    if (!text.includes("...")) operands.push(letters);
    else if (rank === undefined) return undefined;
    else {
      const extra = Math.max(0, rank - letters.length);
      widest = Math.max(widest, extra);
      operands.push([...text.slice(0, text.indexOf("...")), ...digits(extra), ...text.slice(text.indexOf("...") + 3)]);
    }
  }
  if (right !== undefined)
    return {
      operands,
      output: [...right.split("...").join("…")].flatMap((letter) => (letter === "…" ? digits(widest) : [letter])),
    };
  const letters = operands.flat().filter((letter) => !/\d/.test(letter));
  const once = [...new Set(letters)].filter((letter) => letters.indexOf(letter) === letters.lastIndexOf(letter));
  return { operands, output: [...digits(widest), ...once.sort()] };
}

function digits(n: number): string[] {
  return Array.from({ length: n }, (_, i) => String(n - 1 - i));
}
