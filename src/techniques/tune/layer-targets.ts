/** Which value of the original model a compressed layer should compute, and which of its channels are left. */
import { nameOf } from "../../analyse/keep.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";

/** The original's nodes and outputs by name. */
export class Original {
  readonly model: Model;
  readonly #nodes: ReadonlyMap<string, Node>;

  constructor(model: Model) {
    this.model = model;
    this.#nodes = new Map(model.graph.nodes.map((node) => [nameOf(node), node]));
  }

  /** The node of the same name and operator. */
  node(node: Node): Node | undefined {
    const own = this.#nodes.get(nameOf(node));
    return own?.opType === node.opType ? own : undefined;
  }

  /**
   * What stands in the original in the place of a value of the compressed model: what the readers of the same name read
   * there. Names of values would not do: a convolution into which a normalization was folded computes what the normalization
   * did.
   */
  counterpart(model: Model, value: Value): Value | undefined {
    for (const use of value.uses) {
      const read = this.node(use.node)?.inputs[use.index];
      if (read && !read.tensor) return read;
    }
    const at = model.graph.outputs.indexOf(value);
    return at < 0 ? undefined : this.model.graph.outputs[at];
  }
}

/**
 * Rows of the original's weight that the rows of a thinned one were cut from: row r is the first after those before it that
 * contains the elements of r in their order. Undefined where there is none: the weights have changed otherwise.
 */
export function keptRows(
  rows: { readonly data: ArrayLike<number>; readonly count: number },
  original: { readonly data: ArrayLike<number>; readonly count: number },
): number[] | undefined {
  const [size, fullSize] = [rows.data.length / rows.count, original.data.length / original.count];
  const kept: number[] = [];
  let next = 0;
  for (let row = 0; row < rows.count; row++) {
    while (next < original.count && !contains(original.data, next * fullSize, fullSize, rows.data, row * size, size))
      next++;
    if (next === original.count) return undefined;
    kept.push(next++);
  }
  return kept;
}

/** True if the elements of a part are found in order among those of a whole; zeros, which pruning leaves, fit anything. */
function contains(
  whole: ArrayLike<number>,
  from: number,
  length: number,
  part: ArrayLike<number>,
  partFrom: number,
  partLength: number,
): boolean {
  let at = 0;
  for (let i = 0; i < partLength; i++) {
    const wanted = part[partFrom + i] ?? 0;
    while (at < length && wanted !== 0 && whole[from + at] !== wanted) at++;
    if (at === length) return false;
    at++;
  }
  return true;
}
