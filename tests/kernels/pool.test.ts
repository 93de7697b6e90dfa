/** The kernel pool: same results as on the main thread, moved buffers, stopping, failing, closing. */
import { closeSync, openSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { bytesOf } from "../../src/base/dtype.ts";
import { loadKernels } from "../../src/kernels/kernels.ts";
import { KernelPool } from "../../src/kernels/pool.node.ts";
import { expectElements, noise } from "./arrays.ts";

let pool: KernelPool;
afterEach(() => pool.close());

describe("KernelPool", () => {
  it("gives the main thread's results, many jobs on two workers", async () => {
    pool = new KernelPool(2);
    const kernels = await loadKernels();
    const spec = { bits: 4, symmetric: false } as const;
    const jobs = Array.from({ length: 12 }, (_, i) => noise(640, i));
    const results = await Promise.all(jobs.map((w) => pool.run("quantizeBlocks", [w, 10, 64, spec])));
    for (const [i, result] of results.entries()) {
      const expected = kernels.quantizeBlocks(jobs[i] as Float32Array, 10, 64, spec);
      expectElements(result.codes, expected.codes);
      expectElements(result.zeroPoints, expected.zeroPoints);
    }
    const back = await pool.run("dequantizeBlocks", [results[0] as (typeof results)[0]]);
    expect(back.length).toBe(640);
    expect(pool.pending).toBe(0);
  });

  it("moves buffers there and back, and copies only the part that a view shows", async () => {
    pool = new KernelPool(1);
    const w = noise(100);
    const expected = w.slice();
    let returned: Float32Array | undefined;
    const summary = await pool.run("summarize", [w], {
      transfer: [w.buffer as ArrayBuffer],
      giveBack: ([x]) => {
        returned = x;
      },
    });
    expect(summary.count).toBe(100);
    expect(w.length).toBe(0); // moved
    expectElements(returned, expected);
    const large = new Float32Array(1000).fill(2);
    expect((await pool.run("summarize", [large.subarray(10, 20)])).sum).toBe(20);
    expect(large.length).toBe(1000);
    const kernels = await loadKernels();
    const scratch = kernels.scratch(40);
    const view = new Float32Array(scratch.buffer, scratch.byteOffset, 10).fill(1);
    expect((await pool.run("summarize", [view])).sum).toBe(10);
  });

  it("passes on what a kernel throws, and goes on", async () => {
    pool = new KernelPool(1);
    const wrong = pool.run("quantizeBlocks", [noise(10), 1, 10, { bits: 4, block: 17 }]);
    await expect(wrong).rejects.toMatchObject({ name: "PareError", code: "bad-option" });
    expect((await pool.run("summarize", [noise(10)])).count).toBe(10);
  });

  it("rejects arguments that cannot travel, and goes on", async () => {
    pool = new KernelPool(1);
    const w = noise(8);
    structuredClone(w, { transfer: [w.buffer as ArrayBuffer] });
    await expect(pool.run("summarize", [w], { transfer: [w.buffer as ArrayBuffer] })).rejects.toThrow(/cannot travel/);
    expect((await pool.run("summarize", [noise(3)])).count).toBe(3);
  });

  it("stops on a signal, queued jobs and running ones, and refuses an aborted one", async () => {
    pool = new KernelPool(1);
    const controller = new AbortController();
    const big = noise(400_000);
    const jobs = Array.from({ length: 5 }, () =>
      pool.run("quantizeBlocks", [big, 100, 4000, { bits: 4, scale: "mse" }], { signal: controller.signal }),
    );
    const settled = Promise.allSettled(jobs);
    controller.abort();
    for (const outcome of await settled) {
      expect(outcome.status).toBe("rejected");
      if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "aborted" });
    }
    await expect(pool.run("summarize", [big], { signal: controller.signal })).rejects.toMatchObject({
      code: "aborted",
    });
    expect((await pool.run("summarize", [noise(5)])).count).toBe(5);
  });

  it("makes room when jobs finish", async () => {
    pool = new KernelPool(1);
    const jobs = [1, 2].map((seed) => pool.run("summarize", [noise(50, seed)]));
    let roomy = false;
    const room = pool.room().then(() => {
      roomy = true;
    });
    await Promise.resolve();
    expect(roomy).toBe(false);
    await room;
    expect(pool.pending).toBeLessThan(2);
    await Promise.all(jobs);
  });

  it("fails what is left when closed, and everything after", async () => {
    pool = new KernelPool(1);
    const job = pool.run("quantizeBlocks", [noise(400_000), 100, 4000, { bits: 4, scale: "mse" }]);
    const failed = expect(job).rejects.toMatchObject({ code: "aborted" });
    await pool.close();
    await failed;
    await expect(pool.run("summarize", [noise(5)])).rejects.toMatchObject({ code: "aborted" });
    expect(() => new KernelPool(0)).toThrow(/at least one/);
  });

  it("streams matrices, several at once, into quantizers", async () => {
    pool = new KernelPool(2);
    const kernels = await loadKernels();
    const spec = { bits: 4, block: 32 } as const;
    const quantize = async (seed: number): Promise<void> => {
      const w = noise(96 * 64, seed);
      const stream = pool.blockQuantizer({ rows: 96, cols: 64, transpose: true }, spec);
      for (let row = 0; row < 96; row += 32) {
        const piece = new Uint8Array(w.slice(row * 64, (row + 32) * 64).buffer);
        const back = await stream.push("float32", piece);
        expect(piece.length).toBe(0); // moved
        expect(back.length).toBe(32 * 64 * 4);
      }
      expectElements((await stream.finish()).codes, kernels.quantizeBlocksTransposed(w, 96, 64, spec).codes);
      stream.close();
    };
    await Promise.all([1, 2, 3, 4, 5].map(quantize));
    expect(pool.pending).toBe(0);
  });

  it("streams matrices that its workers read from a file themselves", async () => {
    pool = new KernelPool(1);
    const kernels = await loadKernels();
    const spec = { bits: 4, block: 32, symmetric: false } as const;
    const [rows, cols] = [96, 50];
    const w = kernels.fromFloat16(kernels.toFloat16(noise(rows * cols)).bits); // the same in both dtypes
    const path = join(tmpdir(), `pare-pool-${process.pid}.bin`);
    for (const dtype of ["float32", "float16"] as const) {
      const bytes = bytesOf(dtype === "float32" ? w : kernels.toFloat16(w).bits);
      writeFileSync(path, Buffer.concat([Buffer.alloc(12), bytes]));
      const descriptor = openSync(path, "r");
      try {
        const part = (from: number, to: number) => ({
          name: path,
          descriptor,
          offset: 12 + (bytes.length / rows) * from,
          byteLength: (bytes.length / rows) * (to - from),
        });
        for (const transpose of [false, true]) {
          const stream = pool.blockQuantizer({ rows, cols, transpose }, spec);
          await stream.read(dtype, 64, part(0, 64));
          await stream.read(dtype, 32, part(64, 96));
          const found = await stream.finish();
          const expected = transpose
            ? kernels.quantizeBlocksTransposed(w, rows, cols, spec)
            : kernels.quantizeBlocks(w, rows, cols, spec);
          expectElements(found.codes, expected.codes);
          expectElements(found.scales, expected.scales);
        }
        truncateSync(path, 12 + bytes.length - 1);
        const short = pool.blockQuantizer({ rows, cols }, spec);
        await expect(short.read(dtype, rows, part(0, rows))).rejects.toMatchObject({ code: "bad-model" });
        short.close();
        // More rows than the range holds
        const wrong = pool.blockQuantizer({ rows, cols }, spec);
        await expect(wrong.read(dtype, rows, part(0, rows - 1))).rejects.toMatchObject({ code: "internal" });
        wrong.close();
      } finally {
        closeSync(descriptor);
        rmSync(path);
      }
    }
  });

  it("passes on a stream's errors; stops it by its signal", async () => {
    pool = new KernelPool(1);
    const spec = { bits: 4, block: 32 } as const;
    const wrong = pool.blockQuantizer({ rows: 2, cols: 64 }, { bits: 4, block: 17 });
    await expect(wrong.finish()).rejects.toMatchObject({ code: "bad-option" });
    wrong.close();
    const short = pool.blockQuantizer({ rows: 2, cols: 64 }, spec);
    await short.push("float32", new Uint8Array(64 * 4));
    await expect(short.finish()).rejects.toMatchObject({ code: "internal" });
    const stop = new AbortController();
    const stopped = pool.blockQuantizer({ rows: 2, cols: 64 }, spec, stop.signal);
    const pushed = stopped.push("float32", new Uint8Array(64 * 4));
    stop.abort();
    await expect(pushed).rejects.toMatchObject({ code: "aborted" });
    stopped.close();
    expect((await pool.run("summarize", [noise(10)])).count).toBe(10);
    const orphan = pool.blockQuantizer({ rows: 2, cols: 64 }, spec);
    await pool.close();
    await expect(orphan.finish()).rejects.toMatchObject({ code: "aborted" });
  });
});
