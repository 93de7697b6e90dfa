import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { openDataset } from "../../src/data/open.node.ts";
import { describeWithData } from "../support/shared-data.ts";
import { errorOf, idxBytes, labelsOf, temporaryFolder, valuesOf } from "./fixtures.ts";

const root = temporaryFolder();
const pixels = Array.from({ length: 3 * 2 * 3 }, (_, i) => i * 10);

/** A folder with the given files; undefined leaves a file out. */
function folder(name: string, files: Record<string, Uint8Array>): string {
  const path = join(root, name);
  mkdirSync(path, { recursive: true });
  for (const [file, bytes] of Object.entries(files)) writeFileSync(join(path, file), bytes);
  return path;
}

const images = idxBytes([3, 2, 3], pixels);
const labels = idxBytes([3], [0, 2, 1]);
const plain = folder("plain", { "t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": labels });
const packed = folder("packed", {
  "train-images.idx3-ubyte.gz": gzipSync(images),
  "train-labels.idx1-ubyte.gz": gzipSync(labels),
});

describe("idx", () => {
  it("reads plain and gzip files alike", async () => {
    const test = await openDataset(`idx:${plain}?split=test`);
    const train = await openDataset(`idx:${packed}`);
    expect(test.size).toBe(3);
    expect(test.fields).toEqual([{ name: "image", dtype: "float32", shape: [1, 2, 3] }]);
    expect(await valuesOf(test, [2, 0])).toEqual([...pixels.slice(12), ...pixels.slice(0, 6)]);
    expect(await valuesOf(train, [0, 1, 2])).toEqual(pixels);
    expect(await labelsOf(train, [0, 1, 2])).toEqual([0, 2, 1]);
    expect(train.classes).toEqual(["0", "1", "2"]);
  });

  it("pads and resizes as the name says", async () => {
    const padded = await openDataset(`idx:${plain}?split=test&pad=1&scale=10&mean=1`);
    expect(padded.fields[0]?.shape).toEqual([1, 4, 5]);
    const values = await valuesOf(padded, [0]);
    expect(values.slice(0, 6)).toEqual([-1, -1, -1, -1, -1, -1]);
    expect(values.slice(6, 9)).toEqual([-1, 0, 1]);
    const larger = await valuesOf(await openDataset(`idx:${plain}?split=test&size=4x6`), [0]);
    expect(larger).toHaveLength(24);
    expect(larger[0]).toBe(0);
    expect(larger.at(-1)).toBe(50);
    const turned = await openDataset(`idx:${plain}?split=test&size=3x2`);
    expect(turned.fields[0]?.shape).toEqual([1, 3, 2]);
    expect(await valuesOf(turned, [0])).not.toEqual(pixels.slice(0, 6));
  });

  it("says what is wrong with the files", async () => {
    const open = (name: string) => openDataset(`idx:${name}`);
    expect((await errorOf(open(join(root, "absent")), "missing-file")).message).toContain("absent");
    expect((await errorOf(open(plain), "missing-file")).message).toContain("train images");
    const magic = folder("magic", {
      "train-images-idx3-ubyte": Uint8Array.of(1, 2, 3, 4),
      "train-labels-idx1-ubyte": labels,
    });
    expect((await errorOf(open(magic), "bad-data")).found).toContain("01 02 03 04");
    const cut = folder("cut", { "train-images-idx3-ubyte": images.subarray(0, 30), "train-labels-idx1-ubyte": labels });
    expect((await errorOf(open(cut), "bad-data")).message).toContain("header declares");
    const gzip = gzipSync(images);
    const cutGzip = folder("cut-gzip", {
      "train-images-idx3-ubyte.gz": gzip.subarray(0, gzip.length - 12),
      "train-labels-idx1-ubyte": labels,
    });
    expect((await errorOf(open(cutGzip), "bad-data")).message).toContain("gzip");
    const fewer = folder("fewer", {
      "train-images-idx3-ubyte": images,
      "train-labels-idx1-ubyte": idxBytes([2], [0, 1]),
    });
    expect((await errorOf(open(fewer), "bad-data")).found).toContain("3 images");
    const huge = folder("huge", {
      "train-images-idx3-ubyte": idxBytes([0xffffffff, 0xffffffff, 0xffffffff], []),
      "train-labels-idx1-ubyte": labels,
    });
    await errorOf(open(huge), "bad-data");
  });
});

describeWithData("MNIST", "mnist", (path) => {
  it("has the known labels and pixels", async () => {
    const set = await openDataset(`idx:${path}?split=test&scale=255`);
    expect(set.size).toBe(10_000);
    expect(await labelsOf(set, [0, 1, 2, 3, 4])).toEqual([7, 2, 1, 0, 4]);
    const values = await valuesOf(set, [0]);
    expect(Math.max(...values)).toBe(1);
    expect(values.filter((value) => value > 0)).toHaveLength(116);
  });
});
