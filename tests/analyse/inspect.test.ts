/** The inspection: its JSON shape, and that it reads no weights unless asked. */
import { describe, expect, it } from "vitest";
import { inspectText } from "../../src/analyse/inspect-text.ts";
import { inspect } from "../../src/analyse/inspect.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Graph } from "../../src/ir/graph.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { describeWithData } from "../support/shared-data.ts";

/** A layer whose weight counts how often it is read. */
function sample(): { model: Model; reads: () => number } {
  let reads = 0;
  const model = new Model(new Graph(), 17);
  model.producerName = "by hand";
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["batch", 2048]);
  const weight = Tensor.lazy("float32", [2048, 4], async () => {
    reads++;
    return new Uint8Array(Float32Array.from({ length: 8192 }, (_, i) => i % 2).buffer);
  });
  b.output(b.op("Relu", [b.op("MatMul", [x, b.constant("w", weight)], { name: "fc" })]), "y");
  return { model, reads: () => reads };
}

describe("inspect", () => {
  it("gives the documented shape", async () => {
    const { model } = sample();
    expect(await inspect(model, { path: "m.onnx", bytes: 40_000 })).toEqual({
      path: "m.onnx",
      bytes: 40_000,
      opset: 17,
      irVersion: 10,
      producer: "by hand",
      inputs: [{ name: "x", dtype: "float32", shape: ["batch", 2048] }],
      outputs: [{ name: "y", dtype: "float32", shape: ["batch", 4] }],
      nodes: 2,
      operators: { MatMul: 1, Relu: 1 },
      parameters: 8192,
      nonzero: null,
      macs: 8192,
      layers: [{ name: "fc", op: "MatMul", parameters: 8192, macs: 8192, bytes: 32_768, dtype: "float32" }],
    });
  });

  it("reads no weights unless zeros are to be counted", async () => {
    const { model, reads } = sample();
    await inspect(model);
    expect(reads()).toBe(0);
    expect((await inspect(model, { nonzero: true })).nonzero).toBe(4096);
    expect(reads()).toBeGreaterThan(0);
  });

  it("changes nothing", async () => {
    const { model } = sample();
    const before = model.graph.nodes.map((node) => node.outputs[0]?.shape);
    await inspect(model, { dims: { batch: 3 } });
    expect(model.graph.nodes.map((node) => node.outputs[0]?.shape)).toEqual(before);
  });

  it("reads well", async () => {
    const text = inspectText(await inspect(sample().model, { path: "m.onnx", nonzero: true }));
    expect(text.split("\n")).toEqual([
      "model      m.onnx",
      "bytes      32.77 kB",
      "format     opset 17, IR 10, from by hand",
      "input      x: float32 [batch, 2048]",
      "output     y: float32 [batch, 4]",
      "nodes      2: MatMul 1, Relu 1",
      "parameters 8,192, 4,096 not zero (50.0 % sparse)",
      "macs       8,192 for one sample",
      "",
      "layer  operator  dtype    parameters     bytes           macs",
      "fc     MatMul    float32        8192  32.77 kB  100.0 %  8192  100.0 %",
    ]);
  });
});

describeWithData("inspect real models", "models", (root) => {
  it("sums its layers, and JSON holds it all", async () => {
    const inspection = await inspect(await loadFile(`${root}/resnet20-cifar10.onnx`));
    expect(inspection.layers.reduce((sum, layer) => sum + layer.macs, 0)).toBe(inspection.macs);
    expect(inspection.layers.reduce((sum, layer) => sum + layer.parameters, 0)).toBe(inspection.parameters);
    expect(JSON.parse(JSON.stringify(inspection))).toEqual(inspection);
  });
});
