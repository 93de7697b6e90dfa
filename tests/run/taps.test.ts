import { describe, expect, it } from "vitest";
import { loadKernels } from "../../src/kernels/kernels.ts";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { Rng } from "../../src/base/rng.ts";
import { exposeValues } from "../../src/run/expose.ts";
import { feedStream, inputPorts } from "../../src/run/feed-stream.ts";
import { gram } from "../../src/run/gram.ts";
import { GrowingHistogram } from "../../src/run/growing-histogram.ts";
import { channelReducer, histogramReducer, momentsReducer } from "../../src/run/reducers.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { Feeds } from "../../src/run/session.ts";
import { tap, tapEach } from "../../src/run/taps.node.ts";
import { classifier, smallCnn } from "../support/small-models.ts";

function batches(shape: number[], count: number, seed = 1): Feeds[] {
  const rng = new Rng(seed);
  const length = shape.reduce((a, b) => a * b, 1);
  return Array.from({ length: count }, () => ({
    x: { dtype: "float32", shape, data: Float32Array.from({ length }, () => rng.normal()) },
  }));
}

describe("a growing histogram", () => {
  const counted = async (parts: Float32Array[], bins: number): Promise<ReturnType<GrowingHistogram["result"]>> => {
    const histogram = new GrowingHistogram(await loadKernels(), bins);
    for (const part of parts)
      histogram.add(
        part,
        part.reduce((a, b) => Math.min(a, b)),
        part.reduce((a, b) => Math.max(a, b)),
      );
    return histogram.result();
  };

  it("counts as if the range had been known, negative numbers from a later batch too", async () => {
    const rng = new Rng(5);
    const parts = [0.1, 1, 30].map((size, i) =>
      Float32Array.from({ length: 1000 }, () => size * (i === 0 ? rng.uniform() : rng.normal())),
    );
    const { low, high, counts } = await counted(parts, 256);
    const width = (high - low) / counts.length;
    expect(low).toBeLessThan(0);
    expect(Math.abs(low / width - Math.round(low / width))).toBeLessThan(1e-9); // zero is a border
    const plain = new Float64Array(counts.length);
    for (const x of parts.flatMap((part) => [...part])) {
      const bin = Math.floor((x - low) / width);
      plain[bin] = (plain[bin] ?? 0) + 1;
    }
    // A number next to a border may fall on either side of it: bins are found in single precision
    const moved = counts.reduce((sum, count, i) => sum + Math.abs(count - (plain[i] ?? 0)), 0);
    expect(moved).toBeLessThanOrEqual(6);
    expect(counts.reduce((a, b) => a + b)).toBe(3000);
    expect(counts.length).toBeGreaterThan(0.4 * 256);
  });

  it("keeps zeros seen before anything else, and leaves out what is not finite", async () => {
    const { low, high, counts } = await counted([new Float32Array(7), Float32Array.of(1, 1, 0)], 10);
    expect([low, counts[0], counts.reduce((a, b) => a + b)]).toEqual([0, 8, 10]);
    expect(Math.abs(high - 1.125)).toBeLessThan(1e-6); // the ninth of ten bins up to 1.25 holds 1
    const histogram = new GrowingHistogram(await loadKernels(), 10);
    histogram.add(Float32Array.of(Number.NaN, 1, Number.POSITIVE_INFINITY), 1, 1);
    expect(histogram.result().counts.reduce((a, b) => a + b)).toBe(1);
  });
});

describe("taps", () => {
  it("see every batch of inner values, inputs and weights", async () => {
    const model = smallCnn();
    const data = batches([2, 4, 8, 8], 3);
    const seen = new Map<string, number[][]>();
    await tapEach(
      model,
      ["x", "relu", "w"],
      () => data,
      (name, array, batch) => {
        seen.set(name, [...(seen.get(name) ?? []), [batch, ...array.shape]]);
        if (name === "relu") expect((array.data as Float32Array).every((value) => value >= 0)).toBe(true);
      },
    );
    expect(seen.get("relu")).toEqual([
      [0, 2, 6, 4, 4],
      [1, 2, 6, 4, 4],
      [2, 2, 6, 4, 4],
    ]);
    expect(seen.get("x")?.length).toBe(3);
    expect(seen.get("w")?.[0]).toEqual([0, 6, 4, 3, 3]);
  });

  it("see the same in the same order from several runs at once as from one after the other", async () => {
    const model = smallCnn();
    const data = batches([2, 4, 8, 8], 7);
    const seen = async (threads: number): Promise<[number, string, number[]][]> => {
      const list: [number, string, number[]][] = [];
      await tapEach(
        model,
        ["conv", "relu"],
        () => data,
        (name, array, batch) => void list.push([batch, name, [...(array.data as Float32Array)]]),
        { threads },
      );
      return list;
    };
    const [one, three] = [await seen(1), await seen(3)];
    expect(three.map(([batch, name]) => [batch, name])).toEqual(one.map(([batch, name]) => [batch, name]));
    expect(one.map(([batch]) => batch)).toEqual([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
    for (const [i, [, , values]] of one.entries())
      expect(Math.max(...values.map((value, k) => Math.abs(value - (three[i]?.[2][k] ?? Number.NaN))))).toBeLessThan(
        1e-5,
      );
  });

  it("see inputs alone without a session, which would compute nothing", async () => {
    const shapes: number[][] = [];
    await tapEach(
      smallCnn(),
      ["x"],
      () => batches([2, 4, 8, 8], 2),
      (_, array) => void shapes.push([...array.shape]),
    );
    expect(shapes).toEqual([
      [2, 4, 8, 8],
      [2, 4, 8, 8],
    ]);
  });

  it("reduce to the statistics of all batches together", async () => {
    const kernels = await loadKernels();
    const model = smallCnn();
    const data = batches([2, 4, 8, 8], 3);
    const all: number[] = [];
    await tapEach(
      model,
      ["conv"],
      () => data,
      (_, array) => void all.push(...(array.data as Float32Array)),
    );
    const moments = (
      await tap(
        model,
        ["conv"],
        () => data,
        () => momentsReducer(kernels),
      )
    ).get("conv");
    expect(moments?.count).toBe(all.length);
    expect(moments?.min).toBe(Math.min(...all));
    expect(moments?.max).toBe(Math.max(...all));
    const mean = all.reduce((a, b) => a + b, 0) / all.length;
    expect(moments?.mean).toBeCloseTo(mean, 6);
    expect(moments?.variance).toBeCloseTo(all.reduce((a, b) => a + (b - mean) ** 2, 0) / all.length, 5);
    const peak = Math.max(Math.abs(moments?.min ?? 0), moments?.max ?? 0);
    const fixed = (
      await tap(
        model,
        ["conv"],
        () => data,
        () => histogramReducer(kernels, -peak, peak, 64),
      )
    ).get("conv");
    expect(fixed?.counts.reduce((a, b) => a + b, 0)).toBe(all.length);
    const channels = (
      await tap(
        model,
        ["conv"],
        () => data,
        () => channelReducer(kernels),
      )
    ).get("conv");
    expect(channels?.min.length).toBe(6);
    expect(Math.min(...(channels?.min ?? []))).toBe(moments?.min);
  });

  it("take many values in smaller runs and several passes with the same result", async () => {
    const kernels = await loadKernels();
    const model = smallCnn();
    inferShapes(model);
    const data = batches([2, 4, 8, 8], 2);
    const names = ["conv", "relu", "pool"];
    const passes = new Set<number>();
    const once = await tap(
      model,
      names,
      () => data,
      () => momentsReducer(kernels),
    );
    const grouped = await tap(
      model,
      names,
      () => data,
      () => momentsReducer(kernels),
      {
        groupBytes: 500,
        onBatch: ({ pass }) => passes.add(pass),
      },
    );
    expect(passes.size).toBeGreaterThan(1);
    for (const [name, moments] of once) {
      const { mean, variance, meanAbs, ...exact } = moments;
      expect(grouped.get(name)).toMatchObject(exact);
      expect(grouped.get(name)?.mean).toBeCloseTo(mean, 6);
      expect(grouped.get(name)?.variance).toBeCloseTo(variance, 5);
      expect(grouped.get(name)?.meanAbs).toBeCloseTo(meanAbs, 6);
    }
  });

  it("take a fixed batch as it is", async () => {
    const shapes: number[][] = [];
    const reducer = {
      add: (array: { readonly shape: readonly number[] }) => void shapes.push([...array.shape]),
      result: () => 0,
    };
    await tap(
      smallCnn({ batch: 2 }),
      ["conv"],
      () => batches([2, 4, 8, 8], 1),
      () => reducer,
      { groupBytes: 500 },
    );
    expect(shapes).toEqual([[2, 6, 4, 4]]);
    shapes.length = 0;
    const free = smallCnn();
    inferShapes(free);
    await tap(
      free,
      ["conv"],
      () => batches([2, 4, 8, 8], 1),
      () => reducer,
      { groupBytes: 500 },
    );
    expect(shapes).toEqual([
      [1, 6, 4, 4],
      [1, 6, 4, 4],
    ]);
  });

  it("leave out what the values do not need", () => {
    const exposed = exposeValues(smallCnn(), ["relu"]);
    expect(exposed.graph.nodes.map((node) => node.opType)).toEqual(["Conv", "Relu"]);
    expect([...exposed.graph.initializers.keys()]).toEqual(["w"]);
    expect(() => exposeValues(smallCnn(), ["nowhere"])).toThrow(/no value 'nowhere'/);
  });

  it("refuse an empty stream and stop when aborted", async () => {
    const kernels = await loadKernels();
    await expect(
      tap(
        smallCnn(),
        ["conv"],
        () => [],
        () => momentsReducer(kernels),
      ),
    ).rejects.toThrow(/not one sample/);
    const controller = new AbortController();
    const endless = function* (): Generator<Feeds> {
      for (;;) yield* batches([2, 4, 8, 8], 1);
    };
    const running = tap(smallCnn(), ["conv"], endless, () => momentsReducer(kernels), {
      signal: controller.signal,
      onBatch: ({ batch }) => batch === 3 && controller.abort(),
    });
    await expect(running).rejects.toMatchObject({ code: "aborted" });
  });

  it("keep statistics only: memory does not grow with the number of samples", async () => {
    const kernels = await loadKernels();
    const model = smallCnn();
    const [batch] = batches([64, 4, 8, 8], 1) as [Feeds];
    const run = async (count: number): Promise<number> => {
      const stream = function* (): Generator<Feeds> {
        for (let i = 0; i < count; i++) yield batch;
      };
      await tap(model, ["conv", "relu"], stream, () => momentsReducer(kernels));
      return process.memoryUsage().rss;
    };
    await run(30);
    const few = await run(30);
    const many = await run(600); // 600 · 64 · 768 floats would be 118 MB
    expect(many - few).toBeLessThan(60e6);
  });
});

describe("Gram matrices", () => {
  const transposeProduct = (rows: number[][], k: number): number[] => {
    const sum = Array.from({ length: k * k }, () => 0);
    for (const row of rows)
      for (let i = 0; i < k; i++)
        for (let j = 0; j < k; j++) sum[i * k + j] = (sum[i * k + j] ?? 0) + (row[i] ?? 0) * (row[j] ?? 0);
    return sum;
  };

  it("of a value's rows equal XᵀX over all batches", async () => {
    const data = batches([5, 7], 3);
    const [result] = await gram(classifier(7, 2), [{ value: "x" }], () => data, openSession);
    const rows = data.flatMap((feeds) => {
      const values = Array.from((feeds["x"]?.data ?? []) as Float32Array);
      return Array.from({ length: 5 }, (_, i) => values.slice(7 * i, 7 * i + 7));
    });
    expect(result?.rows).toBe(15);
    const expected = transposeProduct(rows, 7);
    for (const [i, value] of (result?.matrices[0] ?? []).entries())
      expect(value).toBeCloseTo(expected[i] ?? Number.NaN, 3);
  });

  it.each([1, 2])("of a convolution's patches, %i group(s), reproduce its output energy", async (group) => {
    // ‖w·X‖² = w (XᵀX) wᵀ for each filter: the Gram matrix knows the energy of every output channel.
    const model = smallCnn({ group });
    const data = batches([2, 4, 8, 8], 2);
    const node = model.graph.nodes[0];
    const [result] = await gram(model, [{ conv: node?.name ?? "" }], () => data, openSession);
    const k = (4 / group) * 9;
    expect(result?.k).toBe(k);
    expect(result?.matrices.length).toBe(group);
    expect(result?.rows).toBe(2 * 2 * 16);
    const energy = new Float64Array(6);
    await tapEach(
      model,
      ["conv"],
      () => data,
      (_, array) => {
        for (const [i, value] of (array.data as Float32Array).entries()) {
          const channel = Math.floor(i / 16) % 6;
          energy[channel] = (energy[channel] ?? 0) + value * value;
        }
      },
    );
    const w = (await model.graph.initializers.get("w")?.tensor?.data()) as Float32Array;
    for (let filter = 0; filter < 6; filter++) {
      const matrix = result?.matrices[Math.floor(filter / (6 / group))] ?? new Float64Array();
      let sum = 0;
      for (let i = 0; i < k; i++)
        for (let j = 0; j < k; j++)
          sum += (w[filter * k + i] ?? 0) * (matrix[i * k + j] ?? 0) * (w[filter * k + j] ?? 0);
      expect(sum / (energy[filter] ?? 1)).toBeCloseTo(1, 4);
    }
  });
});

describe("a data set as feeds", () => {
  it("streams again for each pass", async () => {
    const model = classifier(3, 2);
    const source = {
      async *batches(options: { size?: number } = {}) {
        for (let i = 0; i < 2; i++) {
          const size = options.size ?? 4;
          yield {
            size,
            fields: { image: { dtype: "float32" as const, shape: [size, 3], data: new Float32Array(3 * size) } },
          };
        }
      },
    };
    expect(inputPorts(model)).toEqual([{ name: "x", dtype: "float32", shape: ["n", 3] }]);
    const stream = feedStream(model, source, { size: 4 });
    for (let pass = 0; pass < 2; pass++) {
      const shapes: unknown[] = [];
      for await (const feeds of stream()) shapes.push(feeds["x"]?.shape);
      expect(shapes).toEqual([
        [4, 3],
        [4, 3],
      ]);
    }
    const session = await openSession(model);
    expect(session.inputs).toEqual(inputPorts(model));
    await session.close();
  });
});
