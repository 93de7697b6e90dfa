import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import { costOf } from "../../src/analyse/cost.ts";
import { benchmark, benchmarkRatio } from "../../src/evaluate/benchmark.node.ts";
import { downloadSize } from "../../src/evaluate/download-size.node.ts";
import { energyFromCounts } from "../../src/evaluate/energy-table.ts";
import { difference, energyCounters, energyOf } from "../../src/evaluate/energy.node.ts";
import { latencyOf, latencyRatio } from "../../src/evaluate/latency.ts";
import { hasInt8Instructions, machineInfo } from "../../src/evaluate/machine.node.ts";
import { peakMemory } from "../../src/evaluate/memory.node.ts";
import { sizeOf, bytesOnDisk, externalFiles } from "../../src/evaluate/size.node.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { saveFile } from "../../src/ir/save.node.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import type { Feeds, Session } from "../../src/run/session.ts";
import { classifier, heavy, smallCnn, unary } from "../support/small-models.ts";

const folder = mkdtempSync(join(tmpdir(), "pare-measure-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A session whose runs take the given times, in turn. */
function timed(times: () => number): Session {
  return {
    inputs: [{ name: "x", dtype: "float32", shape: [1] }],
    outputs: [],
    time: async (_feeds: Feeds, count: number) => Float64Array.from({ length: count }, times),
    run: async () => ({}),
    resident: () => Promise.reject(new Error("not here")),
    close: async () => undefined,
  };
}
const feeds: Feeds = { x: { dtype: "float32", shape: [1], data: new Float32Array(1) } };

describe("size", () => {
  it("counts bytes, parameters, zeros and MACs", async () => {
    const model = classifier(64, 32);
    const size = await sizeOf(model);
    const bytes = await encodeModel(model);
    expect(size.bytes).toBe(bytes.byteLength);
    expect(size.gzipBytes).toBe(gzipSync(bytes).byteLength);
    expect(size.brotliQuality).toBe(11);
    expect(Math.abs(size.brotliBytes - brotliCompressSync(bytes).byteLength)).toBeLessThan(100);
    expect(size).toMatchObject({
      parameters: 64 * 32,
      nonzero: 64 * 32,
      macs: 64 * 32,
      bops: 64 * 32 * 32 * 32,
      sampled: 1,
    });
    const w = model.graph.initializers.get("w");
    const data = (await w?.tensor?.data()) as Float32Array;
    const pruned = data.map((x, i) => (i % 4 === 0 ? -0 : x));
    if (w) w.tensor = Tensor.float32([64, 32], pruned);
    expect((await sizeOf(model)).nonzero).toBe(64 * 32 * 0.75);
  });

  it("counts a code equal to its zero point as a zero, and scales not at all", async () => {
    const codes = Uint8Array.of(128, 128, 3, 7, 5, 128);
    const model = unary(
      "float32",
      ["n", 2],
      (b, x) => {
        const w = b.op(
          "DequantizeLinear",
          [
            b.constant("codes", Tensor.of("uint8", [2, 3], codes)),
            b.constant("scale", Tensor.float32([3], [1, 2, 3])),
            b.constant("zero", Tensor.of("uint8", [3], Uint8Array.of(128, 3, 3))),
          ],
          { attributes: { axis: 1 } },
        );
        return b.op("MatMul", [x, w]);
      },
      { shape: ["n", 3] },
    );
    // Columns: (128, 7) with zero point 128, (128, 5) with 3, (3, 128) with 3.
    expect(await sizeOf(model)).toMatchObject({ parameters: 6, nonzero: 4 });
  });

  it("adds external data up", async () => {
    const path = join(folder, "external.onnx");
    await saveFile(classifier(100, 50), path, { externalDataThreshold: 1000 });
    const names = await externalFiles(path);
    expect(names.length).toBe(1);
    const bytes = await bytesOnDisk(path);
    expect(bytes).toBeGreaterThan(20_000);
    expect((await sizeOf(path)).bytes).toBe(bytes);
  });

  it("estimates large downloads from a sample and says so", async () => {
    const piece = Buffer.from("abcdefghij".repeat(1000));
    const large = {
      byteLength: 400 * 2 ** 20,
      read: async (_offset: number, length: number) => Buffer.alloc(length, piece),
    };
    const size = await downloadSize([large]);
    expect(size.sampled).toBeLessThan(0.2);
    expect(size.brotliQuality).toBe(5);
    expect(size.gzipBytes).toBeGreaterThan(0);
    expect(size.gzipBytes).toBeLessThan(large.byteLength / 50);
  });
});

describe("latency", () => {
  it("gives quantiles within the budget", async () => {
    let run = 0;
    const latency = await latencyOf(
      timed(() => (++run % 10 === 0 ? 0.02 : 0.01)),
      feeds,
      { seconds: 2 },
    );
    expect(latency.p50).toBe(0.01);
    expect(latency.p99).toBe(0.02);
    expect(latency.runs).toBeGreaterThan(100);
    expect(latency.runs).toBeLessThan(250);
  });

  it("finds the ratio of two models under drift", async () => {
    // Both slow down together by a factor of three over the measurement: one after the other, they could not be compared.
    let clock = 0;
    const drift = (base: number) => (): number => base * (1 + 2 * Math.min(1, clock++ / 600));
    const { ratio } = await latencyRatio(timed(drift(0.01)), timed(drift(0.005)), feeds, { rounds: 20, seconds: 4 });
    expect(ratio.value).toBeGreaterThan(0.45);
    expect(ratio.value).toBeLessThan(0.55);
    expect(ratio.low).toBeLessThanOrEqual(ratio.value);
    expect(ratio.high).toBeGreaterThanOrEqual(ratio.value);
  });

  it("tells a large model from a small one for real", async () => {
    const { ratio } = await benchmarkRatio(heavy(12, 128), heavy(1, 128), { rounds: 7, seconds: 0.6, threads: 1 });
    expect(ratio.high).toBeLessThan(0.7);
  });
});

describe("a benchmark", () => {
  it("has the promised fields", async () => {
    const result = await benchmark(smallCnn(), { seconds: 0.2, batch: 3, threads: 1 });
    expect(result.batch).toBe(3);
    expect(result.throughput).toBeCloseTo(3 / result.latency.mean, 6);
    expect(result.peakMemoryBytes).toBeGreaterThan(20e6);
    expect(result.energy.joules).toBeGreaterThan(0);
    expect(result.machine.versions["onnxruntime"]).toMatch(/^1\./);
  });
});

describe("memory", () => {
  it("grows by the weights of the model", async () => {
    const path = join(folder, "heavy.onnx");
    const width = 3000;
    await saveFile(heavy(1, width), path); // 36 MB of weights
    const large = await peakMemory(path, { dims: {}, threads: 1 });
    const small = await peakMemory(classifier(4, 2), { threads: 1 });
    expect(large.peakMemoryBytes - small.peakMemoryBytes).toBeGreaterThan(width * width * 4);
    expect(large.peakMemoryBytes).toBeGreaterThanOrEqual(large.loadedBytes);
    const junk = join(folder, "junk.onnx");
    writeFileSync(junk, "junk");
    await expect(peakMemory(junk)).rejects.toThrow();
    const bad = unary("float32", [1], (b, x) => b.op("NoSuchOperator", [x]));
    await expect(peakMemory(bad)).rejects.toThrow(/NoSuchOperator/);
  });
});

describe("energy", () => {
  it("is estimated by the published table, and marked so", async () => {
    const model = classifier(100, 10);
    const cost = costOf(model);
    const parts = energyFromCounts(cost);
    expect(parts.arithmeticJoules).toBeCloseTo(1000 * 4.6e-12, 15); // 3.7 pJ + 0.9 pJ for each of 1000 MACs
    const energy = await energyOf(
      model,
      timed(() => 0.01),
      feeds,
      { root: join(folder, "nothing") },
    );
    expect(energy).toMatchObject({ estimated: true });
    expect(energy.source).toContain("Horowitz");
  });

  it("is read from counters where there are any", async () => {
    const zone = join(folder, "powercap", "intel-rapl:0");
    mkdirSync(zone, { recursive: true });
    writeFileSync(join(zone, "name"), "package-0\n");
    writeFileSync(join(zone, "max_energy_range_uj"), "262143328850\n");
    writeFileSync(join(zone, "energy_uj"), "1000\n");
    const root = join(folder, "powercap");
    expect((await energyCounters(root)).length).toBe(1);
    const session = timed(() => {
      writeFileSync(join(zone, "energy_uj"), "5001000\n"); // 5 J
      return 0.1;
    });
    writeFileSync(join(zone, "energy_uj"), "1000\n");
    let first = true;
    const counting: Session = {
      ...session,
      time: async (given, count) => {
        if (first) {
          first = false;
          return Float64Array.of(0.1);
        }
        return session.time(given, count);
      },
    };
    const energy = await energyOf(classifier(4, 2), counting, feeds, { root, batch: 2 });
    expect(energy.estimated).toBe(false);
    expect(energy.joules).toBeCloseTo(5 / 10 / 2, 9); // 10 runs of 2 samples
    expect(difference(90, 10, 100)).toBe(20);
  });
});

describe("the machine", () => {
  it("is described, and its flags are read", () => {
    const machine = machineInfo("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n");
    expect(machine.features).toEqual(["AVX2", "AVX-512", "AVX-512 VNNI"]);
    expect(hasInt8Instructions(machine)).toBe(true);
    expect(hasInt8Instructions(machineInfo("flags : sse"))).toBe(false);
    expect(machine.cores).toBeGreaterThan(0);
  });
});
