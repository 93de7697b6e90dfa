/** A killed GPTQ, AWQ or HQQ goes on where it was: the same bytes as without the kill, finished weights not solved again. */
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import type { Model } from "../../src/ir/model.ts";
import { saveFile } from "../../src/ir/save.node.ts";
import { compressFile } from "../../src/techniques/compress-file.node.ts";
import { packPart, unpackPart } from "../../src/techniques/finished.ts";
import { FinishedFolder } from "../../src/techniques/finished.node.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import type { Progress, Step } from "../../src/techniques/technique.ts";
import { mlpModel } from "../support/models.ts";
import { runTechnique } from "../support/run-technique.ts";

const folder = mkdtempSync(join(tmpdir(), "pare-finished-"));
afterAll(() => rmSync(folder, { recursive: true }));

const run = async (method: string, rest = {}): Promise<Model> =>
  (await runTechnique(quantizeWeights, mlpModel(), { method, block: 16, minElements: 1, samples: 8 }, undefined, rest))
    .model;

describe.each(["gptq", "awq", "hqq"])("%s", (method) => {
  it("gives the same bytes after a kill, from what was finished", async () => {
    const whole = await encodeModel(await run(method));
    const output = join(folder, `${method}.onnx`);
    const open = (): FinishedFolder => new FinishedFolder(output, async () => method);
    const put = async (
      left: { count: number },
      store: FinishedFolder,
      key: string,
      bytes: Uint8Array,
    ): Promise<void> => {
      if (left.count-- === 0) throw new Error("killed");
      await store.put(key, bytes);
    };
    const first = open();
    const killed = { count: 2 };
    await expect(
      run(method, {
        finished: {
          get: (key: string) => first.get(key),
          put: (...part: [string, Uint8Array]) => put(killed, first, ...part),
        },
      }),
    ).rejects.toThrow("killed");
    const second = open();
    const rest = { count: 1 };
    const model = await run(method, {
      finished: {
        get: (key: string) => second.get(key),
        put: (...part: [string, Uint8Array]) => put(rest, second, ...part),
      },
    });
    expect(rest.count).toBe(0); // the third of three weights only
    expect(Buffer.compare(await encodeModel(model), whole)).toBe(0);
    await second.remove();
    expect(existsSync(join(folder, `.${method}.onnx.finished`))).toBe(false);
  });
});

describe("what is kept", () => {
  it("is given up where samples of the same name and number have changed", async () => {
    const [input, output] = [join(folder, "data-in.onnx"), join(folder, "data-out.onnx")];
    await saveFile(mlpModel(), input);
    const samples = (shift: number): Dataset => {
      const x = Float32Array.from({ length: 16 * 16 }, (_, i) => Math.sin(i + shift));
      return datasetOf({ fields: { input: { dtype: "float32", shape: [16, 16], data: x } } });
    };
    const step = (): Step => quantizeWeights({ method: "gptq", block: 16, minElements: 1, samples: 16 });
    /** When the last part was kept by a run that is killed while it writes. */
    const lastKept = async (data: Dataset): Promise<number> => {
      const onProgress = ({ stage }: Progress): void => {
        if (stage === "writing") throw new Error("killed");
      };
      await expect(compressFile(input, output, [step()], { threads: 1, data, onProgress })).rejects.toThrow("killed");
      const parts = join(folder, ".data-out.onnx.finished");
      return Math.max(...readdirSync(parts).map((name) => statSync(join(parts, name)).mtimeMs));
    };
    const first = await lastKept(samples(0));
    expect(await lastKept(samples(0))).toBe(first);
    expect(await lastKept(samples(1))).toBeGreaterThan(first);
    rmSync(join(folder, ".data-out.onnx.finished"), { recursive: true });
    rmSync(input);
  });

  it("belongs to one run: another recipe, input or seed starts anew", async () => {
    const output = join(folder, "other.onnx");
    await new FinishedFolder(output, async () => "a").put("key", Uint8Array.of(1));
    const other = new FinishedFolder(output, async () => "b");
    expect(await other.get("key")).toBeUndefined();
    await other.put("second", Uint8Array.of(2));
    expect(await new FinishedFolder(output, async () => "a").get("key")).toBeUndefined();
    expect(await new FinishedFolder(output, async () => "b").get("second")).toEqual(Buffer.of(2));
    await other.remove();
  });

  it("is gone when the output is in its place", async () => {
    const [input, output] = [join(folder, "in.onnx"), join(folder, "out.onnx")];
    await saveFile(mlpModel(), input);
    await compressFile(input, output, [quantizeWeights({ method: "hqq", block: 16, minElements: 1 })], { threads: 1 });
    expect(readdirSync(folder).sort()).toEqual(["in.onnx", "out.onnx"]);
  });

  it("reads back as it was packed", () => {
    const parts = [Uint8Array.of(1, 2, 3), new Uint8Array(0), Uint8Array.of(4)];
    expect(unpackPart(packPart({ a: [1, "ŵ"] }, parts))).toEqual({ header: { a: [1, "ŵ"] }, arrays: parts });
  });
});
