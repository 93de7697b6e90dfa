/** Constants that a loop carries unchanged are captured by its body; what changes on the way, or leaves, is carried on. */
import { describe, expect, it } from "vitest";
import { checkModel } from "../../src/ir/check.ts";
import type { Model } from "../../src/ir/model.ts";
import { parseModel } from "../../src/ir/text-parse.ts";
import { captureInvariants } from "../../src/transform/loop-invariants.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";

/** h ← tanh(h·W + b) three times, W carried as TensorFlow's exporters do; b doubles each time. */
const model = (outputs: string): Model =>
  parseModel(`<ir_version: 8, opset_import: ["": 16]>
g (float32[1,2] x) => (${outputs})
<int64[] trips = {3}, bool[] go = {1}, float32[2,2] w = {0.5, -1, 2, 0.25}, float32[1,2] b = {0.125, -0.5}> {
  h, last, same = Loop <
    body: graph = step (int64[] i, bool[] c, float32[1,2] h0, float32[1,2] b0, float32[2,2] w0) => (bool[] c1, float32[1,2] h1, float32[1,2] b1, float32[2,2] w0) {
      c1 = Identity (c)
      p = MatMul (h0, w0)
      s = Add (p, b0)
      h1 = Tanh (s)
      b1 = Add (b0, b0)
    }
  > (trips, go, x, b, w)
  y = MatMul (h, same)
}`);

describe("a constant that a loop carries", () => {
  it("is captured, and what reads it behind the loop reads it itself", async () => {
    const after = model("float32[1,2] y, float32[1,2] last");
    expect(captureInvariants(after)).toEqual(["w"]);
    const loop = after.graph.nodes[0];
    expect([loop?.inputs.length, loop?.outputs.length]).toEqual([4, 2]);
    const w = after.graph.find("w");
    expect(w?.uses.map(({ node }) => node.opType)).toEqual(["MatMul", "MatMul"]);
    expect(checkModel(after).filter(({ severity }) => severity === "error")).toEqual([]);
    const before = model("float32[1,2] y, float32[1,2] last");
    expect(worstError(await runOnSynthetic(before), await runOnSynthetic(after))).toBe(0);
  });

  it("stays where the model returns it", () => {
    const after = model("float32[1,2] y, float32[2,2] same");
    expect(captureInvariants(after)).toEqual([]);
    expect(after.graph.nodes[0]?.inputs.length).toBe(5);
  });
});
