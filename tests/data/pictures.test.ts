import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { beforeAll, describe, expect, it } from "vitest";
import { openDataset } from "../../src/data/open.node.ts";
import { describeWithData } from "../support/shared-data.ts";
import { errorOf, labelsOf, temporaryFolder, valuesOf } from "./fixtures.ts";

const root = temporaryFolder();

/** A PNG whose pixel (y, x) is (10 y, 20 x, 7). */
async function gradient(height: number, width: number): Promise<Buffer> {
  const pixels = Buffer.alloc(height * width * 3);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) pixels.set([10 * y, 20 * x, 7], (y * width + x) * 3);
  return sharp(pixels, { raw: { height, width, channels: 3 } })
    .png()
    .toBuffer();
}

beforeAll(async () => {
  for (const [path, height, width] of [
    ["set/cat/a.png", 4, 6],
    ["set/cat/b.PNG", 4, 6],
    ["set/dog/a.png", 4, 6],
    ["odd/cat/a.png", 4, 6],
    ["odd/cat/b.png", 6, 4],
    ["flat/one.png", 4, 6],
    ["flat/two.png", 4, 6],
  ] as const) {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), await gradient(height, width));
  }
  writeFileSync(join(root, "set/cat/notes.txt"), "not a picture");
  writeFileSync(join(root, "flat/labels.csv"), "label,file\n3,two.png\n1,one.png\n");
  writeFileSync(join(root, "flat/words.csv"), "file,label\none.png,zebra\ntwo.png,ant\n");
  writeFileSync(join(root, "flat/absent.csv"), "file,label\nthree.png,1\n");
  writeFileSync(join(root, "flat/minus.csv"), "file,label\none.png,-1\n");
  writeFileSync(join(root, "flat/columns.csv"), "name,class\none.png,1\n");
  mkdirSync(join(root, "broken/cat"), { recursive: true });
  writeFileSync(join(root, "broken/cat/a.png"), await gradient(4, 6));
  writeFileSync(join(root, "broken/cat/b.jpg"), "this is no JPEG");
  writeFileSync(join(root, "broken/cat/c.png"), (await gradient(40, 60)).subarray(0, 90));
});

describe("images", () => {
  it("reads a folder per class, in the layout of the name", async () => {
    const set = await openDataset(`images:${root}/set`);
    expect(set.size).toBe(3);
    expect(set.classes).toEqual(["cat", "dog"]);
    expect(set.fields[0]?.shape).toEqual([3, 4, 6]);
    expect(await labelsOf(set, [0, 1, 2])).toEqual([0, 0, 1]);
    const planes = await valuesOf(set, [0]);
    expect(planes.slice(0, 7)).toEqual([0, 0, 0, 0, 0, 0, 10]);
    expect(planes.slice(24, 30)).toEqual([0, 20, 40, 60, 80, 100]);
    const rows = await valuesOf(await openDataset(`images:${root}/set?layout=nhwc&mean=0,10,7&std=1,10,1`), [2]);
    expect(rows.slice(0, 6)).toEqual([0, -1, 0, 0, 1, 0]);
  });

  it("gives the same pixels when a picture is taken again, without decoding it again", async () => {
    mkdirSync(join(root, "twice/cat"), { recursive: true });
    writeFileSync(join(root, "twice/cat/a.png"), await gradient(4, 6));
    writeFileSync(join(root, "twice/cat/b.png"), await gradient(4, 6));
    const set = await openDataset(`images:${root}/twice`);
    const first = await set.take([1, 0]);
    rmSync(join(root, "twice/cat/b.png"));
    expect(await set.take([1, 0])).toEqual(first);
  });

  it("crops the centre, resizes the short side, stretches", async () => {
    const crop = await valuesOf(await openDataset(`images:${root}/set?crop=2`), [0]);
    expect(crop).toEqual([10, 10, 20, 20, 40, 60, 40, 60, 7, 7, 7, 7]);
    expect((await openDataset(`images:${root}/set?resize=8`)).fields[0]?.shape).toEqual([3, 8, 12]);
    expect((await openDataset(`images:${root}/set?resize=8&crop=6x10`)).fields[0]?.shape).toEqual([3, 6, 10]);
    expect((await openDataset(`images:${root}/odd?size=5x7`)).fields[0]?.shape).toEqual([3, 5, 7]);
    const gray = await openDataset(`images:${root}/set?color=gray`);
    expect(gray.fields[0]?.shape).toEqual([1, 4, 6]);
    const values = await valuesOf(gray, [0]);
    expect(values.at(-1)).toBeGreaterThan(values[0] as number);
  });

  it("reads labels from a table, numbers or words, beside the pictures or from the working directory", async () => {
    const set = await openDataset(`images:${root}/flat?labels=labels.csv`);
    expect(await labelsOf(set, [0, 1])).toEqual([3, 1]);
    expect(set.classes).toHaveLength(4);
    expect((await openDataset(`images:${root}/flat?labels=labels.csv&classes=10`)).classes).toHaveLength(10);
    const words = await openDataset(`images:${root}/flat?labels=${root}/flat/words.csv`);
    expect(words.classes).toEqual(["ant", "zebra"]);
    expect(await labelsOf(words, [0, 1])).toEqual([1, 0]);
  });

  it("says what is wrong", async () => {
    const open = (name: string) => openDataset(`images:${root}/${name}`);
    await errorOf(open("nowhere"), "missing-file");
    expect((await errorOf(open("flat"), "bad-data")).help).toContain("labels=");
    expect((await errorOf(open("flat?labels=none.csv"), "missing-file")).expected).toContain("working directory");
    expect((await errorOf(open("flat?labels=absent.csv"), "missing-file")).found).toBe("three.png");
    expect((await errorOf(open("flat?labels=minus.csv"), "bad-data")).found).toBe("-1");
    expect((await errorOf(open("flat?labels=columns.csv"), "bad-data")).expected).toContain("file and label");
    expect((await errorOf(open("flat?labels=labels.csv&classes=2"), "bad-data")).message).toContain("out of range");
    await errorOf(open("set?size=4&crop=2"), "bad-data");
    expect((await errorOf(open("set?crop=99"), "bad-data")).message).toContain("smaller than the crop");
    const odd = await open("odd");
    expect((await errorOf(odd.take([0, 1]), "bad-data")).where).toContain("b.png");
    const broken = await open("broken");
    expect((await errorOf(broken.take([0, 1]), "bad-data")).where).toContain("b.jpg");
    expect((await errorOf(broken.take([2]), "bad-data")).where).toContain("c.png");
  });
});

describe("cifar10", () => {
  const record = (label: number): Uint8Array => {
    const bytes = new Uint8Array(3073).fill(label * 2, 1, 1025).fill(label * 3, 1025);
    bytes[0] = label;
    return bytes;
  };
  it("reads records over several files", async () => {
    const folder = join(root, "cifar");
    mkdirSync(folder);
    writeFileSync(join(folder, "data_batch_1.bin"), Buffer.concat([record(3), record(1)]));
    writeFileSync(join(folder, "data_batch_2.bin"), record(9));
    writeFileSync(join(folder, "test_batch.bin"), record(10));
    const set = await openDataset(`cifar10:${folder}?layout=nhwc`);
    expect(set.size).toBe(3);
    expect(set.fields[0]?.shape).toEqual([32, 32, 3]);
    expect(await labelsOf(set, [2, 0, 1])).toEqual([9, 3, 1]);
    expect((await valuesOf(set, [2])).slice(0, 4)).toEqual([18, 27, 27, 18]);
    const test = await openDataset(`cifar10:${folder}?split=test`);
    expect((await errorOf(test.take([0]), "bad-data")).found).toBe("10");
    writeFileSync(join(folder, "test_batch.bin"), record(1).subarray(1));
    await errorOf(openDataset(`cifar10:${folder}?split=test`), "bad-data");
    await errorOf(openDataset(`cifar10:${join(root, "set")}`), "missing-file");
  });
});

describeWithData("imagenet-mini", "imagenet-mini", (path) => {
  it("streams pictures in the order of their labels", async () => {
    const set = await openDataset(
      `images:${path}/images?labels=${path}/labels.csv&resize=256&crop=224&classes=1000&limit=6`,
    );
    let samples = 0;
    for await (const batch of set.batches({ size: 4 })) {
      expect(batch.fields["image"]?.shape.slice(1)).toEqual([3, 224, 224]);
      samples += batch.size;
    }
    expect(samples).toBe(6);
    expect(await labelsOf(set, [0, 1, 2])).toEqual([0, 2, 4]);
  });
});
