/** Gives inputs of a model a value or a shape once and for all: a sample rate, a number of frames. */
import { inferShapes } from "../analyse/shapes.ts";
import { type DType, arrayTypeOf, isFloat } from "../base/dtype.ts";
import { nearest, PareError } from "../base/error.ts";
import { type Dim, elementCount, formatShape, isConcrete } from "../base/shape.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { inlineBranches } from "./inline-branches.ts";

export interface FixedInputs {
  /** Inputs that become constants: all elements in row-major order, or one number for all of them. */
  readonly values?: Readonly<Record<string, readonly number[]>> | undefined;
  /** Sizes of inputs, one per axis; a symbol that they settle is settled in the other inputs too. */
  readonly shapes?: Readonly<Record<string, readonly number[]>> | undefined;
}

const WRITABLE: ReadonlySet<DType> = new Set(["bool", "int8", "uint8", "int32", "int64", "float32", "float64"]);

/**
 * Fixes inputs, infers all shapes again and puts the chosen branch in the place of every condition that is now the same at every
 * run (a branch that is never taken need not make sense for the sizes at hand). Returns the number of conditions that went.
 * Throws `bad-option` for a name, a value or a shape that the model does not have room for.
 */
export function fixInputs(model: Model, { values = {}, shapes = {} }: FixedInputs): number {
  const { graph } = model;
  const inputs = new Map(graph.inputs.filter((input) => !input.tensor).map((input) => [input.name, input]));
  const find = (name: string): Value => {
    const input = inputs.get(name);
    if (input) return input;
    const near = nearest(name, inputs.keys());
    throw new PareError("bad-option", "The model has no such input", {
      where: `'${name}'`,
      expected: [...inputs.keys()].join(", "),
      ...(near === undefined ? {} : { help: `Did you mean '${near}'?` }),
    });
  };
  for (const [name, shape] of Object.entries(shapes)) settleShape(find(name), shape, [...inputs.values()]);
  for (const [name, numbers] of Object.entries(values)) {
    const input = find(name);
    input.tensor = tensorFor(input, numbers);
    input.shape = input.tensor.shape;
    graph.inputs.splice(graph.inputs.indexOf(input), 1);
    graph.initializers.set(name, input);
  }
  inferShapes(model, { fresh: true });
  return inlineBranches(model);
}

function settleShape(input: Value, shape: readonly number[], inputs: readonly Value[]): void {
  const declared = input.shape;
  const fits = (dim: Dim, size: number | undefined): boolean => typeof dim !== "number" || dim === size;
  if (declared && (declared.length !== shape.length || !declared.every((dim, axis) => fits(dim, shape[axis]))))
    throw new PareError("bad-option", "The input cannot have this shape", {
      where: `input '${input.name}'`,
      found: formatShape(shape),
      expected: formatShape(declared),
    });
  const symbols = new Map<Dim, number>();
  for (const [axis, size] of shape.entries())
    if (typeof declared?.[axis] === "string") symbols.set(declared[axis], size);
  input.shape = shape;
  for (const other of inputs)
    other.shape = other.shape?.map((dim) => (typeof dim === "string" ? (symbols.get(dim) ?? dim) : dim));
}

function tensorFor(input: Value, numbers: readonly number[]): Tensor {
  const { dtype, shape, name } = input;
  const refuse = (message: string, found: string, expected: string, help?: string): PareError =>
    new PareError("bad-option", message, {
      where: `input '${name}'`,
      found,
      expected,
      ...(help === undefined ? {} : { help }),
    });
  if (dtype === undefined || !WRITABLE.has(dtype))
    throw refuse("The input cannot be fixed", String(dtype), [...WRITABLE].join(", "));
  if (!isConcrete(shape))
    throw refuse("The input has an open size", formatShape(shape), "a known shape", "Fix its shape, too");
  const count = elementCount(shape);
  if (numbers.length !== count && numbers.length !== 1)
    throw refuse(
      "The value does not fill the input",
      `${numbers.length} numbers`,
      `${count}, or one for all of ${formatShape(shape)}`,
    );
  const odd = numbers.find((x) => !(isFloat(dtype) ? Number.isFinite(x) : Number.isSafeInteger(x)));
  if (odd !== undefined)
    throw refuse("Not a value of the input", String(odd), isFloat(dtype) ? "numbers" : "whole numbers");
  const all = Array.from({ length: count }, (_, i) => numbers[numbers.length === 1 ? 0 : i] as number);
  const data = dtype === "int64" ? BigInt64Array.from(all, BigInt) : Reflect.construct(arrayTypeOf(dtype), [all]);
  return Tensor.of(dtype, shape, data);
}
