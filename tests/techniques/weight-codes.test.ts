/** Large weights are quantized in worker threads: the same bytes as in this thread, errors and stopping included. */
import { closeSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { bytesOf } from "../../src/base/dtype.ts";
import { Rng } from "../../src/base/rng.ts";
import { Tensor, type TensorSource } from "../../src/ir/tensor.ts";
import { loadKernels } from "../../src/kernels/kernels.ts";
import { computeWeight } from "../../src/techniques/kernel-host.ts";
import {
  type Codes,
  type CodesOptions,
  blockCodes,
  rowCodes,
} from "../../src/techniques/quantize/weights/weight-codes.ts";

const ROWS = 1100;
const COLS = 1024; // 4.5 MB: beyond what stays in this thread
const data = floats(ROWS * COLS, 1);
const options: CodesOptions = { bits: 4, symmetric: false, scale: "range", scaleType: "float32" };

function floats(count: number, seed: number): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length: count }, () => rng.normal(0, 0.05));
}

/** A tensor in pieces, as a file gives it; `read` may fail or wait. */
function ranged(
  w: Float32Array,
  shape: readonly number[],
  before: () => Promise<void> = async () => undefined,
): Tensor {
  const bytes = bytesOf(w);
  const source: TensorSource = {
    byteLength: bytes.byteLength,
    read: async (offset = 0, length = bytes.byteLength - offset) => bytes.slice(offset, offset + length),
    async readInto(target, offset) {
      await before();
      target.set(bytes.subarray(offset, offset + target.byteLength));
    },
  };
  return new Tensor("float32", shape, source);
}

function packed(kernels: Awaited<ReturnType<typeof loadKernels>>, tensor: Tensor, transpose: boolean): Codes {
  const [rows = 1, cols = 1] = tensor.shape;
  const [n, k] = transpose ? [cols, rows] : [rows, cols];
  const layout = { codesShape: [n, Math.ceil(k / 32), 16], codesType: "uint8", trim: false } as const;
  return blockCodes(kernels, tensor, { rows, cols, transpose }, 32, options, layout);
}

describe("codes of large weights", () => {
  it.each([false, true])("are those of the kernels, transpose %s", async (transpose) => {
    const kernels = await loadKernels();
    for (const tensor of [ranged(data, [ROWS, COLS]), Tensor.float32([ROWS, COLS], data)]) {
      const codes = packed(kernels, tensor, transpose);
      const spec = { bits: 4, block: 32, symmetric: false } as const;
      const expected = transpose
        ? kernels.quantizeBlocksTransposed(data, ROWS, COLS, spec)
        : kernels.quantizeBlocks(data, ROWS, COLS, spec);
      expect(codes.error.value).toBeUndefined();
      await codes.codes.source.prepare?.(new AbortController().signal);
      expect(Buffer.compare(await codes.codes.bytes(), expected.codes)).toBe(0);
      expect(Buffer.compare((await codes.scales?.bytes()) as Uint8Array, bytesOf(expected.scales))).toBe(0);
      expect(Buffer.compare((await codes.zeroPoints?.bytes()) as Uint8Array, expected.zeroPoints as Uint8Array)).toBe(
        0,
      );
      expect(codes.error.value).toBeCloseTo(Math.sqrt(expected.squaredError / expected.squaredNorm), 12);
    }
    expect(data[0]).toBe(floats(1, 1)[0]); // the weight itself was not given away
  });

  it("are the same when workers read the weight from its file", async () => {
    const kernels = await loadKernels();
    const path = join(tmpdir(), `pare-weight-${process.pid}.bin`);
    writeFileSync(path, Buffer.concat([Buffer.alloc(100), bytesOf(data)]));
    const descriptor = openSync(path, "r");
    try {
      const byteLength = data.byteLength;
      const source: TensorSource = {
        ...ranged(data, [ROWS, COLS]).source,
        readInto: () => Promise.reject(new Error("read here instead of there")),
        fileRange: async () => ({ name: path, descriptor, offset: 100, byteLength }),
      };
      for (const transpose of [false, true]) {
        const there = packed(kernels, new Tensor("float32", [ROWS, COLS], source), transpose);
        const here = packed(kernels, ranged(data, [ROWS, COLS]), transpose);
        for (const part of ["codes", "scales", "zeroPoints"] as const)
          expect(
            Buffer.compare((await there[part]?.bytes()) as Uint8Array, (await here[part]?.bytes()) as Uint8Array),
          ).toBe(0);
      }
    } finally {
      closeSync(descriptor);
      rmSync(path);
    }
  });

  it("are the same with a scale per row", async () => {
    const kernels = await loadKernels();
    const layout = {
      codesShape: [COLS, ROWS],
      codesType: "uint8",
      scalesShape: [COLS, 1],
      transpose: [ROWS, COLS],
    } as const;
    const codes = rowCodes(kernels, Tensor.float32([ROWS, COLS], data), COLS, { ...options, bits: 8 }, layout);
    const turned = kernels.transpose(data, ROWS, COLS);
    const shape = { outer: 1, channels: COLS, inner: ROWS };
    const expected = kernels.quantizeChannels(turned, shape, { low: 0, high: 255, symmetric: false });
    expect(Buffer.compare(await codes.codes.bytes(), bytesOf(expected.codes))).toBe(0);
    expect(Buffer.compare((await codes.scales?.bytes()) as Uint8Array, bytesOf(expected.scales))).toBe(0);
    expect(data.length).toBe(ROWS * COLS);
  });

  it("pass on what reading throws; the next read begins anew", async () => {
    const kernels = await loadKernels();
    let broken = true;
    const tensor = ranged(data, [ROWS, COLS], async () => {
      if (broken) throw new Error("the disk is gone");
    });
    const { codes } = packed(kernels, tensor, true);
    await expect(codes.source.prepare?.(new AbortController().signal)).rejects.toThrow("the disk is gone");
    await expect(codes.bytes()).rejects.toThrow("the disk is gone");
    broken = false;
    expect((await codes.bytes()).byteLength).toBe(codes.byteLength);
  });

  it("stop with the signal, and the next read begins anew", async () => {
    const kernels = await loadKernels();
    const stop = new AbortController();
    const { codes } = packed(
      kernels,
      ranged(data, [ROWS, COLS], async () => stop.abort()),
      true,
    );
    await expect(codes.source.prepare?.(stop.signal)).rejects.toMatchObject({ code: "aborted" });
    expect((await codes.bytes()).byteLength).toBe(codes.byteLength);
  });
});

describe("computeWeight", () => {
  it("admits in order what the memory bound leaves room for, and one however large", async () => {
    const kernels = await loadKernels();
    let running = 0;
    let most = 0;
    const order: number[] = [];
    const job = (index: number, mebibytes: number): Promise<void> =>
      computeWeight(kernels, 8 << 20, mebibytes * 2 ** 20, undefined, async () => {
        order.push(index);
        most = Math.max(most, ++running);
        if (mebibytes > 100) expect(running).toBe(1);
        await new Promise((resolve) => setTimeout(resolve, 5));
        running--;
      });
    await Promise.all([job(0, 70), job(1, 70), job(2, 1000), job(3, 1), job(4, 1)]);
    expect(order).toEqual([0, 1, 2, 3, 4]);
    expect(most).toBe(2);
  });
});
