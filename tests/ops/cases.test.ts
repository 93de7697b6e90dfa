/** Each operator case is run by ONNX Runtime: inferred types, shapes and tied axes must be what the engine computes. */
import { describe, expect, it } from "vitest";
import { inferShapes, inferTypes } from "../../src/analyse/shapes.ts";
import type { Dim } from "../../src/base/shape.ts";
import { checkModel } from "../../src/ir/check.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import type { Node } from "../../src/ir/graph.ts";
import { axesAgree, axesOf } from "../../src/ops/axes.ts";
import { knownOperators, specOf } from "../../src/ops/registry.ts";
import { type Bindings, evaluate } from "../../src/ops/symbolic.ts";
import { knownContents } from "../../src/analyse/known-contents.ts";
import { lowerNode } from "../../src/ops/lower-node.ts";
import { type Computed, runInEngine } from "../support/engine.ts";
import { type OpCase, allCases, buildCase } from "../support/op-case.ts";

const cases = allCases();

/** Records without a case, and why. */
const NO_CASE: Readonly<Record<string, string>> = {
  If: "has bodies: control.test.ts",
  Loop: "has bodies: control.test.ts",
  Scan: "has bodies: control.test.ts",
  "onnx.brevitas::Quant": "not an operator of ONNX Runtime",
  "qonnx.custom_op.general::Quant": "not an operator of ONNX Runtime",
  "qonnx.custom_op.general::BipolarQuant": "not an operator of ONNX Runtime",
  "pare.train::FakeQuantize": "exists only in training: train/simulated.test.ts",
  "pare.train::FakeBinary": "exists only in training: train/simulated.test.ts",
  "pare.train::FakeTernary": "exists only in training: train/simulated.test.ts",
  "pare.train::FakeTrainedTernary": "exists only in training: train/simulated.test.ts",
};

/** Outputs whose size only the data decides: the engine knows them, inference cannot. */
const DATA_DECIDES: ReadonlySet<string> = new Set(["Compress", "NonZero", "NonMaxSuppression", "Unique"]);

function computedShapes(node: Node, computed: ReadonlyMap<string, Computed>): (readonly number[])[] {
  return node.outputs.map((output) => computed.get(output.name)?.shape ?? []);
}

/** Lines about claims that the engine contradicts. */
function contradictions(node: Node, computed: ReadonlyMap<string, Computed>, sizes: Bindings = {}): string[] {
  return node.outputs.flatMap((output) => {
    const real = computed.get(output.name);
    const claimed = output.shape?.map((dim) => evaluate(dim, sizes));
    const agrees =
      real !== undefined &&
      (output.dtype === undefined || output.dtype === real.dtype) &&
      (claimed === undefined ||
        (claimed.length === real.shape.length && claimed.every((dim, i) => dim === null || dim === real.shape[i])));
    return agrees
      ? []
      : [`${output.name}: claimed ${output.dtype} [${output.shape}], is ${real?.dtype} [${real?.shape}]`];
  });
}

function isComplete(node: Node): boolean {
  return node.outputs.every((output) => output.dtype !== undefined && output.shape?.every((dim) => dim !== null));
}

/** float32 sums in another order: a few 1e-7 of the largest element. */
const LOWERED_TOLERANCE = 5e-6;

function nodeOf(opCase: OpCase): { readonly opType: string; readonly domain: string } {
  return { opType: opCase.op, domain: opCase.domain ?? "" };
}

/** The largest difference between the case's outputs and its lowered form's (times `factor`), relative to the largest element. */
async function loweredError(opCase: OpCase, factor = 1): Promise<number> {
  const plain = buildCase(opCase);
  const before = await runInEngine(await encodeModel(plain.model), plain.feeds);
  const { model, node, feeds } = buildCase(opCase);
  inferShapes(model);
  expect(lowerNode(model.graph, node, model.opset, knownContents(model))).toBe(true);
  expect(checkModel(model)).toEqual([]);
  const after = await runInEngine(await encodeModel(model), feeds);
  let worst = 0;
  for (const [name, { dtype, shape, data }] of before) {
    const other = after.get(name);
    expect([other?.dtype, other?.shape]).toEqual([dtype, shape]);
    const numbers = Array.from<unknown, number>(data as ArrayLike<unknown>, Number);
    const size = Math.max(1e-3, ...numbers.map(Math.abs));
    for (const [i, value] of numbers.entries()) {
      const error = Math.abs(value - Number(other?.data[i]) * factor) / size;
      worst = Math.max(worst, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
    }
  }
  return worst;
}

/** The same node with a symbol for every axis of every fed input. */
function withSymbols(opCase: OpCase): { node: Node; sizes: Bindings } {
  const { model, node } = buildCase(opCase);
  const sizes: Record<string, number> = {};
  for (const input of model.graph.inputs)
    input.shape = input.shape?.map((dim, axis): Dim => {
      sizes[`${input.name}d${axis}`] = Number(dim);
      return `${input.name}d${axis}`;
    });
  const { types } = inferTypes(model);
  for (const output of node.outputs) {
    output.dtype = types.get(output)?.dtype;
    output.shape = types.get(output)?.shape;
  }
  return { node, sizes };
}

describe("operator cases", () => {
  it.each(
    cases.map(
      (each) => [`${each.domain ? `${each.domain}::` : ""}${each.op} (${each.opset}): ${each.note}`, each] as const,
    ),
  )("%s", async (_, opCase) => {
    const { model, node, feeds } = buildCase(opCase);
    const problems = inferShapes(model);
    expect(problems).toEqual([]);
    const spec = specOf(node, opCase.domain ? 1 : opCase.opset);
    if (!spec) throw new Error("the operator has no record");
    const terms = axesOf(node, spec);
    // What inference claims must not help the engine: outputs go without types.
    const claims = node.outputs.map(({ dtype, shape }) => ({ dtype, shape }));
    for (const output of node.outputs) output.dtype = output.shape = undefined;
    const computed = await runInEngine(await encodeModel(model), feeds);
    for (const [i, output] of node.outputs.entries()) Object.assign(output, claims[i]);
    expect(contradictions(node, computed)).toEqual([]);
    const fed = opCase.inputs.some((input) => input && !input.constant && /shape|target/.test(opCase.note));
    if (!DATA_DECIDES.has(opCase.op) && !fed) expect(isComplete(node)).toBe(true);

    const inputs = opCase.inputs.map((input) => input?.shape);
    const outputs = computedShapes(node, computed);
    if (terms) expect(axesAgree(terms, inputs, outputs)).toBe(true);
    const { macs, flops = 0 } = spec.cost({ node, inputs, outputs });
    expect(Number.isFinite(macs) && macs >= 0 && Number.isFinite(flops) && flops >= 0).toBe(true);
    if (spec.traits?.linear) expect(macs).toBeGreaterThan(0);

    const symbolic = withSymbols(opCase);
    expect(contradictions(symbolic.node, computed, symbolic.sizes)).toEqual([]);
  });

  const lowered = cases.filter((each) => specOf(nodeOf(each), each.opset)?.lower);
  it.each(lowered.map((each) => [`${each.op} (${each.opset}): ${each.note}`, each] as const))(
    "the lowered form equals the original: %s",
    async (_, opCase) => {
      expect(await loweredError(opCase)).toBeLessThan(LOWERED_TOLERANCE);
    },
  );

  it("would notice a wrong lowered form", async () => {
    for (const each of lowered.slice(0, 3)) expect(await loweredError(each, 1.001)).toBeGreaterThan(LOWERED_TOLERANCE);
  });

  it("would notice a wrong claim", async () => {
    const { model, node, feeds } = buildCase(cases.find((each) => each.op === "Conv") as OpCase);
    inferShapes(model);
    const computed = await runInEngine(await encodeModel(model), feeds);
    const [output] = node.outputs;
    if (!output?.shape) throw new Error("no shape");
    const honest = output.shape;
    output.shape = [...honest.slice(0, -1), 99];
    expect(contradictions(node, computed)).toHaveLength(1);
    output.shape = honest;
    output.dtype = "float64";
    expect(contradictions(node, computed)).toHaveLength(1);
  });

  it("has a case for every record", () => {
    const covered = new Set(cases.map((each) => (each.domain ? `${each.domain}::${each.op}` : each.op)));
    const missing = knownOperators().filter(
      (name) => !covered.has(name) && NO_CASE[name] === undefined && !/Sequence|^Optional/.test(name),
    );
    // Sequences and optionals are not one tensor; there is no claim to check.
    expect(missing).toEqual([]);
  });
});
