import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { PareError } from "../../src/base/error.ts";
import { float } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { checkModel } from "../../src/ir/check.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Graph } from "../../src/ir/graph.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { NEWEST_OPSET, convertOpset } from "../../src/transform/opset.ts";
import { bits, runOnSynthetic, worstError } from "../support/run-model.ts";
import { describeWithData } from "../support/shared-data.ts";

/** A model of one operator over `x`, of the opset in which its old form was current. */
function single(opset: number, build: (b: Builder, x: Value) => Value | readonly Value[], shape = [2, 3, 4, 6]): Model {
  const model = new Model(new Graph("g"), opset, opset < 9 ? 3 : 8);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", shape);
  for (const output of [build(b, x)].flat()) {
    output.dtype ??= "float32";
    b.output(output);
  }
  return model;
}

const OLD_FORMS: Readonly<Record<string, Model>> = {
  "Clip 6": single(7, (b, x) => b.op("Clip", [x], { attributes: { min: float(-0.5), max: float(0.25) } })),
  "Clip 6, one bound": single(7, (b, x) => b.op("Clip", [x], { attributes: { max: float(0.25) } })),
  "Pad 2": single(7, (b, x) => b.op("Pad", [x], { attributes: { pads: [0, 0, 1, 2, 0, 0, 3, 0], value: float(1.5) } })),
  "Pad 2 reflect": single(7, (b, x) =>
    b.op("Pad", [x], { attributes: { pads: [0, 0, 1, 2, 0, 0, 3, 0], mode: "reflect" } }),
  ),
  "Slice 1": single(7, (b, x) => b.op("Slice", [x], { attributes: { starts: [0, 1], ends: [1, -1] } })),
  "Squeeze 1": single(7, (b, x) => b.op("Squeeze", [x], { attributes: { axes: [0] } }), [1, 3, 4]),
  "Unsqueeze 1": single(7, (b, x) => b.op("Unsqueeze", [x], { attributes: { axes: [0, 2] } })),
  "ReduceSum 1": single(7, (b, x) => b.op("ReduceSum", [x], { attributes: { axes: [1, 3], keepdims: 0 } })),
  "ReduceMean 1": single(7, (b, x) => b.op("ReduceMean", [x], { attributes: { axes: [2] } })),
  "ReduceMax 1, all axes": single(7, (b, x) => b.op("ReduceMax", [x])),
  "Softmax 1 in the middle": single(7, (b, x) => b.op("Softmax", [x], { attributes: { axis: 2 } })),
  "Softmax 1 default": single(7, (b, x) => b.op("Softmax", [x])),
  "LogSoftmax 11 last": single(11, (b, x) => b.op("LogSoftmax", [x], { attributes: { axis: 3 } })),
  "Split 2": single(7, (b, x) => b.ops("Split", [x], { attributes: { axis: 3, split: [1, 5] }, outputs: 2 })),
  "Split 2, equal": single(7, (b, x) => b.ops("Split", [x], { attributes: { axis: 3 }, outputs: 3 })),
  "Dropout 7": single(7, (b, x) => b.op("Dropout", [x], { attributes: { ratio: float(0.3) } })),
  "TopK 1": single(7, (b, x) => b.op("TopK", [x], { attributes: { k: 2 }, outputs: 2 })),
  "Upsample 7": single(7, (b, x) => b.op("Upsample", [x], { attributes: { scales: [1, 1, 2, 3] } })),
  "Upsample 9 linear": single(9, (b, x) =>
    b.op("Upsample", [x, b.constant("s", Tensor.float32([4], [1, 1, 2, 2]))], { attributes: { mode: "linear" } }),
  ),
  "Resize 10 shrinking": single(10, (b, x) =>
    b.op("Resize", [x, b.constant("s", Tensor.float32([4], [1, 1, 0.5, 0.5]))]),
  ),
  "BatchNormalization 7": single(7, (b, x) =>
    b.op("BatchNormalization", [
      x,
      ...["scale", "bias", "mean", "variance"].map((name, i) => b.constant(name, Tensor.float32([3], [1 + i, 2, 3]))),
    ]),
  ),
  "GroupNormalization 18": single(
    18,
    (b, x) =>
      b.op(
        "GroupNormalization",
        [x, b.constant("s", Tensor.float32([2], [1, 2])), b.constant("c", Tensor.float32([2], [0, 5]))],
        { attributes: { num_groups: 2 } },
      ),
    [2, 4, 3, 3],
  ),
};
// Upsample's scales are floats even where they are whole.
for (const node of (OLD_FORMS["Upsample 7"] as Model).graph.nodes)
  node.attributes.set("scales", { type: "floats", value: [1, 1, 2, 3] });

describe("convertOpset", () => {
  for (const [name, model] of Object.entries(OLD_FORMS))
    it(`keeps what ${name} computes`, async () => {
      const before = bits(await runOnSynthetic(await encodeModel(model), { optimize: "none" }));
      const target = name.startsWith("GroupNormalization") ? 21 : NEWEST_OPSET;
      const converted = cloneModel(model);
      const changes = convertOpset(converted, target);
      expect(converted.opset).toBe(target);
      expect(changes.length).toBeGreaterThan(0);
      expect(checkModel(converted)).toEqual([]);
      expect(bits(await runOnSynthetic(await encodeModel(converted), { optimize: "none" }))).toEqual(before);
    });

  it("would be noticed if it did nothing: the old form under the new opset fails or differs", async () => {
    const model = cloneModel(OLD_FORMS["Softmax 1 in the middle"] as Model);
    const before = bits(await runOnSynthetic(await encodeModel(model)));
    model.opsets.set("", 13);
    expect(bits(await runOnSynthetic(await encodeModel(model)))).not.toEqual(before);
  });

  it("converts inside subgraphs", () => {
    const model = new Model(new Graph("g"), 11, 6);
    const b = new Builder(model.graph);
    const condition = b.input("c", "bool", []);
    const x = b.input("x", "float32", [1, 4]);
    const branch = (): Graph => {
      const inner = new Graph("branch", model.graph);
      const ib = new Builder(inner);
      ib.output(ib.op("Squeeze", [x], { attributes: { axes: [0] } }));
      return inner;
    };
    const attributes = {
      then_branch: { type: "graph", value: branch() },
      else_branch: { type: "graph", value: branch() },
    } as const;
    b.output(b.op("If", [condition], { attributes }));
    expect(convertOpset(model, 13)).toHaveLength(2);
    for (const node of model.graph.allNodes()) if (node.opType === "Squeeze") expect(node.inputs).toHaveLength(2);
    expect(checkModel(model)).toEqual([]);
  });

  it("names what cannot be converted and leaves the model as it was", () => {
    const model = single(7, (b, x) =>
      b.op("BatchNormalization", [x, x, x, x, x], { attributes: { spatial: 0 }, name: "odd" }),
    );
    expect(() => convertOpset(model, 13)).toThrow(/'odd'.*spatial/);
    expect(model.opset).toBe(7);
    expect(model.graph.nodes[0]?.attributes.has("spatial")).toBe(true);
  });

  it("refuses to go back, and beyond what it knows", () => {
    const model = new Model(new Graph("g"), 13, 8);
    for (const target of [12, NEWEST_OPSET + 1, 13.5]) {
      expect(() => convertOpset(model, target)).toThrow(PareError);
    }
    expect(convertOpset(model, 13)).toEqual([]);
  });

  it("makes initializers constants when IR version 3, where they had to be inputs, is left", () => {
    const model = single(7, (b, x) => b.op("Add", [x, b.constant("w", Tensor.float32([6], [1, 2, 3, 4, 5, 6]))]));
    model.graph.inputs.push(model.graph.initializers.get("w") as Value);
    convertOpset(model, 13);
    expect(model.irVersion).toBe(7);
    expect(model.graph.inputs.map(({ name }) => name)).toEqual(["x"]);
  });
});

describeWithData("convertOpset on real models", "models", (folder) => {
  const files = (readdirSync(folder, { recursive: true }) as string[]).filter((file) => file.endsWith(".onnx"));
  // qonnx imports no opset for its custom operators: the engine does not load it before or after.
  for (const file of files.filter((name) => !name.includes("qonnx")))
    it(`${file} computes the same in opset ${NEWEST_OPSET}`, async () => {
      const model = await loadFile(join(folder, file));
      // Without the engine's own fusions, which depend on the form of the graph. Kernels of old and new opsets may still
      // round the last bit differently: of Softmax and AveragePool the engine has several.
      const before = await runOnSynthetic(await encodeModel(model), { like: model, optimize: "none" });
      convertOpset(model, NEWEST_OPSET);
      expect(checkModel(model).filter(({ severity }) => severity === "error")).toEqual([]);
      const after = await runOnSynthetic(await encodeModel(model), { like: model, optimize: "none" });
      expect(worstError(before, after)).toBeLessThan(Object.values(before)[0]?.dtype === "float16" ? 2e-3 : 1e-5);
    });
});
