/** Attributes of the standard operators: each well-known name has one type wherever it occurs. */
import type { Attribute } from "./attribute.ts";
import type { Node } from "./graph.ts";

const NAMES: Readonly<Partial<Record<Attribute["type"], readonly string[]>>> = {
  int: ["axis", "group", "to", "keepdims", "transA", "transB", "hidden_size", "blocksize", "num_groups", "ceil_mode"],
  ints: ["axes", "perm", "kernel_shape", "strides", "pads", "dilations", "output_padding", "output_shape"],
  float: ["alpha", "beta", "epsilon", "momentum", "ratio", "gamma"],
  string: ["auto_pad", "equation", "coordinate_transformation_mode", "nearest_mode", "mode"],
  graph: ["body", "then_branch", "else_branch"],
};

const TYPE_OF = new Map<string, Attribute["type"]>(
  Object.entries(NAMES).flatMap(([type, names]) => names.map((name) => [name, type as Attribute["type"]] as const)),
);

const INT64_MIN = -(2n ** 63n);
const INT64_MAX = 2n ** 63n - 1n;

/** Reports an attribute of the wrong type, an integer that is none, or a reference to no parameter of the function. */
export function checkAttribute(
  node: Node,
  name: string,
  attribute: Attribute,
  parameters: ReadonlySet<string> | undefined,
  report: (message: string) => void,
): void {
  if (attribute.type === "reference") {
    if (!parameters) report(`Attribute '${name}' refers to a function's attribute, but this is no function`);
    else if (!parameters.has(attribute.value))
      report(`Attribute '${name}' refers to '${attribute.value}', which the function does not declare`);
    return;
  }
  const expected = node.domain === "" ? TYPE_OF.get(name) : undefined;
  if (expected && expected !== attribute.type)
    report(`Attribute '${name}' is of type ${attribute.type}, expected ${expected}`);
  const integers = attribute.type === "int" ? [attribute.value] : attribute.type === "ints" ? attribute.value : [];
  for (const value of integers)
    if (!isInt64(value)) report(`Attribute '${name}' holds ${value}, which is not a 64-bit integer`);
}

function isInt64(value: number | bigint): boolean {
  if (typeof value === "number" && !Number.isInteger(value)) return false;
  const integer = BigInt(value);
  return integer >= INT64_MIN && integer <= INT64_MAX;
}
