/** Which weights are rounded so that their errors cancel, and over what runs of elements. */
import type { Traits } from "../../ops/spec.ts";

/** What the option that asks for balanced rounding says. */
export const BALANCE_TEXT =
  "round weights of convolutions so that the errors of each kernel and channel cancel: rectified inputs all have one sign, and errors would add up; false: round to nearest";

/**
 * Elements of one kernel (kh·kw…) of a convolution's weight of `shape`, over which rounding errors shall cancel, where they
 * fill rows of `length`; 1: over whole rows only; undefined: rounded to nearest. Matrix products read inputs of both signs
 * (behind a normalization, mostly), whose errors do not add up: there, every code off the nearest one is a loss.
 */
export function balanceOf(traits: Traits | undefined, shape: readonly number[], length: number): number | undefined {
  if (traits?.linear !== "conv" && traits?.linear !== "conv-transpose") return undefined;
  const kernel = shape.slice(2).reduce((product, size) => product * size, 1);
  return length % kernel === 0 ? kernel : 1;
}
