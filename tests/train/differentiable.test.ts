/** Which operators have a gradient: every one that turns floats into floats has a rule, a lowered form or a reason why not. */
import { describe, expect, test } from "vitest";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { isFloat } from "../../src/base/dtype.ts";
import { knownOperators, specOf } from "../../src/ops/registry.ts";
import type { OpSpec } from "../../src/ops/spec.ts";
import { allCases, buildCase } from "../support/op-case.ts";
import { nameOf } from "./operator-check.ts";

const QUANTIZED = "computes with quantized numbers: train the model before it is quantized";
const FOREIGN = "not an operator of ONNX Runtime: nothing runs it";

/** Float operators without a gradient, and why. A gradient that comes is taken off; a new operator needs one or a reason. */
const WITHOUT: Readonly<Record<string, string>> = {
  Hardmax: "a jump from one corner to another: use Softmax, or the straight-through form",
  Bernoulli: "a draw has no derivative: use a relaxation, or freeze what lies before",
  TensorScatter: "the cache of a decoder at inference: nothing trains through it",
  MelWeightMatrix: "its bounds are constants",
  OneHot: "its on and off values are constants in every known network",
  Range: "its bounds are constants in every known network",
  Unique: "sizes depend on the data",
  Upsample: "ends with opset 9: a gradient asks for opset 11, where it is Resize",
  Scatter: "ends with opset 10: a gradient asks for opset 11, where it is ScatterElements",
  ...Object.fromEntries(
    ["DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "GatherBlockQuantized", "MatMulIntegerToFloat", "QGemm"].map(
      (op) => [`com.microsoft::${op}`, QUANTIZED],
    ),
  ),
  QLinearConv: QUANTIZED,
  QLinearMatMul: QUANTIZED,
  "onnx.brevitas::Quant": FOREIGN,
  "qonnx.custom_op.general::Quant": FOREIGN,
  "qonnx.custom_op.general::BipolarQuant": FOREIGN,
};

function recordOf(name: string): OpSpec | undefined {
  const [domain, opType] = name.includes("::") ? (name.split("::") as [string, string]) : ["", name];
  return specOf({ opType, domain }, Number.MAX_SAFE_INTEGER);
}

const has = (name: string): boolean => recordOf(name)?.grad !== "none";

/** Operators that some case shows to give floats for floats. */
function floatOperators(): Set<string> {
  const found = new Set<string>();
  for (const each of allCases()) {
    if (!each.inputs.some((input) => input && isFloat(input.dtype))) continue;
    const { model, node } = buildCase(each);
    inferShapes(model);
    if (node.outputs.some((output) => isFloat(output.dtype ?? "undefined"))) found.add(nameOf(each));
  }
  return found;
}

describe("operators without a gradient", () => {
  test.each(Object.entries(WITHOUT))("%s: %s", (name) => {
    expect(knownOperators()).toContain(name);
    expect(has(name)).toBe(false);
  });

  test("are listed, each with its reason", () => {
    expect([...floatOperators()].filter((name) => !has(name) && WITHOUT[name] === undefined)).toEqual([]);
  });

  test("would be noticed", () => {
    const floats = floatOperators();
    expect([...floats].filter((name) => !has(name))).toContain("Hardmax");
    for (const name of ["Conv", "Gelu", "ReduceProd", "com.microsoft::BiasGelu"]) expect(floats).toContain(name);
    for (const name of ["Shape", "ArgMax", "Equal"]) expect(floats).not.toContain(name);
  });

  // A sequence or an optional is not one tensor, so that they have no cases.
  test("without a case are sequences", () => {
    const cased = new Set(allCases().map(nameOf));
    const left = knownOperators().filter((name) => !cased.has(name) && !has(name) && WITHOUT[name] === undefined);
    expect(left.filter((name) => !/Sequence|^Optional/.test(name))).toEqual([]);
  });
});

describe("locally constant operators", () => {
  test("are declared so", () => {
    const zero = knownOperators().filter((name) => recordOf(name)?.grad === "zero");
    expect(zero.sort()).toEqual(["Ceil", "EyeLike", "Floor", "RandomNormalLike", "RandomUniformLike", "Round", "Sign"]);
  });
});
