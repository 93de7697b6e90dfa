/** Biases that take back what rounded weights add on average: by means of samples, and by what BatchNormalization states. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { feedChunks } from "../../src/run/feeds.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { channelNormals, clippedNormal } from "../../src/transform/channel-normals.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, unary } from "../support/small-models.ts";

const CHANNELS = 6;

/** x → BatchNormalization → Relu → Conv 1×1 in groups. The statistics are those of the data below. */
function model(): Model {
  const vector = (list: number[]): Tensor => Tensor.float32([list.length], Float32Array.from(list));
  const each = (of: (c: number) => number): Tensor => vector(Array.from({ length: CHANNELS }, (_, c) => of(c)));
  return unary(
    "float32",
    ["n", CHANNELS, 4, 4],
    (b, x) => {
      const first = b.op("Conv", [x, b.constant("one", identity())], {
        name: "first",
        attributes: { group: CHANNELS },
      });
      const parts = [each(() => 1), each((c) => c / 2 - 1), each(() => 0), each(() => 1)];
      const names = ["gamma", "beta", "mean", "variance"];
      const normal = b.op("BatchNormalization", [first, ...parts.map((part, i) => b.constant(names[i] ?? "", part))]);
      const read = b.op("Relu", [normal]);
      const bias = b.constant("bias", vector([0.1, 0.2, 0.3, 0.4]));
      return b.op("Conv", [read, b.constant("w", randomTensor([4, CHANNELS / 2, 1, 1], 8)), bias], {
        name: "second",
        attributes: { group: 2 },
      });
    },
    { shape: ["n", 4, 4, 4] },
    17,
  );
}

function identity(): Tensor {
  return Tensor.float32([CHANNELS, 1, 1, 1], new Float32Array(CHANNELS).fill(1));
}

function normalData(): Dataset {
  const rng = new Rng(6);
  const data = Float32Array.from({ length: 400 * CHANNELS * 16 }, () => rng.normal());
  return datasetOf({ fields: { x: { dtype: "float32", shape: [400, CHANNELS, 4, 4], data } } });
}

/** Mean output of each of four channels. */
async function means(of: Model): Promise<number[]> {
  const data = normalData();
  const session = await openSession(of, { inProcess: true, threads: 1 });
  const batch = await data.take(Array.from({ length: data.size }, (_, i) => i));
  try {
    const [y] = Object.values(await session.run(feedChunks(session.inputs, batch)[0]?.feeds ?? {}));
    const sums = [0, 0, 0, 0];
    const values = y?.data as Float32Array;
    for (const [i, value] of values.entries()) {
      const c = Math.floor(i / 16) % 4;
      sums[c] = (sums[c] ?? 0) + value / (400 * 16);
    }
    return sums;
  } finally {
    await session.close();
  }
}

describe("bias correction", () => {
  it.each(["samples", "statistics"])("brings the mean of every channel back: %s", async (correct) => {
    const wanted = await means(model());
    const worst = async (how: string): Promise<number> => {
      const options = { to: "int4", calibration: "min-max", equalize: "never", balance: false, correct: how };
      const { model: result } = await runTechnique(quantize, model(), options, normalData());
      const found = await means(result);
      return Math.max(...found.map((y, c) => Math.abs(y - (wanted[c] ?? 0))));
    };
    const [without, corrected] = [await worst("none"), await worst(correct)];
    expect(without).toBeGreaterThan(0.02);
    expect(corrected).toBeLessThan(0.2 * without);
  });

  it("knows the means behind normalizations, rectifiers and sums", () => {
    const normals = channelNormals(model());
    const behind = [...normals.values()].at(-1);
    expect(behind?.mean[2]).toBeCloseTo(1 / Math.sqrt(2 * Math.PI), 6); // a rectified standard normal number
    expect(behind?.variance[2]).toBeCloseTo(0.5 - 1 / (2 * Math.PI), 6);
  });

  it.each([
    [0.3, 2, -0.5, 1.5],
    [-4, 1, 0, Number.POSITIVE_INFINITY],
    [5.5, 0.5, 0, 6],
    [1, 3, Number.NEGATIVE_INFINITY, 2],
  ])("has the moments of clipped normal numbers: mean %d, deviation %d, within %d and %d", (mu, sigma, low, high) => {
    const one = { mean: Float64Array.of(mu), variance: Float64Array.of(sigma * sigma) };
    const { mean, variance } = clippedNormal(one, low, high);
    const rng = new Rng(1);
    const draws = Array.from({ length: 200_000 }, () => Math.min(high, Math.max(low, rng.normal(mu, sigma))));
    const average = draws.reduce((a, b) => a + b) / draws.length;
    const spread = draws.reduce((sum, x) => sum + (x - average) ** 2, 0) / draws.length;
    // Five standard errors of 200,000 draws
    expect(Math.abs((mean[0] ?? 0) - average)).toBeLessThan((5 * Math.sqrt(spread)) / 447 + 1e-6);
    expect(Math.abs((variance[0] ?? 0) - spread)).toBeLessThan(0.03 * sigma * sigma);
    expect(Math.abs(mu - average)).toBeGreaterThan((5 * Math.sqrt(spread)) / 447 - 1e-4); // the clip matters
  });
});
