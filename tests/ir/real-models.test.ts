import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { cloneModel } from "../../src/ir/clone.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { load } from "../../src/ir/load.ts";
import { saveFile } from "../../src/ir/save.node.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { parseModel } from "../../src/ir/text-parse.ts";
import { printModel } from "../../src/ir/text-print.ts";
import { bits, runOnSynthetic } from "../support/run-model.ts";
import { describeWithData } from "../support/shared-data.ts";

const folder = mkdtempSync(join(tmpdir(), "pare-real-models-"));
afterAll(() => rmSync(folder, { recursive: true }));

describeWithData("real models", "models", (models) => {
  const files = (readdirSync(models, { recursive: true }) as string[]).filter((file) => file.endsWith(".onnx"));

  for (const [index, file] of files.entries()) {
    // Its custom operators have no opset import: the engine does not load it.
    const runs = !file.includes("qonnx");

    it(`${file} loads, prints, parses, saves and computes the same bits`, async () => {
      const model = await loadFile(join(models, file));
      const bytes = await encodeModel(model);
      const text = await printModel(model);
      const parsed = parseModel(text);
      expect((await printModel(parsed)) === text).toBe(true);
      expect(Buffer.compare(await encodeModel(await load(bytes)), bytes)).toBe(0);
      expect(Buffer.compare(await encodeModel(cloneModel(model)), bytes)).toBe(0);

      const inline = join(folder, `${index}.onnx`);
      const split = join(folder, `${index}-split.onnx`);
      await saveFile(model, inline);
      const saved = await saveFile(parsed, split, { externalDataThreshold: 0 });
      expect(saved.files).toHaveLength(2);
      expect(Buffer.compare(await encodeModel(await loadFile(split)), await encodeModel(parsed))).toBe(0);

      if (!runs) return;
      const before = bits(await runOnSynthetic(join(models, file), { like: model }));
      expect(Object.keys(before).length).toBeGreaterThan(0);
      expect(bits(await runOnSynthetic(inline, { like: model }))).toEqual(before);
      expect(bits(await runOnSynthetic(split, { like: model }))).toEqual(before);
    });
  }

  it("tells apart models whose weights differ in one bit", async () => {
    const model = await loadFile(join(models, "lenet5-mnist.onnx"));
    const before = bits(await runOnSynthetic(await encodeModel(model)));
    const bias = [...model.graph.initializers.values()].find((value) => value.tensor?.shape.join() === "10");
    if (!bias?.tensor) throw new Error("no bias of ten classes");
    const data = ((await bias.tensor.data()) as Float32Array).slice();
    data[3] = -(data[3] ?? 0);
    bias.tensor = Tensor.float32([10], data);
    expect(bits(await runOnSynthetic(await encodeModel(model)))).not.toEqual(before);
  });
});
