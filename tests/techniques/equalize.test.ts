/** Equalization leaves the model's outputs as they are, makes ranges alike, and helps grids that channels share. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { Builder } from "../../src/ir/builder.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { feedChunks } from "../../src/run/feeds.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { equalize } from "../../src/techniques/quantize/static/equalize.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { type Outputs, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { unary } from "../support/small-models.ts";

/** Depthwise separable, with channels whose ranges differ a hundredfold; `clip`: Relu6 in place of Relu. */
function unequal(clip = false): Model {
  const rng = new Rng(5);
  const spread = Float32Array.from({ length: 8 }, (_, c) => 10 ** ((c % 5) / 2 - 2));
  return unary(
    "float32",
    ["n", 4, 6, 6],
    (b, x) => {
      const act = (y: ReturnType<Builder["op"]>): ReturnType<Builder["op"]> =>
        clip
          ? b.op("Clip", [y, b.constant("low", Tensor.float32([], [0])), b.constant("six", Tensor.float32([], [6]))])
          : b.op("Relu", [y]);
      const weights = (shape: number[], scale: (o: number, i: number) => number): Tensor => {
        const [, inputs = 1] = shape;
        const inner = shape.slice(2).reduce((p, n) => p * n, 1);
        const size = shape.reduce((p, n) => p * n, 1);
        return Tensor.float32(
          shape,
          Float32Array.from(
            { length: size },
            (_, at) => rng.normal() * scale(Math.floor(at / inner / inputs), Math.floor(at / inner) % inputs),
          ),
        );
      };
      const s = (c: number): number => spread[c] ?? 1;
      const wide = act(
        b.op(
          "Conv",
          [
            x,
            b.constant(
              "w1",
              weights([8, 4, 1, 1], (o) => s(o)),
            ),
          ],
          { name: "expand" },
        ),
      );
      const deep = act(
        b.op(
          "Conv",
          [
            wide,
            b.constant(
              "w2",
              weights([8, 1, 3, 3], (o) => 0.3 / s(o)),
            ),
          ],
          {
            name: "depthwise",
            attributes: { group: 8, pads: [1, 1, 1, 1] },
          },
        ),
      );
      return b.op(
        "Conv",
        [
          deep,
          b.constant(
            "w3",
            weights([5, 8, 1, 1], () => 0.3),
          ),
        ],
        { name: "project" },
      );
    },
    { shape: ["n", 5, 6, 6] },
    17,
  );
}

function samples(count: number, seed = 3): Dataset {
  const rng = new Rng(seed);
  const data = Float32Array.from({ length: count * 4 * 36 }, () => rng.normal());
  return datasetOf({ fields: { x: { dtype: "float32", shape: [count, 4, 6, 6], data } } });
}

async function outputs(model: Model, data: Dataset): Promise<Outputs> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  const batch = await data.take(Array.from({ length: data.size }, (_, i) => i));
  try {
    return await session.run(feedChunks(session.inputs, batch)[0]?.feeds ?? {});
  } finally {
    await session.close();
  }
}

describe("equalize", () => {
  it.each([
    ["by weights", { by: "weights" }],
    ["by activations", { by: "activations" }],
    ["by activations at full strength", { by: "activations", strength: 1 }],
  ])("leaves the outputs as they were, %s", async (_, options) => {
    const data = samples(16);
    const { model, journal } = await runTechnique(equalize, unequal(), options, data);
    expect(journal.changed.map(({ what }) => what)).toEqual(["expand", "depthwise"]);
    expect(worstError(await outputs(unequal(), data), await outputs(model, data))).toBeLessThan(2e-5); // float32 products in another scale
  });

  it("stays below a clamp's bound on samples that it has not seen", async () => {
    const { model } = await runTechnique(equalize, unequal(true), { margin: 2 }, samples(64));
    const others = samples(16, 8);
    expect(worstError(await outputs(unequal(true), others), await outputs(model, others))).toBeLessThan(2e-5);
  });

  it("says what it leaves to a clamp, and what replacing it changes", async () => {
    const kept = await runTechnique(equalize, unequal(true), { clips: "keep" }, samples(16));
    expect(kept.journal.changed).toEqual([]);
    expect(kept.journal.skipped.map(({ why }) => why).join()).toContain("clamps at 6");
    const blind = await runTechnique(equalize, unequal(true), {});
    expect(blind.journal.skipped.map(({ why }) => why).join()).toContain("without samples");
    const replaced = await runTechnique(equalize, unequal(true), { clips: "replace" }, samples(16));
    expect(replaced.model.graph.nodes.some(({ opType }) => opType === "Clip")).toBe(false);
    expect(replaced.journal.changed.map(({ how }) => how).join()).toContain("another one");
  });

  it("makes the ranges of weights on both sides equal", async () => {
    const { model } = await runTechnique(equalize, unequal(), { by: "weights" });
    const peaks = async (name: string, axis: 0 | 1): Promise<number[]> => {
      const tensor = model.graph.find(name)?.tensor as Tensor;
      const data = (await tensor.data()) as Float32Array;
      const [, inputs = 1] = tensor.shape;
      const inner = tensor.elements / (tensor.shape[0] ?? 1) / inputs;
      const result = Array.from({ length: 8 }, () => 0);
      for (const [at, w] of data.entries()) {
        const row = Math.floor(at / inner / inputs);
        const c = axis === 0 ? row : Math.floor(at / inner) % inputs;
        result[c] = Math.max(result[c] ?? 0, Math.abs(w));
      }
      return result;
    };
    const [made, read] = [await peaks("w1", 0), await peaks("w2", 0)];
    for (const [c, peak] of made.entries()) expect(peak / (read[c] ?? 0)).toBeCloseTo(1, 2);
    const [deep, project] = [await peaks("w2", 0), await peaks("w3", 1)];
    for (const [c, peak] of deep.entries()) expect(peak / (project[c] ?? 0)).toBeCloseTo(1, 2);
  });

  it("lowers the error of a quantized network whose channels differ", async () => {
    const data = samples(32);
    const wanted = await outputs(unequal(), data);
    const options = { calibration: "min-max", equalize: "never" };
    const plain = await runTechnique(quantize, unequal(), options, data);
    const equal = await runTechnique(quantize, unequal(), { ...options, equalize: "always" }, data);
    const error = async (model: Model): Promise<number> => {
      const got = await outputs(model, data);
      let [difference, norm] = [0, 0];
      for (const [name, { data: y }] of Object.entries(wanted))
        for (let i = 0; i < y.length; i++) {
          difference += (Number(y[i]) - Number(got[name]?.data[i])) ** 2;
          norm += Number(y[i]) ** 2;
        }
      return Math.sqrt(difference / norm);
    };
    expect(await error(equal.model)).toBeLessThan(0.5 * (await error(plain.model)));
  });
});
