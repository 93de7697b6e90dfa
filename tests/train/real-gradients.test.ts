/** The gradient of every real model's weights against central differences; what has no gradient is printed with the reason. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { loadFile } from "../../src/ir/load.node.ts";
import { convertOpset } from "../../src/transform/opset.ts";
import { type CheckOptions, checkModelGradient } from "../support/model-gradient.ts";
import { describeWithData } from "../support/shared-data.ts";

/**
 * Central differences of whole networks in float32 are worth three digits at best: rounding of 1e-7 of the output over a step
 * of 1e-3, and the kinks of thousands of Relus, which show as doubt. A wrong rule anywhere is off by tens of percent along a random direction.
 */
const TOLERANCE = 0.02;

/** A difference whose steps disagree by more than this proves nothing; few tensors may be so. */
const DOUBTFUL = 0.02;

/** What cannot have a gradient, and why. */
const WITHOUT: Readonly<Record<string, RegExp>> = {
  "shufflenet-v2-int8.onnx": /QLinear/, // integer arithmetic throughout
  "qonnx-tfc-2w2a.onnx": /Quant|custom|opset|domain/, // custom domain, not an operator of ONNX Runtime
  "squeezenet1.1-fp16.onnx": /no float32 value/, // stored in half precision: trained in float32
  "tiny-random-llama-fp16/model.onnx": /no float32 value/,
  "stories260k/decoder_with_past.onnx": /Range/, // the engine refuses the model itself once its past is fixed to none
  // The branch that is not taken has sizes that the engine refuses once its LSTM is written out.
  "silero-vad.onnx": /refused the model/,
};

const DIMS: Readonly<Record<string, CheckOptions>> = {
  "punctuation-restorer.onnx": { dims: { unk__3070: 6 } },
  "swift-f0.onnx": { output: "confidence" },
};

const rows: string[] = [];
afterAll(() => console.log(rows.sort().join("\n")));

describeWithData("gradients of real models", "models", (models) => {
  const files = (readdirSync(models, { recursive: true }) as string[]).filter((file) => file.endsWith(".onnx"));
  for (const file of files)
    test(file, { timeout: 180_000 }, async () => {
      const model = await loadFile(join(models, file));
      let checked: Awaited<ReturnType<typeof checkModelGradient>>;
      try {
        // Files before opset 11 are raised first, as the error of a gradient asks.
        if (model.opset < 11) convertOpset(model, 13);
        checked = await checkModelGradient(model, DIMS[file]);
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        rows.push(`${file}: no gradient: ${message}`);
        expect(message).toMatch(WITHOUT[file] ?? /^$/);
        return;
      }
      const sure = checked.checked.filter(({ doubt }) => doubt < DOUBTFUL);
      const worst = Math.max(...sure.map(({ error }) => error));
      rows.push(
        `${file}: ${checked.nodes.forward} nodes, gradient ${checked.nodes.gradient}; ${sure.length} of ${checked.checked.length} tensors checked, worst ${worst.toExponential(1)}`,
      );
      for (const { name, error, doubt } of sure)
        expect(error, `${name} (doubt ${doubt})`).toBeLessThan(TOLERANCE + 3 * doubt);
      expect(sure.length).toBeGreaterThanOrEqual(Math.ceil(checked.checked.length / 2));
    });

  test("a gradient off by a tenth is caught", async () => {
    const model = await loadFile(join(models, "lenet5-mnist.onnx"));
    const { checked } = await checkModelGradient(model, {
      corrupt: (gradient) => {
        for (const [i, value] of gradient.entries()) gradient[i] = value * 1.1;
      },
    });
    expect(Math.max(...checked.map(({ error }) => error))).toBeGreaterThan(2 * TOLERANCE);
  });
});
