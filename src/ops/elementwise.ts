/** Elementwise arithmetic with broadcasting, elementwise functions, Cast, Clip and Where. */
import { type DType, dtypeFromCode, isFloat, isInteger } from "../base/dtype.ts";
import type { Dim } from "../base/shape.ts";
import type { Node } from "../ir/graph.ts";
import { SAME_AXES, broadcastAxes } from "./axes.ts";
import { clipGrad, erfGrad } from "./gradients/activation.ts";
import {
  absGrad,
  addGrad,
  divGrad,
  expGrad,
  extremumGrad,
  logGrad,
  meanGrad,
  modGrad,
  mulGrad,
  negGrad,
  powGrad,
  reciprocalGrad,
  sqrtGrad,
  subGrad,
  sumGrad,
  whereGrad,
} from "./gradients/arithmetic.ts";
import {
  acosGrad,
  acoshGrad,
  asinGrad,
  asinhGrad,
  atanGrad,
  atanhGrad,
  cosGrad,
  coshGrad,
  sinGrad,
  sinhGrad,
  tanGrad,
} from "./gradients/trigonometry.ts";
import { castGrad } from "./gradients/movement.ts";
import {
  differentiable,
  FREE,
  type OpTable,
  broadcastContents,
  broadcastShapes,
  dtypeOf,
  perOutput,
  sameAsInput,
  sameShape,
  shapeOf,
  withContents,
} from "./helpers.ts";
import type { Infer, OpSpec, Traits, ValueType, Weight, Weights } from "./spec.ts";
import { add, floorDivide, maximum, minimum, multiply, signOf, subtract } from "./symbolic.ts";

/** Arithmetic on one pair of elements of the given dtype. */
type Binary = (a: Dim, b: Dim, dtype: DType | undefined) => Dim;

function round(value: Dim, dtype: DType | undefined): Dim {
  return typeof value === "number" && dtype === "float32" ? Math.fround(value) : value;
}

/** Output 0 is the broadcast of all inputs; contents are computed where an element rule is given. */
function broadcasting(compute?: Binary): Infer {
  return (context) => {
    const shape = broadcastShapes(
      context,
      context.node.inputs.map((_, i) => shapeOf(context, i)),
    );
    const dtype = context.inputs.find((input) => input?.dtype)?.dtype;
    const contents =
      compute &&
      broadcastContents(context.inputs, shape, (...elements) =>
        elements.reduce((a, b) => round(compute(a, b, dtype), dtype)),
      );
    return [withContents(dtype, shape, contents)];
  };
}

/** A stored operand of an elementwise operator is learned if it is a floating-point tensor of rank 1 or more. */
function operandWeights(role: Weight["role"]): Weights {
  return (node: Node) =>
    node.inputs.flatMap((value, input): Weight[] => {
      const shape = value?.tensor?.shape;
      if (!shape || shape.length === 0 || !isFloat(value.dtype ?? "undefined")) return [];
      const long = shape.flatMap((size, axis) => (size > 1 ? [axis] : []));
      return [{ input, role, channelAxis: long.length === 1 ? long[0] : undefined }];
    });
}

/** Division as ONNX does it: truncated for integers (sizes are not negative), exact for floats. */
const divide: Binary = (a, b, dtype) => {
  if (typeof a === "number" && typeof b === "number") {
    if (dtype && isInteger(dtype)) return b === 0 ? null : Math.trunc(a / b);
    return a / b;
  }
  const quotient = floorDivide(a, b);
  if (dtype && isInteger(dtype)) return signOf(a) === "non-negative" && signOf(b) === "non-negative" ? quotient : null;
  return quotient !== null && multiply(quotient, b) === a ? quotient : null;
};

const modulo: Binary = (a, b, dtype) => {
  if (typeof a === "number" && typeof b === "number" && b !== 0) return ((a % b) + b) % b;
  if (!dtype || !isInteger(dtype) || signOf(a) !== "non-negative" || typeof b !== "number" || b <= 0) return null;
  return subtract(a, multiply(floorDivide(a, b), b));
};

const power: Binary = (a, b) => {
  if (typeof a === "number" && typeof b === "number") return a ** b;
  return b === 1 ? a : b === 2 ? multiply(a, a) : null;
};

function binary(since: number, compute: Binary | undefined, rest: Partial<OpSpec> = {}): OpSpec {
  return {
    since,
    infer: broadcasting(compute),
    cost: perOutput(),
    axes: broadcastAxes,
    grad: "none",
    traits: { elementwise: true },
    ...rest,
  };
}

/** A function of one element; `compute` carries small contents through where it is worth it. */
function unary(since = 1, flops = 1, compute?: (x: number) => number, keepsSymbols = false): OpSpec {
  return {
    since,
    infer: (context) => {
      const [input] = context.inputs;
      const contents =
        compute &&
        input?.contents?.map((x) => (typeof x === "number" ? round(compute(x), input.dtype) : keepsSymbols ? x : null));
      return [withContents(input?.dtype, input?.shape, contents)];
    },
    cost: perOutput(flops),
    axes: SAME_AXES,
    grad: "none",
    traits: { elementwise: true },
  };
}

/** Round half to even, as ONNX does. */
function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}

const CAST_CONTENTS: ReadonlySet<DType> = new Set([
  "int8",
  "uint8",
  "int16",
  "uint16",
  "int32",
  "uint32",
  "int64",
  "uint64",
  "float32",
  "float64",
]);

function castTo(input: ValueType | undefined, dtype: DType | undefined): ValueType {
  const contents = input?.contents?.map((x): Dim => {
    if (!dtype) return null;
    if (dtype === "bool") return typeof x === "number" ? Number(x !== 0) : null;
    if (!CAST_CONTENTS.has(dtype)) return null;
    return typeof x === "number" && isInteger(dtype) ? Math.trunc(x) : round(x, dtype);
  });
  return withContents(dtype, input?.shape, contents);
}

const cast: OpSpec = {
  since: 1,
  infer: (context) => [castTo(context.inputs[0], dtypeFromCode(context.node.int("to", 0)))],
  cost: FREE,
  axes: SAME_AXES,
  grad: "none",
  traits: { elementwise: true },
};

const castLike: OpSpec = {
  ...cast,
  since: 15,
  axes: "*a, *b -> *a",
  infer: (context) => [castTo(context.inputs[0], dtypeOf(context, 1))],
};

const clip: OpSpec = {
  since: 1,
  infer: sameAsInput(),
  cost: perOutput(2),
  axes: SAME_AXES,
  grad: "none",
  traits: { elementwise: true, quantizable: true },
};

const where: OpSpec = {
  since: 9,
  infer: (context) => {
    const shape = broadcastShapes(
      context,
      [0, 1, 2].map((i) => shapeOf(context, i)),
    );
    const contents = broadcastContents(context.inputs, shape, (condition = null, a = null, b = null) =>
      typeof condition === "number" ? (condition ? a : b) : a === b ? a : null,
    );
    return [withContents(dtypeOf(context, 1) ?? dtypeOf(context, 2), shape, contents)];
  },
  cost: FREE,
  axes: broadcastAxes,
  grad: "none",
  traits: { elementwise: true, quantizable: true },
};

/** Traits of what follows a scale of all its operands. */
const SUM: Traits = { elementwise: true, homogeneous: true };

const test: OpSpec = { ...unary(), infer: sameShape("bool") };

export const elementwise: OpTable = {
  Add: {
    ...binary(7, add, { weights: operandWeights("bias"), traits: { ...SUM, quantizable: true, sum: { terms: 2 } } }),
    grad: addGrad,
  },
  Sub: { ...binary(7, subtract, { weights: operandWeights("bias"), traits: SUM }), grad: subGrad },
  Mul: {
    ...binary(7, multiply, { weights: operandWeights("scale"), traits: { elementwise: true, quantizable: true } }),
    grad: mulGrad,
  },
  Div: { ...binary(7, divide, { weights: operandWeights("scale") }), grad: divGrad },
  Mod: { ...binary(10, modulo), grad: modGrad },
  Pow: {
    ...binary(7, power, {
      infer: (context) => [{ ...broadcasting(power)(context)[0], dtype: dtypeOf(context, 0) } as ValueType],
    }),
    grad: powGrad,
  },
  Max: { ...binary(6, maximum, { traits: SUM }), grad: extremumGrad },
  Min: { ...binary(6, minimum, { traits: SUM }), grad: extremumGrad },
  Sum: { ...binary(6, add, { traits: { ...SUM, sum: { terms: Number.POSITIVE_INFINITY } } }), grad: sumGrad },
  Mean: { ...binary(6, undefined, { traits: SUM }), grad: meanGrad },
  BitShift: binary(11, undefined),
  Abs: { ...unary(6, 1, Math.abs), traits: SUM, grad: absGrad },
  Neg: { ...unary(6, 1), infer: negate, traits: SUM, grad: negGrad },
  Sign: { ...unary(9, 1, Math.sign), grad: "zero" },
  Floor: { ...unary(6, 1, Math.floor, true), grad: "zero" },
  Ceil: { ...unary(6, 1, Math.ceil, true), grad: "zero" },
  Round: { ...unary(11, 1, roundHalfEven, true), grad: "zero" },
  Sqrt: { ...unary(6, 1, Math.sqrt), grad: sqrtGrad },
  Reciprocal: { ...unary(6, 1, (x) => 1 / x), grad: reciprocalGrad },
  Exp: { ...unary(6, 1), grad: expGrad },
  Log: { ...unary(6, 1), grad: logGrad },
  Erf: { ...unary(9, 1), grad: erfGrad },
  Sin: { ...unary(7, 1), grad: sinGrad },
  Cos: { ...unary(7, 1), grad: cosGrad },
  Tan: { ...unary(7, 1), grad: tanGrad },
  Asin: { ...unary(7, 1), grad: asinGrad },
  Acos: { ...unary(7, 1), grad: acosGrad },
  Atan: { ...unary(7, 1), grad: atanGrad },
  Sinh: { ...unary(9, 1), grad: sinhGrad },
  Cosh: { ...unary(9, 1), grad: coshGrad },
  Asinh: { ...unary(9, 1), grad: asinhGrad },
  Acosh: { ...unary(9, 1), grad: acoshGrad },
  Atanh: { ...unary(9, 1), grad: atanhGrad },
  IsNaN: { ...test, since: 9 },
  IsInf: { ...test, since: 10 },
  Clip: differentiable(
    [
      { ...clip, since: 6 },
      { ...clip, since: 11, axes: "*a, , -> *a" },
    ],
    clipGrad,
  ),
  Where: { ...where, grad: whereGrad },
  Cast: { ...cast, grad: castGrad },
  CastLike: { ...castLike, grad: castGrad },
};

function negate(context: Parameters<Infer>[0]): readonly ValueType[] {
  const [input] = context.inputs;
  return [
    withContents(
      input?.dtype,
      input?.shape,
      input?.contents?.map((x) => subtract(0, x)),
    ),
  ];
}
