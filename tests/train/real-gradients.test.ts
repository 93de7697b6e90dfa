/** The gradient of every real model's weights against central differences; what has no gradient is printed with the reason. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { loadFile } from "../../src/ir/load.node.ts";
import { liftConstants } from "../../src/transform/constants.ts";
import { type FixedInputs, fixInputs } from "../../src/transform/fix-inputs.ts";
import { convertOpset } from "../../src/transform/opset.ts";
import { type CheckOptions, checkModelGradient } from "../support/model-gradient.ts";
import { withFloats } from "../support/retype.ts";
import { describeWithData } from "../support/shared-data.ts";

/**
 * The differences are taken in double precision, along a random direction through all elements of a tensor, where they are worth
 * six digits and steps are too small to meet kinks; the gradient is what the engine computes in float32: 1e-7 to 1e-4 off, as
 * deep as the network is. A wrong rule anywhere is off by tens of percent along a random direction.
 */
const TOLERANCE = 2e-3;

/** Where an operator has no double-precision form, the differences are float32's and worth three digits at best. */
const SINGLE_TOLERANCE = 1e-2;

/** A difference whose steps disagree by more than this proves nothing; few tensors may be so. */
const DOUBTFUL = 1e-2;

/** Not float models. */
const INTEGER: ReadonlySet<string> = new Set(["shufflenet-v2-int8.onnx"]);

/** What cannot have a gradient, and why. */
const WITHOUT: Readonly<Record<string, RegExp>> = {
  "qonnx-tfc-2w2a.onnx": /Quant|custom|opset|domain/, // custom domain, not an operator of ONNX Runtime
};

/** One tensor of networks that take seconds for a value in double precision. */
const HEAVY: CheckOptions = { sample: 1 };

const OPTIONS: Readonly<Record<string, CheckOptions>> = {
  "punctuation-restorer.onnx": { dims: { unk__3070: 6 } },
  "swift-f0.onnx": { output: "confidence", exact: true },
  // On noise its probability is 0 or 1 to many digits: what is left of the gradient is rounding.
  "silero-vad.onnx": { output: "stateN" },
  // Its variances are E[x²] − E[x]², which leaves few digits in float32.
  "magika-v3.3.onnx": { exact: true },
  // The engine refuses to infer the scalars of its Range where every size is known.
  "stories260k/decoder_with_past.onnx": { open: true, dims: { past: 3, seq: 4 } },
  ...Object.fromEntries(
    [
      "basic-pitch",
      "fastestdet",
      "mcunet-imagenet",
      "mobilenetv1-0.25-vww",
      "mobilenetv2-imagenet",
      "squeezenet1.1-fp16",
    ]
      .concat(["squeezenet1.1-imagenet", "super-resolution", "ultraface-rfb-320", "vittrack", "yolox-nano"])
      .map((name) => [`${name}.onnx`, HEAVY]),
  ),
};

/** One branch for each sample rate, with the samples and context that the model takes at that rate. */
const FIXED: Readonly<Record<string, readonly FixedInputs[]>> = {
  "silero-vad.onnx": [
    { values: { sr: [16000] }, shapes: { input: [1, 576], state: [2, 1, 128] } },
    { values: { sr: [8000] }, shapes: { input: [1, 288], state: [2, 1, 128] } },
  ],
};

const rows: string[] = [];
afterAll(() => console.log(rows.sort().join("\n")));

describeWithData("gradients of real models", "models", (models) => {
  const files = (readdirSync(models, { recursive: true }) as string[]).filter((file) => file.endsWith(".onnx"));
  const cases = files.flatMap((file) => (FIXED[file] ?? [undefined]).map((fixed) => ({ file, fixed })));
  for (const { file, fixed } of cases)
    test(fixed ? `${file} ${JSON.stringify(fixed.values)}` : file, { timeout: 180_000 }, async () => {
      if (INTEGER.has(file)) {
        rows.push(`${file}: integer arithmetic throughout`);
        return;
      }
      const loaded = await loadFile(join(models, file));
      let checked: Awaited<ReturnType<typeof checkModelGradient>>;
      try {
        // Files before opset 11 are raised first, as the error of a gradient asks.
        if (loaded.opset < 11) convertOpset(loaded, 13);
        if (fixed) {
          expect(fixInputs(loaded, fixed)).toBeGreaterThan(0);
          liftConstants(loaded);
        }
        // Half precision is trained in float32.
        const model = file.includes("fp16") ? await withFloats(loaded, "float16", "float32") : loaded;
        checked = await checkModelGradient(model, OPTIONS[file]);
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        rows.push(`${file}: no gradient: ${message}`);
        expect(message).toMatch(WITHOUT[file] ?? /^$/);
        return;
      }
      const sure = checked.checked.filter(({ doubt }) => doubt < DOUBTFUL);
      const worst = Math.max(...sure.map(({ error }) => error));
      rows.push(
        `${file}: ${checked.nodes.forward} nodes, gradient ${checked.nodes.gradient}; ${sure.length} of ${checked.checked.length} tensors checked, worst ${worst.toExponential(1)}${checked.single.length > 0 ? `, single precision in ${checked.single.join(", ")}` : ""}`,
      );
      const tolerance = checked.single.length > 0 ? SINGLE_TOLERANCE : TOLERANCE;
      for (const { name, error, doubt } of sure)
        expect(error, `${name} (doubt ${doubt})`).toBeLessThan(tolerance + doubt);
      expect(sure.length).toBeGreaterThanOrEqual(Math.ceil(checked.checked.length / 2));
    });

  test("a gradient off by a tenth is caught", async () => {
    const model = await loadFile(join(models, "lenet5-mnist.onnx"));
    const { checked } = await checkModelGradient(model, {
      corrupt: (gradient) => {
        for (const [i, value] of gradient.entries()) gradient[i] = value * 1.1;
      },
    });
    expect(Math.max(...checked.map(({ error }) => error))).toBeGreaterThan(5 * TOLERANCE);
  });
});
