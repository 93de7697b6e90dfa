/** Checks what is fed and fetched against a session's ports, so that errors name the input and both shapes. */
import { byteLengthOf, type TypedData } from "../base/dtype.ts";
import { PareError, nearest } from "../base/error.ts";
import { type Dim, elementCount, formatShape } from "../base/shape.ts";
import type { Feeds, NdArray, Port } from "./session.ts";

/** Throws unless `feeds` has exactly the inputs, each of the port's dtype and a shape that fits. */
export function checkFeeds(inputs: readonly Port[], feeds: Feeds): void {
  const names = inputs.map((port) => port.name);
  for (const name of Object.keys(feeds)) {
    if (names.includes(name)) continue;
    const near = nearest(name, names);
    throw new PareError("shape-mismatch", `The model has no input '${name}'`, {
      expected: names.map((input) => `'${input}'`).join(", ") || "no inputs",
      ...(near ? { help: `Did you mean '${near}'?` } : {}),
    });
  }
  for (const port of inputs) {
    const array = feeds[port.name];
    if (!array) {
      throw new PareError("shape-mismatch", `Nothing was fed to input '${port.name}'`, {
        expected: `${port.dtype} ${formatShape(port.shape)}`,
      });
    }
    checkArray(port, array);
  }
}

/** Throws unless the array has the port's dtype, a shape that fits, and as many elements as its shape says. */
export function checkArray(port: Port, array: NdArray): void {
  if (array.dtype !== port.dtype || !shapeFits(port.shape, array.shape))
    throw new PareError("shape-mismatch", "The array does not fit the input", {
      where: `input '${port.name}'`,
      found: `${array.dtype} ${formatShape(array.shape)}`,
      expected: `${port.dtype} ${formatShape(port.shape)}`,
    });
  const count = elementCount(array.shape);
  const right =
    array.dtype === "string"
      ? array.data.length === count
      : (array.data as TypedData).byteLength === byteLengthOf(array.dtype, count);
  if (!right)
    throw new PareError("shape-mismatch", `The array of shape ${formatShape(array.shape)} has the wrong length`, {
      where: `input '${port.name}'`,
      found: `${array.data.length} elements`,
      expected: String(count),
    });
}

/** True if a concrete shape is one that the port allows: same rank, equal sizes where they are known. */
export function shapeFits(declared: readonly Dim[], shape: readonly number[]): boolean {
  // The engine reports no dimensions both for scalars and for an undeclared rank: it checks those itself.
  if (declared.length === 0) return true;
  return (
    declared.length === shape.length && declared.every((dim, axis) => typeof dim !== "number" || dim === shape[axis])
  );
}

/** The outputs to fetch: those asked for, or all. Throws on a name that is not an output, and on a non-tensor output. */
export function checkFetches(outputs: readonly Port[], fetches: readonly string[] | undefined): string[] {
  const names = outputs.map((port) => port.name);
  for (const name of fetches ?? []) {
    if (names.includes(name)) continue;
    const near = nearest(name, names);
    throw new PareError("bad-option", `The model has no output '${name}'`, {
      expected: names.map((output) => `'${output}'`).join(", "),
      ...(near ? { help: `Did you mean '${near}'?` } : {}),
    });
  }
  const wanted = fetches ? [...fetches] : names;
  for (const port of outputs)
    if (port.dtype === "undefined" && wanted.includes(port.name))
      throw new PareError("unsupported", "The output is a sequence or optional, which cannot be fetched", {
        where: `output '${port.name}'`,
        help: "Name the tensor outputs to fetch",
      });
  return wanted;
}
