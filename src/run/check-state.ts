/** Checks of resident state: that links name real ports and that both ends of each link agree. */
import { PareError } from "../base/error.ts";
import { formatShape } from "../base/shape.ts";
import { checkArray, shapeFits } from "./check-feeds.ts";
import type { Feeds, Port } from "./session.ts";

/** Throws unless every state array fits its input and every link goes from an output of that dtype and shape to a state input. */
export function checkLinks(
  inputs: readonly Port[],
  outputs: readonly Port[],
  state: Feeds,
  links: Readonly<Record<string, string>>,
): void {
  for (const [name, array] of Object.entries(state)) {
    const port = inputs.find((input) => input.name === name);
    if (!port) throw new PareError("shape-mismatch", `The model has no input '${name}' to keep as state`);
    checkArray(port, array);
  }
  for (const [input, output] of Object.entries(links)) {
    const array = state[input];
    const port = outputs.find((candidate) => candidate.name === output);
    if (!array) throw new PareError("shape-mismatch", `Linked input '${input}' has no first value`);
    if (!port) throw new PareError("shape-mismatch", `The model has no output '${output}' to feed back to '${input}'`);
    if (port.dtype !== array.dtype || !shapeFits(port.shape, array.shape))
      throw new PareError("shape-mismatch", `Output '${output}' cannot become input '${input}'`, {
        found: `${port.dtype} ${formatShape(port.shape)}`,
        expected: `${array.dtype} ${formatShape(array.shape)}`,
      });
  }
}

/** Inputs that are fed at each step, and outputs that are fetched by default: those that are not state. */
export function freePorts(
  inputs: readonly Port[],
  outputs: readonly Port[],
  state: Feeds,
  links: Readonly<Record<string, string>>,
): { readonly inputs: Port[]; readonly outputs: Port[] } {
  const linked = new Set(Object.values(links));
  return {
    inputs: inputs.filter((port) => state[port.name] === undefined),
    outputs: outputs.filter((port) => !linked.has(port.name)),
  };
}
