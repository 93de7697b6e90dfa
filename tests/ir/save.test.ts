import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { PareError } from "../../src/base/error.ts";
import { Rng } from "../../src/base/rng.ts";
import { Builder } from "../../src/ir/builder.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { saveFile } from "../../src/ir/save.node.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { outputError } from "../../src/onnx/atomic-write.node.ts";
import { bits, runOnSynthetic } from "../support/run-model.ts";

const root = mkdtempSync(join(tmpdir(), "pare-save-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let folder = root;
beforeEach(() => {
  folder = mkdtempSync(join(root, "case-"));
});

function weights(rows: number, columns: number, seed: number): Tensor {
  const rng = new Rng(seed);
  return Tensor.float32(
    [rows, columns],
    Float32Array.from({ length: rows * columns }, () => rng.normal()),
  );
}

/** x·w0·w1 + b, with `tied` also x·w0·w0. */
function chain(width = 64): Model {
  const model = new Model();
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", [1, width]);
  const w0 = weights(width, width, 1);
  const product = b.op("MatMul", [
    b.op("MatMul", [x, b.constant("w0", w0)]),
    b.constant("w1", weights(width, width, 2)),
  ]);
  const sum = b.op("Add", [product, b.constant("b", Tensor.float32([1], [0.5]))]);
  b.output(b.op("Add", [sum, b.op("MatMul", [x, b.constant("tied", w0)])]), "y");
  return model;
}

function countdown(steps: number): AbortSignal {
  // Fires after it has been asked `steps` times.
  const controller = new AbortController();
  let left = steps;
  return new Proxy(controller.signal, {
    get(target, key) {
      if (key === "aborted" && left-- <= 0) return true;
      return Reflect.get(target, key, target) as unknown;
    },
  });
}

describe("saveFile", () => {
  it("writes the very bytes of encodeModel when the weights stay inline", async () => {
    const model = chain();
    const path = join(folder, "m.onnx");
    const saved = await saveFile(model, path);
    expect(saved.files).toEqual([{ path, bytes: saved.bytes }]);
    expect(Buffer.compare(readFileSync(path), await encodeModel(model))).toBe(0);
    expect(readdirSync(folder)).toEqual(["m.onnx"]);
  });

  it("splits above the threshold, aligned, sharing tied weights, and the engine agrees", async () => {
    const model = chain(600); // 1.44 MB a matrix: page-aligned
    const path = join(folder, "m.onnx");
    const saved = await saveFile(model, path, { externalDataThreshold: 1_000_000 });
    expect(saved.files.map((file) => file.path)).toEqual([path, `${path}.data`]);
    expect(statSync(path).size).toBeLessThan(2000);
    const matrix = 600 * 600 * 4;
    expect(saved.files[1]?.bytes).toBe(Math.ceil(matrix / 4096) * 4096 + matrix); // two matrices, not three
    expect(bits(await runOnSynthetic(path))).toEqual(bits(await runOnSynthetic(await encodeModel(model))));
    const loaded = await loadFile(path);
    expect(Buffer.compare(await encodeModel(loaded), await encodeModel(model))).toBe(0);
    expect(loaded.graph.initializers.get("b")?.tensor?.peekNumbers()).toEqual([0.5]); // small ones stay inline
  });

  it("never overwrites without force, neither the model nor its data", async () => {
    const path = join(folder, "m.onnx");
    writeFileSync(path, "mine");
    await expect(saveFile(chain(), path)).rejects.toMatchObject({ code: "output" });
    await expect(saveFile(chain(), path)).rejects.toThrow(/--force/);
    expect(readFileSync(path, "utf8")).toBe("mine");
    const other = join(folder, "n.onnx");
    writeFileSync(`${other}.data`, "mine too");
    await expect(saveFile(chain(), other, { externalDataThreshold: 0 })).rejects.toMatchObject({ code: "output" });
    expect(readdirSync(folder).sort()).toEqual(["m.onnx", "n.onnx.data"]);
    await saveFile(chain(), other, { externalDataThreshold: 0, force: true });
    expect(readdirSync(folder).sort()).toEqual(["m.onnx", "n.onnx", "n.onnx.data"]);
  });

  it("replaces its own input safely, inline and external, more than once", async () => {
    const path = join(folder, "m.onnx");
    const expected = await encodeModel(chain());
    for (const threshold of [0, Number.POSITIVE_INFINITY]) {
      await saveFile(chain(), path, { externalDataThreshold: threshold, force: true });
      const model = await loadFile(path);
      await saveFile(model, path, { externalDataThreshold: threshold, force: true });
      await saveFile(model, path, { externalDataThreshold: threshold, force: true });
      expect(Buffer.compare(await encodeModel(await loadFile(path)), expected)).toBe(0);
      // The model that was loaded before still reads the file that was replaced.
      expect(Buffer.compare(await encodeModel(model), expected)).toBe(0);
    }
  });

  it("computes a lazy tensor once, also when it is split off", async () => {
    for (const externalDataThreshold of [0, Number.POSITIVE_INFINITY]) {
      const model = chain();
      let computed = 0;
      const value = model.graph.initializers.get("w1");
      const bytes = (await value?.tensor?.bytes()) ?? new Uint8Array(0);
      if (value)
        value.tensor = Tensor.lazy("float32", [64, 64], async () => {
          computed++;
          return bytes;
        });
      const path = join(folder, `lazy-${externalDataThreshold}.onnx`);
      await saveFile(model, path, { externalDataThreshold });
      expect(computed).toBe(1);
      expect(Buffer.compare(await encodeModel(await loadFile(path)), await encodeModel(chain()))).toBe(0);
    }
  });

  it("leaves nothing behind when a weight cannot be read, is of the wrong size, or the user stops", async () => {
    const path = join(folder, "m.onnx");
    const broken = chain();
    const value = broken.graph.initializers.get("w1");
    const failing = async (): Promise<Uint8Array> => {
      throw new Error("no such weight");
    };
    for (const compute of [failing, async () => new Uint8Array(3)])
      for (const externalDataThreshold of [0, Number.POSITIVE_INFINITY]) {
        const model = cloneModel(broken);
        const lazy = model.graph.initializers.get(value?.name ?? "");
        if (lazy) lazy.tensor = Tensor.lazy("float32", [64, 64], compute);
        await expect(saveFile(model, path, { externalDataThreshold })).rejects.toThrow();
      }
    for (const steps of [0, 1, 2, 3])
      await expect(
        saveFile(chain(), path, { externalDataThreshold: 0, signal: countdown(steps) }),
      ).rejects.toMatchObject({ code: "aborted" });
    expect(readdirSync(folder)).toEqual([]);
  });

  it("keeps what was there when replacing it fails in the middle", async () => {
    const path = join(folder, "m.onnx");
    await saveFile(chain(), path, { externalDataThreshold: 0 });
    const before = await encodeModel(await loadFile(path));
    await expect(
      saveFile(chain(80), path, { externalDataThreshold: 0, force: true, signal: countdown(3) }),
    ).rejects.toMatchObject({ code: "aborted" });
    expect(Buffer.compare(await encodeModel(await loadFile(path)), before)).toBe(0);
    expect(readdirSync(folder).sort()).toEqual(["m.onnx", "m.onnx.data"]);
  });

  it("says why it cannot write: folder, no folder, no permission, full disk", async () => {
    await expect(saveFile(chain(), folder, { force: true })).rejects.toMatchObject({ code: "output" });
    const absent = join(folder, "absent", "m.onnx");
    await expect(saveFile(chain(), absent)).rejects.toThrow(/folder does not exist.*mkdir/);
    await expect(saveFile(chain(), "/dev/full")).rejects.toMatchObject({ code: "output" });
    if (process.getuid?.() !== 0) {
      chmodSync(folder, 0o500);
      await expect(saveFile(chain(), join(folder, "m.onnx"))).rejects.toMatchObject({ code: "output" });
      chmodSync(folder, 0o700);
    }
    expect(existsSync(absent)).toBe(false);
    const full = outputError(Object.assign(new Error("write"), { code: "ENOSPC" }), "m.onnx");
    expect(full).toMatchObject({ code: "output", found: "ENOSPC" });
    expect(full.message).toMatch(/m\.onnx: The disk is full.*nothing was written/);
  });

  it("reports progress up to the total", async () => {
    const seen: [number, number][] = [];
    const saved = await saveFile(chain(600), join(folder, "m.onnx"), { onProgress: (...call) => seen.push(call) });
    expect(seen.length).toBeGreaterThan(3);
    expect(seen.at(-1)).toEqual([saved.bytes, saved.bytes]);
    for (let i = 1; i < seen.length; i++) expect(seen[i]?.[0]).toBeGreaterThanOrEqual(seen[i - 1]?.[0] ?? 0);
  });
});

describe("saving computed weights", () => {
  const MEBI = 2 ** 20;

  /** A model of weights that can be computed ahead; `log` hears what happens. */
  function computed(
    count: number,
    log: string[],
    compute: (index: number, signal: AbortSignal) => Promise<void>,
  ): Model {
    const model = new Model();
    const b = new Builder(model.graph);
    let x = b.input("x", "uint8", [16 * MEBI]);
    for (let i = 0; i < count; i++) {
      let running: Promise<void> | undefined;
      const source = {
        byteLength: 16 * MEBI,
        prepare: (signal: AbortSignal) => {
          log.push(`begin ${i}`);
          running = compute(i, signal);
          return running;
        },
        read: async () => {
          await running;
          log.push(`read ${i}`);
          return new Uint8Array(16 * MEBI);
        },
      };
      x = b.op("Add", [x, b.constant(`w${i}`, new Tensor("uint8", [16 * MEBI], source))]);
    }
    b.output(x, "y");
    return model;
  }

  it.each([0, Number.POSITIVE_INFINITY])(
    "begins them a bounded stretch ahead, each once (threshold %s)",
    async (at) => {
      const log: string[] = [];
      const model = computed(8, log, async () => undefined);
      await saveFile(model, join(folder, "a.onnx"), { externalDataThreshold: at });
      expect(log.filter((line) => line.startsWith("begin"))).toEqual(Array.from({ length: 8 }, (_, i) => `begin ${i}`));
      let waiting = 0;
      let most = 0;
      for (const line of log) {
        waiting += line.startsWith("begin") ? 1 : -1;
        most = Math.max(most, waiting);
      }
      expect(most).toBeGreaterThan(1);
      expect(most).toBeLessThanOrEqual(5); // 64 MiB and the one being written
    },
  );

  it("stops the others when one fails, and leaves nothing behind", async () => {
    const stopped: number[] = [];
    const model = computed(4, [], (index, signal) =>
      index === 1
        ? Promise.reject(new Error("no weight"))
        : index === 0
          ? Promise.resolve()
          : new Promise((_, reject) =>
              signal.addEventListener("abort", () => {
                stopped.push(index);
                reject(new Error("stopped"));
              }),
            ),
    );
    await expect(saveFile(model, join(folder, "a.onnx"))).rejects.toThrow("no weight");
    expect(stopped).toEqual([2, 3]);
    expect(readdirSync(folder)).toEqual([]);
  });

  it("hands the caller's signal on", async () => {
    const stop = new AbortController();
    const model = computed(
      2,
      [],
      (_, signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener("abort", () => reject(new PareError("aborted", "Stopped")));
          setTimeout(() => stop.abort(), 5);
        }),
    );
    await expect(saveFile(model, join(folder, "a.onnx"), { signal: stop.signal })).rejects.toMatchObject({
      code: "aborted",
    });
    expect(readdirSync(folder)).toEqual([]);
  });
});
