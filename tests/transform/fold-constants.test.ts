/** What depends on constants alone is computed once and stored once, unless that takes more bytes. */
import { describe, expect, it } from "vitest";
import type { Model } from "../../src/ir/model.ts";
import { parseModel } from "../../src/ir/text-parse.ts";
import { evaluateConstants } from "../../src/run/fold.node.ts";
import { foldConstants } from "../../src/transform/fold-constants.ts";
import { removeDead } from "../../src/transform/remove-dead.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";

/** Both branches swap the halves of a table of 512 bytes; `other` names what the second one swaps. */
const model = (other: string): Model =>
  parseModel(`<ir_version: 8, opset_import: ["": 16]>
g (float32[1,8] x) => (float32[1,16] y)
<float32[8,16] table = {${Array.from({ length: 128 }, (_, i) => i / 8).join(", ")}}, float32[8,16] rest = {${Array.from({ length: 128 }, (_, i) => -i).join(", ")}},
 int64[1] zero = {0}, int64[1] four = {4}, int64[1] eight = {8}> {
  total = ReduceSum <keepdims: int = 0> (x)
  bound = Constant <value_float: float = 3> ()
  large = Greater (total, bound)
  y = If <
    then_branch: graph = first () => (float32[1,16] a) {
      a1 = Slice (table, four, eight)
      a2 = Slice (table, zero, four)
      a3 = Concat <axis: int = 0> (a1, a2)
      a = MatMul (x, a3)
    },
    else_branch: graph = second () => (float32[1,16] b) {
      b1 = Slice (${other}, four, eight)
      b2 = Slice (${other}, zero, four)
      b3 = Concat <axis: int = 0> (b1, b2)
      b4 = Neg (x)
      b = MatMul (b4, b3)
    }
  > (large)
}`);

const fold = (of: Model): ReturnType<typeof foldConstants> =>
  foldConstants(of, { evaluate: evaluateConstants, growthBytes: 0 });

describe("constants inside of branches", () => {
  it.each([
    ["table", 1],
    ["rest", 2],
  ])("equal ones are stored once, where both branches see them: %s", async (other, constants) => {
    const before = model(other);
    const after = model(other);
    const { nodes, skipped } = await fold(after);
    expect([nodes, skipped]).toEqual([6, []]);
    removeDead(after);
    const large = [...after.graph.allGraphs()].flatMap((graph) =>
      [...graph.initializers.values()].filter(({ tensor }) => (tensor?.elements ?? 0) === 128).map(() => graph.name),
    );
    expect(large.length).toBe(constants);
    expect(large.includes("g")).toBe(constants === 1);
    expect(worstError(await runOnSynthetic(before), await runOnSynthetic(after))).toBe(0);
  });

  it("stay where the constants behind them are needed as they are", async () => {
    const kept = model("table");
    // Somebody else reads the table
    const [branch] = kept.graph.allGraphs();
    branch?.outputs.push(kept.graph.find("table") as never);
    const { nodes, skipped } = await fold(kept);
    expect(nodes).toBe(0);
    expect(skipped.map(({ why }) => why)).toEqual(["the result has 512 bytes, more than what it replaces"]);
  });

  it("are left alone where they are not asked for", async () => {
    const asked = model("rest");
    const found = await foldConstants(asked, {
      evaluate: evaluateConstants,
      growthBytes: 0,
      only: ({ name }) => name === "b3",
    });
    expect(found).toEqual({ nodes: 3, skipped: [] });
  });
});
