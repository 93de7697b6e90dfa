/** Gradient of Einsum: for each operand another Einsum, of the output's gradient with the other operands. */
import { PareError } from "../../base/error.ts";
import type { Dim } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { equationOf } from "../equation.ts";
import type { Grad, GradContext } from "../spec.ts";
import { broadcast } from "../symbolic.ts";
import { expandLike, sumTo, unsqueeze } from "./words.ts";

// y[o] = Σ Π_j x_j[t_j]: ∂x_i[t_i] = Σ g[o]·Π_{j≠i} x_j[t_j] over all letters that are not in t_i.
// A letter of t_i that is nowhere else is summed by the operator alone: its gradient is repeated along that axis.
// An axis of size 1 that the others broadcast is summed over.
export const einsumGrad: Grad = (c) => {
  const { node } = c;
  const operands = node.inputs as readonly Value[];
  const equation = equationOf(
    node,
    operands.map((operand) => operand.shape?.length),
  );
  if (!equation) throw refused(c, "the rank of an operand is not known");
  const terms = equation.operands;
  if (terms.some((term) => new Set(term).size !== term.length))
    throw refused(c, "a letter is repeated within one operand (a diagonal)");
  const names = spelling([...terms.flat(), ...equation.output]);
  const spell = (letters: readonly string[]): string => letters.map((letter) => names.get(letter)).join("");
  const sizes = new Map<string, Dim>();
  for (const [j, term] of terms.entries())
    for (const [axis, letter] of term.entries())
      sizes.set(letter, broadcast(sizes.get(letter) ?? 1, operands[j]?.shape?.[axis] ?? null));
  return operands.map((operand, i) => {
    if (!c.wants(i)) return undefined;
    const own = terms[i] ?? [];
    const others = terms.flatMap((term, j) => (j === i ? [] : [term]));
    const elsewhere = new Set([...equation.output, ...others.flat()]);
    const kept = own.filter((letter) => elsewhere.has(letter));
    const left = [equation.output, ...others].map(spell).join(",");
    const product = c.b.op("Einsum", [c.outputGrad(0), ...operands.filter((_, j) => j !== i)], {
      attributes: { equation: `${left}->${spell(kept)}` },
    });
    const alone = own.flatMap((letter, axis) => (elsewhere.has(letter) ? [] : [axis]));
    const gradient = unsqueeze(c, product, alone);
    const whole = own.map((letter) => (elsewhere.has(letter) ? sizes.get(letter) : 1) ?? null);
    // Summed over broadcast axes first, then repeated along those that the operator sums alone.
    if (alone.length === 0) return sumTo(c, gradient, whole, operand);
    if (own.some((letter, axis) => elsewhere.has(letter) && operand.shape?.[axis] !== sizes.get(letter)))
      throw refused(c, "an operand has an axis that it is alone with and one that is broadcast");
    return expandLike(c, gradient, operand);
  });
};

/** A single letter for every axis: letters keep theirs, the axes of an ellipsis (digits) get free ones. */
function spelling(letters: readonly string[]): ReadonlyMap<string, string> {
  const used = new Set(letters);
  const free = [..."abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"].filter((letter) => !used.has(letter));
  return new Map([...used].map((letter) => [letter, /\d/.test(letter) ? (free.shift() ?? letter) : letter]));
}

function refused(c: GradContext, why: string): PareError {
  return new PareError("not-differentiable", "This form of Einsum has no gradient", {
    where: `node '${c.node.name}' (Einsum '${c.node.string("equation") ?? ""}')`,
    found: why,
    help: "Write it as MatMul, Mul, Transpose and ReduceSum",
  });
}
