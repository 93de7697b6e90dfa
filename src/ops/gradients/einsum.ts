/** Gradient of Einsum: for each operand another Einsum, of the output's gradient with the other operands. */
import { PareError } from "../../base/error.ts";
import type { Dim } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { equationOf } from "../equation.ts";
import type { Grad, GradContext } from "../spec.ts";
import { broadcast } from "../symbolic.ts";
import { concreteShape, constantArray, expandLike, mul, reduceSum, sumTo, unsqueeze } from "./words.ts";

// y[o] = Σ Π_j x_j[t_j]: ∂x_i[t_i] = Σ g[o]·Π_{j≠i} x_j[t_j] over all letters that are not in t_i.
// A letter of t_i that is nowhere else is summed by the operator alone: its gradient is repeated along that axis.
// An axis of size 1 that the others broadcast is summed over. A letter that t_i repeats reads a diagonal: zero beside it.
export const einsumGrad: Grad = (c) => {
  const { node } = c;
  const operands = node.inputs as readonly Value[];
  const equation = equationOf(
    node,
    operands.map((operand) => operand.shape?.length),
  );
  if (!equation) throw refused(c, "the rank of an operand is not known");
  const terms = equation.operands;
  const names = spelling([...terms.flat(), ...equation.output]);
  const spell = (letters: readonly string[]): string => letters.map((letter) => names.get(letter)).join("");
  const sizes = new Map<string, Dim>();
  for (const [j, term] of terms.entries())
    for (const [axis, letter] of term.entries())
      sizes.set(letter, broadcast(sizes.get(letter) ?? 1, operands[j]?.shape?.[axis] ?? null));
  return operands.map((operand, i) => {
    if (!c.wants(i)) return undefined;
    const term = terms[i] ?? [];
    const own = [...new Set(term)];
    const others = terms.flatMap((each, j) => (j === i ? [] : [each]));
    const elsewhere = new Set([...equation.output, ...others.flat()]);
    const kept = own.filter((letter) => elsewhere.has(letter));
    const left = [equation.output, ...others].map(spell).join(",");
    const product = c.b.op("Einsum", [c.outputGrad(0), ...operands.filter((_, j) => j !== i)], {
      attributes: { equation: `${left}->${spell(kept)}` },
    });
    if (own.length === term.length && kept.length === own.length)
      return sumTo(
        c,
        product,
        own.map((letter) => sizes.get(letter) ?? null),
        operand,
      );
    const sizeIn = (letter: string): Dim => operand.shape?.[term.indexOf(letter)] ?? null;
    const summed = kept.flatMap((letter, axis) => {
      const [whole, part] = [sizes.get(letter) ?? null, sizeIn(letter)];
      if (part === 1 && whole !== 1) return [axis];
      if (part === null || part !== whole) throw refused(c, `it is not known whether '${letter}' is broadcast`);
      return [];
    });
    const alone = own.flatMap((letter, axis) => (elsewhere.has(letter) ? [] : [axis]));
    const row = unsqueeze(c, reduceSum(c, product, summed, true), alone);
    return own.length === term.length ? expandLike(c, row, operand) : onDiagonal(c, row, term, operand);
  });
};

/** An array over the distinct letters of a term, put where all axes of a letter agree, zero elsewhere. */
function onDiagonal(c: GradContext, row: Value, term: readonly string[], operand: Value): Value {
  const again = term.flatMap((letter, axis) => (term.indexOf(letter) === axis ? [] : [axis]));
  // The distinct letters stand in the order of their first axes.
  let result = unsqueeze(c, row, again);
  for (const axis of again) {
    const first = term.indexOf(term[axis] as string);
    const size = concreteShape(c.node, operand)[axis] ?? 1;
    const eye = Array.from({ length: size * size }, (_, at) => (at % (size + 1) === 0 ? 1 : 0));
    const shape = term.map((_, at) => (at === first || at === axis ? size : 1));
    result = mul(c, result, constantArray(c, operand.dtype, shape, eye));
  }
  return expandLike(c, result, operand); // letters that the operator sums alone
}

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
