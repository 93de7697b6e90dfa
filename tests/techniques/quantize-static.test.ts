/** Static int8 models as the engine runs them: which kernels, and what it may leave in floating point. */
import { describe, expect, it, vi } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { feedChunks } from "../../src/run/feeds.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { optimizedGraph } from "../../src/run/optimized-graph.node.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { Reference } from "../../src/techniques/quantize/static/static-choice.ts";
import { convertOpset } from "../../src/transform/opset.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, unary } from "../support/small-models.ts";

/** Two residual blocks, the second with a strided slice and padded channels as its shortcut (ResNet's option A). */
function residualNet(): Model {
  return unary(
    "float32",
    ["n", 4, 8, 8],
    (b, x) => {
      const conv = (name: string, from: typeof x, i: number, o: number, stride = 1): typeof x =>
        b.op(
          "Conv",
          [
            from,
            b.constant(`${name}.w`, randomTensor([o, i, 3, 3], i + o, 0.3)),
            b.constant(`${name}.b`, randomTensor([o], o, 0.1)),
          ],
          {
            name,
            attributes: { pads: [1, 1, 1, 1], strides: [stride, stride] },
          },
        );
      const stem = b.op("Relu", [conv("stem", x, 4, 4)]);
      const first = b.op("Relu", [b.op("Add", [conv("a", stem, 4, 4), stem])]);
      const ints = (name: string, list: number[]): typeof x => b.constant(name, Tensor.int64(list));
      const half = b.op("Slice", [
        first,
        ints("starts", [0, 0]),
        ints("ends", [100, 100]),
        ints("axes", [2, 3]),
        ints("steps", [2, 2]),
      ]);
      const wide = b.op("Pad", [
        half,
        ints("pads", [0, 2, 0, 0, 0, 2, 0, 0]),
        b.constant("zero", Tensor.float32([], [0])),
      ]);
      const second = b.op("Relu", [b.op("Add", [conv("b", first, 4, 8, 2), wide])]);
      const flat = b.op("Flatten", [b.op("GlobalAveragePool", [second])]);
      return b.op("Gemm", [flat, b.constant("fc", randomTensor([8, 3], 5)), b.constant("fcb", randomTensor([3], 6))]);
    },
    { shape: ["n", 3] },
    17,
  );
}

function samples(): Dataset {
  const rng = new Rng(2);
  // Smooth images: with independent inputs, no rounding would be better than the nearest.
  let x = 0;
  const data = Float32Array.from(
    { length: 16 * 4 * 64 },
    (_, i) => (x = i % 64 === 0 ? rng.normal() : 0.9 * x + 0.3 * rng.normal()),
  );
  return datasetOf({ fields: { x: { dtype: "float32", shape: [16, 4, 8, 8], data } } });
}

async function outputs(model: Model, data = samples()): Promise<Float32Array> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  const batch = await data.take(Array.from({ length: data.size }, (_, i) => i));
  try {
    const [y] = Object.values(await session.run(feedChunks(session.inputs, batch)[0]?.feeds ?? {}));
    return y?.data as Float32Array;
  } finally {
    await session.close();
  }
}

/** A residual block between two convolutions; gives an image. */
function imageNet(): Model {
  return unary(
    "float32",
    ["n", 4, 8, 8],
    (b, x) => {
      const conv = (name: string, from: typeof x, i: number, o: number): typeof x =>
        b.op(
          "Conv",
          [
            from,
            b.constant(`${name}.w`, randomTensor([o, i, 3, 3], i + 2 * o, 0.2)),
            b.constant(`${name}.b`, randomTensor([o], o, 0.1)),
          ],
          {
            name,
            attributes: { pads: [1, 1, 1, 1] },
          },
        );
      const stem = b.op("Relu", [conv("stem", x, 4, 8)]);
      const sum = b.op("Add", [conv("b", b.op("Relu", [conv("a", stem, 8, 8)]), 8, 8), stem]);
      return conv("last", b.op("Relu", [sum]), 8, 4);
    },
    { shape: ["n", 4, 8, 8] },
    17,
  );
}

/** ‖ŷ − y‖/‖y‖. */
async function errorOf(model: Model, original = residualNet(), data = samples()): Promise<number> {
  const [wanted, got] = [await outputs(original, data), await outputs(model, data)];
  const norm = (list: Float32Array): number => Math.sqrt(list.reduce((sum, x) => sum + x * x, 0));
  return norm(wanted.map((y, i) => y - (got[i] ?? 0))) / norm(wanted);
}

describe("static int8", () => {
  it("runs everything between layers on int8: sums, rectifiers, slices and padding", async () => {
    const { model } = await runTechnique(quantize, residualNet(), { calibration: "min-max" }, samples());
    const { operators } = await optimizedGraph(model, { threads: 1, inProcess: true });
    expect(operators).toMatchObject({
      "com.microsoft::QLinearConv": 3,
      "com.microsoft::QLinearAdd": 2,
      "com.microsoft::QLinearGlobalAveragePool": 1,
      "com.microsoft::QGemm": 1,
      QuantizeLinear: 1, // of the input
    });
    for (const op of ["Conv", "Add", "Relu", "Gemm", "DequantizeLinear"]) expect(operators).not.toHaveProperty(op);
  });

  it("leaves kept layers between integer ones in floating point, though the engine would round their weights itself", async () => {
    const { model } = await runTechnique(quantize, imageNet(), { calibration: "min-max", keep: ["a"] }, samples());
    const { operators } = await optimizedGraph(model, { threads: 1, inProcess: true });
    expect(operators).toMatchObject({ "com.microsoft::QLinearConv": 3 });
    const all = await runTechnique(quantize, imageNet(), { calibration: "min-max" }, samples());
    expect((await optimizedGraph(all.model, { threads: 1, inProcess: true })).operators).toMatchObject({
      "com.microsoft::QLinearConv": 4,
    });
    expect(await errorOf(model, imageNet())).toBeLessThan(await errorOf(all.model, imageNet()));
  });

  it("rectifies the codes where the grid goes below zero, and keeps all on integers", async () => {
    const model = unary(
      "float32",
      ["n", 4, 8, 8],
      (b, x) => {
        const conv = (name: string, from: typeof x): typeof x =>
          b.op("Conv", [from, b.constant(`${name}.w`, randomTensor([4, 4, 1, 1], name.length, 0.5))], { name });
        // Both parts of a concatenation share a grid, and one has negative numbers.
        const both = b.op("Concat", [b.op("Relu", [conv("a", x)]), conv("bb", x)], { attributes: { axis: 1 } });
        return b.op("Conv", [both, b.constant("w", randomTensor([3, 8, 1, 1], 5))], { name: "last" });
      },
      { shape: ["n", 3, 8, 8] },
      17,
    );
    const result = await runTechnique(quantize, model, { calibration: "min-max" }, samples());
    const { operators } = await optimizedGraph(result.model, { threads: 1, inProcess: true });
    expect(operators).toMatchObject({ "com.microsoft::QLinearConv": 3, Clip: 1 });
    for (const op of ["Conv", "Relu"]) expect(operators).not.toHaveProperty(op);
    expect(await errorOf(result.model, model)).toBeLessThan(0.03); // 8 bits
  });
});

describe("fitting to the original", () => {
  const options = { calibration: "min-max", equalize: "never", balance: false };

  it("shifts biases so that the outputs come nearer", async () => {
    const plain = await runTechnique(quantize, residualNet(), { ...options, to: "int4", fit: "none" }, samples());
    const fitted = await runTechnique(quantize, residualNet(), { ...options, to: "int4", fit: "biases" }, samples());
    expect(await errorOf(fitted.model)).toBeLessThan(0.9 * (await errorOf(plain.model)));
  });

  it.each(["layers", "blocks"])(
    "learns the rounding of 4-bit weights, and keeps what lowers a part's error: %s",
    async (fit) => {
      const learned = { ...options, to: "int4", fit, iterations: 60 };
      const { journal } = await runTechnique(quantize, imageNet(), learned, samples());
      const left = /: (\d+) % of each part's error/.exec(journal.notes.join("\n"))?.[1];
      expect(Number(left)).toBeLessThan(97);
    },
    240_000,
  ); // a training session for every part

  describe("tuning against the outputs", () => {
    const narrow = { ...options, to: "int4", fit: "biases" };

    it.each([true, false])(
      "brings them nearer to the original's on integers still, tuneRounding %s",
      async (tuneRounding) => {
        const plain = await runTechnique(quantize, residualNet(), narrow, samples());
        const tuned = await runTechnique(
          quantize,
          residualNet(),
          { ...narrow, tuneSteps: 60, tuneRounding },
          samples(),
        );
        expect(await errorOf(tuned.model)).toBeLessThan(0.8 * (await errorOf(plain.model)));
        expect(tuned.journal.notes.join("\n")).toMatch(/Tuned against the outputs: they differ by/);
        const codes = async (model: Model): Promise<unknown[]> =>
          Promise.all(
            [...model.graph.initializers.values()]
              .filter(({ name }) => name.endsWith(".packed"))
              .map(async ({ tensor }) => tensor?.bytes()),
          );
        expect((await codes(plain.model)).length).toBe(4);
        if (tuneRounding) expect(await codes(tuned.model)).not.toEqual(await codes(plain.model));
        else expect(await codes(tuned.model)).toEqual(await codes(plain.model));
        const before = await optimizedGraph(plain.model, { threads: 1, inProcess: true });
        const after = await optimizedGraph(tuned.model, { threads: 1, inProcess: true });
        expect(after.operators).toEqual(before.operators);
      },
    );

    it("varies images, and gives the same again with the same seed", async () => {
      const varied = { ...narrow, tuneSteps: 5, flip: true, crop: 1 };
      const [once, again] = [
        await runTechnique(quantize, residualNet(), varied, samples()),
        await runTechnique(quantize, residualNet(), varied, samples()),
      ];
      const still = await runTechnique(quantize, residualNet(), { ...narrow, tuneSteps: 5 }, samples());
      expect(await outputs(again.model)).toEqual(await outputs(once.model));
      expect(await outputs(still.model)).not.toEqual(await outputs(once.model));
    });

    it("takes back, to the bit, what brings held-out samples no nearer, and says so", async () => {
      const error = vi.spyOn(Reference.prototype, "error");
      const plain = await runTechnique(quantize, residualNet(), narrow, samples());
      let calls = 0;
      error.mockImplementation(async () => ++calls);
      const { model, journal } = await runTechnique(quantize, residualNet(), { ...narrow, tuneSteps: 5 }, samples());
      error.mockRestore();
      expect(calls).toBe(2);
      expect(await outputs(model)).toEqual(await outputs(plain.model));
      const numbers = ({ graph }: Model): Promise<unknown[]> =>
        Promise.all([...graph.initializers.values()].map(async ({ name, tensor }) => [name, await tensor?.bytes()]));
      expect(await numbers(model)).toEqual(await numbers(plain.model));
      expect(journal.skipped.map(({ why }) => why)).toContain("samples that it did not learn from come out no better");
    });

    it("leaves the model as it was where an operator has no gradient, and says which", async () => {
      const model = unary(
        "float32",
        ["n", 4, 8, 8],
        (b, x) =>
          b.op("Hardmax", [b.op("Conv", [x, b.constant("w", randomTensor([3, 4, 8, 8], 1))])], {
            attributes: { axis: 1 },
          }),
        { shape: ["n", 3, 1, 1] },
        17,
      );
      const plain = await runTechnique(quantize, model, narrow, samples());
      const { model: result, journal } = await runTechnique(quantize, model, { ...narrow, tuneSteps: 5 }, samples());
      expect(await outputs(result)).toEqual(await outputs(plain.model));
      expect(journal.skipped).toContainEqual({
        what: "tuning against the outputs",
        why: expect.stringMatching(/Hardmax has no gradient/),
      });
    });
  });

  describe("learned rounding of one layer", () => {
    const [INPUTS, OUTPUTS, SAMPLES] = [8, 3, 64];
    /** Inputs that move together, so that errors of neighbouring weights can cancel. */
    const inputs = (): Float32Array => {
      const rng = new Rng(5);
      return Float32Array.from({ length: SAMPLES }, () => rng.normal()).reduce(
        (all, common, row) => {
          for (let i = 0; i < INPUTS; i++) all[row * INPUTS + i] = common + 0.2 * rng.normal();
          return all;
        },
        new Float32Array(SAMPLES * INPUTS),
      );
    };
    const layer = (): Model =>
      unary(
        "float32",
        ["n", INPUTS],
        (b, x) =>
          b.op("Gemm", [x, b.constant("w", randomTensor([OUTPUTS, INPUTS], 4, 0.3))], {
            name: "fc",
            attributes: { transB: 1 },
          }),
        { shape: ["n", OUTPUTS] },
        17,
      );
    const fitted = async (
      fit: string,
      iterations = 300,
    ): Promise<{ codes: Int8Array; scales: Float32Array; step: number; zero: number }> => {
      const x = { dtype: "float32", shape: [SAMPLES, INPUTS], data: inputs() } as const;
      const { model } = await runTechnique(
        quantize,
        layer(),
        { ...options, to: "int4", fit, iterations },
        datasetOf({ fields: { x } }),
      );
      const packed = [...model.graph.initializers.values()].find(({ name }) => name.endsWith(".packed"));
      const bytes = (await packed?.tensor?.bytes()) as Uint8Array;
      const codes = Int8Array.from(
        { length: OUTPUTS * INPUTS },
        (_, i) => ((bytes[i >> 1] as number) << (i % 2 ? 24 : 28)) >> 28,
      );
      const gemm = model.graph.nodes.find(({ opType }) => opType === "Gemm");
      const scales = (await gemm?.inputs[1]?.producer?.inputs[1]?.tensor?.data()) as Float32Array;
      const [, step, zero] = model.graph.nodes.find(({ opType }) => opType === "QuantizeLinear")?.inputs ?? [];
      const number = async (value: typeof step): Promise<number> => Number((await value?.tensor?.data())?.[0]);
      return { codes, scales, step: await number(step), zero: await number(zero) };
    };

    it("comes near the best of all roundings, which nearest codes do not", async () => {
      const { codes: nearest, scales, step, zero } = await fitted("none");
      const learned = await fitted("layers");
      expect(learned.scales).toEqual(scales);
      const w = (await randomTensor([OUTPUTS, INPUTS], 4, 0.3).data()) as Float32Array;
      const x = inputs();
      const read = x.map((value) => (Math.min(255, Math.max(0, Math.round(value / step) + zero)) - zero) * step);
      /** Σ (Σ_i x̂_i·ŵ_i − x_i·w_i)² of an output. */
      const errorOfOutput = (o: number, codes: ArrayLike<number>): number => {
        let sum = 0;
        for (let row = 0; row < SAMPLES; row++) {
          let off = 0;
          for (let i = 0; i < INPUTS; i++) {
            const at = row * INPUTS + i;
            off += (read[at] ?? 0) * (codes[i] ?? 0) * (scales[o] ?? 0) - (x[at] ?? 0) * (w[o * INPUTS + i] ?? 0);
          }
          sum += off * off;
        }
        return sum;
      };
      const total = (codes: Int8Array): number =>
        Array.from({ length: OUTPUTS }, (_, o) => errorOfOutput(o, codes.subarray(o * INPUTS))).reduce((a, b) => a + b);
      let best = 0;
      for (let o = 0; o < OUTPUTS; o++) {
        let least = Number.POSITIVE_INFINITY;
        for (let choice = 0; choice < 2 ** INPUTS; choice++) {
          const codes = Array.from({ length: INPUTS }, (_, i) =>
            Math.min(7, Math.max(-8, Math.floor((w[o * INPUTS + i] ?? 0) / (scales[o] ?? 1)) + ((choice >> i) & 1))),
          );
          least = Math.min(least, errorOfOutput(o, codes));
        }
        best += least;
      }
      // The control: there is something to find, and what is read off the model is what was rounded to nearest
      expect(Array.from(nearest)).toEqual(
        Array.from(w, (value, i) => Math.round(value / (scales[Math.floor(i / INPUTS)] ?? 1)) + 0),
      );
      expect(total(nearest)).toBeGreaterThan(3 * best);
      expect(total(learned.codes)).toBeGreaterThanOrEqual(0.999 * best); // no sum in another order goes below the optimum
      // Gradient steps end in a local minimum: four fifths of what there is to win, and what one step does not
      const won = (codes: Int8Array): number => (total(nearest) - total(codes)) / (total(nearest) - best);
      expect(won(learned.codes)).toBeGreaterThan(0.8);
      expect(won((await fitted("layers", 1)).codes)).toBeLessThan(0.5);
    }, 120_000);
  });

  it("says in how many bits weights are stored", async () => {
    const { journal } = await runTechnique(
      quantize,
      residualNet(),
      { ...options, to: "int4", layers: { "op:Gemm": "int8" }, fit: "none" },
      samples(),
    );
    expect(journal.changed.map(({ what, how }) => `${what}: ${how.split(" ")[1]}`)).toEqual([
      "stem: int4",
      "a: int4",
      "b: int4",
      "Gemm: int8",
    ]);
    expect(journal.changed[0]?.bytesAfter).toBe(72 + 4 * 4 + 4 * 8); // codes, scales, biases with theirs
  });

  it("stores 4-bit codes packed, below and from opset 21, and the engine runs int8 kernels on them", async () => {
    for (const opset of [17, 21]) {
      const model = residualNet();
      if (opset > 17) convertOpset(model, opset);
      const { model: result } = await runTechnique(
        quantize,
        model,
        { ...options, to: "int4", layers: { "op:Gemm": "int8" }, fit: "none" },
        samples(),
      );
      const kernels = [...result.graph.initializers.values()].filter(({ name }) => name.endsWith(".packed"));
      expect(kernels.map(({ tensor }) => tensor?.byteLength)).toEqual([72, 72, 144]); // 4·4·9, 4·4·9 and 8·4·9 codes
      const { operators } = await optimizedGraph(result, { threads: 1, inProcess: true });
      expect(operators).toMatchObject({ "com.microsoft::QLinearConv": 3, "com.microsoft::QGemm": 1 });
      expect(operators).not.toHaveProperty("Cast");
    }
  });
});
