/** The lossless and the nearly lossless techniques on every real network: outputs stay, nothing becomes NaN, files do not grow. */
import { describe, expect, it } from "vitest";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { encodeModel } from "../../src/ir/encode.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { simplify } from "../../src/techniques/simplify/simplify.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { describeWithData } from "../support/shared-data.ts";

/** Custom operators that the engine does not know, and inputs that synthetic data cannot guess. */
const NOT_RUN = new Set(["qonnx-tfc-2w2a.onnx", "silero-vad.onnx"]);

describeWithData("simplify on real networks", "models", (folder) => {
  describe("outputs", () => {
    it.each(readdirSync(folder).filter((file) => file.endsWith(".onnx") && !NOT_RUN.has(file)))("%s", async (file) => {
      const before = await loadFile(join(folder, file));
      const { model } = await runTechnique(simplify, before);
      // Folding changes the order of float operations only.
      expect(worstError(await runOnSynthetic(before), await runOnSynthetic(model))).toBeLessThan(1e-3);
      expect((await encodeModel(model)).length).toBeLessThanOrEqual((await encodeModel(before)).length + 64);
    });
  });
});
