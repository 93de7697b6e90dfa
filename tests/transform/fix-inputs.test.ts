/** Inputs that get a value or a size once and for all, and the conditions that this decides. */
import { describe, expect, it } from "vitest";
import { checkModel } from "../../src/ir/check.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import { parseModel } from "../../src/ir/text-parse.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { Feeds } from "../../src/run/session.ts";
import { fixInputs } from "../../src/transform/fix-inputs.ts";
import { inlineBranches } from "../../src/transform/inline-branches.ts";

/** Doubles at a rate of 2, else adds the length of x; in the second branch another condition depends on a size. */
const TEXT = `<ir_version: 8, opset_import: ["": 16]>
g (float32[n] x, int64[] rate, float32[k] state) => (float32[m] y) {
  two = Constant <value_int: int = 2> ()
  is_two = Equal (rate, two)
  y = If <
    then_branch: graph = first () => (float32[m] doubled) { doubled = Add (x, x) },
    else_branch: graph = second () => (float32[m] moved) {
      size = Size (x)
      three = Constant <value_int: int = 3> ()
      short = Less (size, three)
      half = If <
        then_branch: graph = a () => (float32[m] kept) { kept = Identity (x) },
        else_branch: graph = b () => (float32[m] negated) { negated = Neg (x) }
      > (short)
      moved = Add (half, state)
    }
  > (is_two)
}`;

const model = (): Model => parseModel(TEXT);
const conditions = (of: Model): number => [...of.graph.allNodes()].filter(({ opType }) => opType === "If").length;

async function run(of: Model, feeds: Feeds): Promise<number[]> {
  expect(checkModel(of).filter(({ severity }) => severity === "error")).toEqual([]);
  const session = await openSession(of, { inProcess: true, threads: 1 });
  const { y } = await session.run(feeds);
  await session.close();
  return Array.from((y?.data ?? []) as Float32Array);
}

const floats = (...data: number[]): Feeds[string] => ({
  dtype: "float32",
  shape: [data.length],
  data: Float32Array.from(data),
});
const rate = (value: bigint): Feeds[string] => ({ dtype: "int64", shape: [], data: BigInt64Array.of(value) });

describe("a fixed input", () => {
  it("decides a condition; the result is that of the model fed with it", async () => {
    const fixed = model();
    expect(fixInputs(fixed, { values: { rate: [2] } })).toBe(1);
    expect(conditions(fixed)).toBe(0);
    expect(fixed.graph.inputs.map(({ name }) => name)).toEqual(["x", "state"]);
    const feeds = { x: floats(1, -2), state: floats(10) };
    expect(await run(fixed, feeds)).toEqual(await run(model(), { ...feeds, rate: rate(2n) }));
  });

  it("leaves a condition that depends on an open size, until that is fixed too", async () => {
    const open = model();
    expect(fixInputs(open, { values: { rate: [1], state: [10] }, shapes: { state: [1] } })).toBe(1);
    expect(conditions(open)).toBe(1);
    const closed = cloneModel(open);
    expect(fixInputs(closed, { shapes: { x: [4] } })).toBe(1);
    expect(conditions(closed)).toBe(0);
    const x = floats(1, -2, 3, 0.5);
    expect(await run(closed, { x })).toEqual([9, 12, 7, 9.5]);
    expect(await run(open, { x })).toEqual([9, 12, 7, 9.5]);
    expect(await run(open, { x: floats(1, -2) })).toEqual([11, 8]);
  });

  it("nothing known, nothing changes", () => {
    const same = model();
    expect(inlineBranches(same)).toBe(0);
    expect(conditions(same)).toBe(2);
  });

  it.each([
    [{ values: { rat: [2] } }, /no such input.*rat.*'rate'/s],
    [{ values: { rate: [2, 3] } }, /rate.*2 numbers.*1/s],
    [{ values: { rate: [0.5] } }, /rate.*0\.5.*whole/s],
    [{ values: { state: [1] } }, /state.*size/s],
    [{ shapes: { x: [2, 2] } }, /x.*\[2, 2\].*\[n\]/s],
    [{ shapes: { rate: [1] } }, /rate/],
  ])("%o is refused", (options, message) => {
    expect(() => fixInputs(model(), options)).toThrow(message);
  });
});
