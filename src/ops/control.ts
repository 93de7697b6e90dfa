/** Control flow: If, Loop and Scan. Their bodies are inferred with the types that flow in. */
import type { Dim } from "../base/shape.ts";
import type { Node, Value } from "../ir/graph.ts";
import { FREE, type OpTable, contentsOf } from "./helpers.ts";
import { lowerIf, lowerLoop, lowerScan } from "./lowered/control.ts";
import type { Carried, Infer, InferContext, OpSpec, ValueType } from "./spec.ts";

/** What two types have in common: sizes that differ are unknown. */
function common(a: ValueType | undefined, b: ValueType | undefined): ValueType {
  const shape =
    a?.shape && b?.shape && a.shape.length === b.shape.length
      ? a.shape.map((dim, i): Dim => (dim === b.shape?.[i] ? dim : null))
      : undefined;
  const contents =
    a?.contents && b?.contents && a.contents.length === b.contents.length
      ? a.contents.map((x, i) => (x === b.contents?.[i] ? x : null))
      : undefined;
  return { dtype: a?.dtype === b?.dtype ? a?.dtype : undefined, shape, ...(contents && shape ? { contents } : {}) };
}

/** The branch that will be taken where the condition is known; else what both branches agree on. */
const ifInfer: Infer = (context) => {
  const condition = contentsOf(context, 0)?.[0];
  const then = context.inferSubgraph("then_branch");
  const otherwise = context.inferSubgraph("else_branch");
  if (typeof condition === "number") return condition ? then : otherwise;
  return context.node.outputs.map((_, i) => common(then[i], otherwise[i]));
};

/** Types carried around a loop: widened until the body leaves them as they are. */
function fixpoint(
  first: readonly ValueType[],
  body: (carried: readonly ValueType[]) => readonly ValueType[],
): { carried: readonly ValueType[]; outputs: readonly ValueType[] } {
  let carried = first.map(({ dtype, shape }) => ({ dtype, shape }));
  for (let round = 0; round < 4; round++) {
    const outputs = body(carried);
    const next = carried.map((type, i) => {
      const { dtype, shape } = common(type, outputs[i]);
      return { dtype: dtype ?? type.dtype, shape };
    });
    if (JSON.stringify(next) === JSON.stringify(carried)) return { carried, outputs };
    carried = next;
  }
  const unknown = first.map(({ dtype }) => ({ dtype, shape: undefined }));
  return { carried: unknown, outputs: body(unknown) };
}

/** Body: (iteration, condition, carried…) to (condition, carried…, scanned…); scanned outputs are stacked. */
const loopInfer: Infer = (context) => {
  const first = context.node.inputs
    .slice(2)
    .map((_, i) => context.inputs[i + 2] ?? { dtype: undefined, shape: undefined });
  // The body runs only while the condition is true.
  const scalars: ValueType[] = [
    { dtype: "int64", shape: [] },
    { dtype: "bool", shape: [], contents: [1] },
  ];
  let goesOn = false;
  const { carried, outputs } = fixpoint(first, (types) => {
    const [condition, ...rest] = context.inferSubgraph("body", [...scalars, ...types]);
    goesOn = condition?.contents?.[0] === 1;
    return rest;
  });
  const length = tripCount(context, goesOn);
  const scanned = outputs
    .slice(first.length)
    .map(({ dtype, shape }) => ({ dtype, shape: shape && [length, ...shape] }));
  return [...carried, ...scanned];
};

/** The number of iterations where nothing can end the loop early, or where it can run once at most. */
function tripCount(context: InferContext, goesOn: boolean): Dim {
  const most = contentsOf(context, 0)?.[0] ?? null;
  const starts = context.node.inputs[1] ? contentsOf(context, 1)?.[0] : 1;
  if (starts === 0) return 0;
  if (starts !== 1 || !(goesOn || most === 0 || most === 1)) return null;
  return typeof most === "number" ? Math.max(0, most) : most;
}

/** Body: (state…, one element of each scanned input) to (state…, one element of each scanned output). */
const scanInfer: Infer = (context) => {
  const { node } = context;
  const scans = node.int("num_scan_inputs", 1);
  const states = node.inputs.length - scans;
  if (context.opset < 9) return [];
  const axes = node.ints("scan_input_axes") ?? [];
  let length: Dim = null;
  const elements = context.inputs.slice(states).map((type, i): ValueType => {
    const shape = type?.shape;
    const axis = shape ? ((axes[i] ?? 0) + shape.length) % shape.length : 0;
    length ??= shape?.[axis] ?? null;
    return { dtype: type?.dtype, shape: shape?.filter((_, at) => at !== axis) };
  });
  const first = context.inputs.slice(0, states).map((type) => type ?? { dtype: undefined, shape: undefined });
  const { carried, outputs } = fixpoint(first, (types) => context.inferSubgraph("body", [...types, ...elements]));
  const outAxes = node.ints("scan_output_axes") ?? [];
  const scanned = outputs.slice(states).map(({ dtype, shape }, i): ValueType => {
    if (!shape) return { dtype, shape: undefined };
    const axis = ((outAxes[i] ?? 0) + shape.length + 1) % (shape.length + 1);
    return { dtype, shape: [...shape.slice(0, axis), length, ...shape.slice(axis)] };
  });
  return [...carried, ...scanned];
};

/** Inputs behind the count and the condition go round; outputs behind those are stacked. */
const loopCarries = (node: Node): readonly Carried[] => {
  const count = Math.max(0, node.inputs.length - 2);
  return node.outputs.map(
    (_, i): Carried =>
      i < count
        ? { input: i + 2, bodyInput: i + 2, bodyOutput: i + 1, output: i }
        : { bodyOutput: i + 1, output: i, axis: 0 },
  );
};

/** States go round; scanned inputs are taken apart, scanned outputs stacked. Axes are counted from the front in the records. */
const scanCarries = (node: Node): readonly Carried[] => {
  const scans = node.int("num_scan_inputs", 1);
  const states = node.inputs.length - scans;
  const [axes, outAxes] = [node.ints("scan_input_axes") ?? [], node.ints("scan_output_axes") ?? []];
  const front = (axis: number, value: Value | undefined): number =>
    axis < 0 ? axis + (value?.shape?.length ?? 0) : axis;
  return [
    ...Array.from({ length: states }, (_, i) => ({ input: i, bodyInput: i, bodyOutput: i, output: i })),
    ...Array.from({ length: scans }, (_, i) => {
      const input = states + i;
      return { input, bodyInput: input, axis: front(axes[i] ?? 0, node.inputs[input]) };
    }),
    ...node.outputs.slice(states).map((value, i) => ({
      bodyOutput: states + i,
      output: states + i,
      axis: front(outAxes[i] ?? 0, value),
    })),
  ];
};

/** Work lies in the bodies; who sums costs walks into them. */
function controlOf(since: number, infer: Infer, grad: OpSpec["grad"], rest: Partial<OpSpec> = {}): OpSpec {
  return { since, infer, cost: FREE, axes: "opaque", grad, ...rest };
}

export const control: OpTable = {
  If: controlOf(1, ifInfer, "branches", { lower: lowerIf }),
  Loop: controlOf(1, loopInfer, "lower", { lower: lowerLoop, carries: loopCarries }),
  Scan: controlOf(8, scanInfer, "lower", { lower: lowerScan, carries: scanCarries }),
};
