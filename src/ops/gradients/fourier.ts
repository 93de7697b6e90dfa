/** The gradient of the discrete Fourier transform: the transform the other way. */
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { axisOf, concreteShape, ints, pad, rankOf, reshape, scale, slice } from "./words.ts";

/** A transform along an axis; its axis became an input with opset 20. */
export function fourier(
  c: { readonly b: GradContext["b"]; readonly opset: number },
  x: Value,
  axis: number,
  attributes: Readonly<Record<string, number>>,
): Value {
  if (c.opset < 20) return c.b.op("DFT", [x], { attributes: { ...attributes, axis } });
  return c.b.op("DFT", [x, undefined, reshape(c, ints(c, [axis]), [])], { attributes });
}

function axisOfTransform(c: GradContext, rank: number): number {
  const { node } = c;
  if (c.opset < 20) return axisOf(node.int("axis", 1), rank);
  const value = node.inputs[2];
  const known = value ? (value.tensor?.peekNumbers() ?? c.contents(value))?.[0] : -2;
  if (known === undefined) throw unknown(c, "an axis that is computed while the graph runs");
  return axisOf(known, rank);
}

function unknown(c: GradContext, found: string): PareError {
  return new PareError("not-differentiable", "This form of DFT has no gradient", {
    where: `node '${c.node.name}' (DFT)`,
    found,
    help: "Make it constant, or freeze what lies before it",
  });
}

// y = F·x, F_kn = e^(−2πi·kn/N), of x cut or filled with zeros to N: ∂x = F*·g = N·F⁻¹·g; y = F⁻¹·x: ∂x = F·g/N.
// Frequencies that a one-sided transform leaves out get no gradient; of a real x the real part counts.
export const dftGrad: Grad = (c) => {
  const { node } = c;
  const x = node.inputs[0] as Value;
  const rank = rankOf(node, x);
  const axis = axisOfTransform(c, rank);
  const shape = concreteShape(node, x, axis); // from the axis on
  const size = shape[0] ?? 1;
  const given = node.inputs[1];
  const length = given ? (given.tensor?.peekNumbers() ?? c.contents(given))?.[0] : size;
  if (length === undefined) throw unknown(c, "a length that is computed while the graph runs");
  const inverse = node.int("inverse", 0) !== 0;
  const onesided = node.int("onesided", 0) !== 0;
  if (inverse && onesided) throw unknown(c, "the inverse of a one-sided transform");
  const fill = (value: Value, missing: number): Value => {
    const pads = Array.from({ length: 2 * rank }, () => 0);
    pads[rank + axis] = missing;
    return pad(c, value, pads);
  };
  const whole = onesided ? fill(c.outputGrad(0) as Value, length - Math.floor(length / 2) - 1) : c.outputGrad(0);
  const turned = fourier(c, whole as Value, axis, inverse ? {} : { inverse: 1 });
  let result = scale(c, turned, inverse ? 1 / length : length, x.dtype);
  if (shape.at(-1) === 1) result = slice(c, result, [rank - 1], [0], [1]);
  return [length > size ? slice(c, result, [axis], [0], [size]) : fill(result, size - length)];
};
