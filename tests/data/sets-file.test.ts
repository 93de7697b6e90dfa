import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openDataset } from "../../src/data/open.node.ts";
import { errorOf, idxBytes, labelsOf, temporaryFolder, valuesOf } from "./fixtures.ts";

const root = temporaryFolder();
mkdirSync(join(root, "digits"));
writeFileSync(join(root, "digits", "train-images-idx3-ubyte"), idxBytes([2, 1, 2], [0, 10, 20, 30]));
writeFileSync(join(root, "digits", "train-labels-idx1-ubyte"), idxBytes([2], [1, 0]));

function yaml(name: string, text: string): string {
  writeFileSync(join(root, name), text);
  return join(root, name);
}

const file = yaml(
  "data.yaml",
  "splits:\n  train: idx:digits\n  test: idx:digits?scale=1&limit=1\npreprocess: { scale: 10, mean: [1] }\ninputs: { Input3: image }\n",
);

describe("YAML files of data sets", () => {
  it("open a split under the model's input names, preprocessing shared, paths relative to the file", async () => {
    const train = await openDataset(`${file}?split=train`);
    expect(train.fields).toEqual([{ name: "Input3", dtype: "float32", shape: [1, 1, 2] }]);
    expect(await valuesOf(train, [1, 0])).toEqual([1, 2, -1, 0]);
    expect(await labelsOf(train, [1, 0])).toEqual([0, 1]);
    expect(train.labelShape).toEqual([]);
    const test = await openDataset(`${file}?split=test`);
    expect(test.size).toBe(1);
    expect(await valuesOf(test, [0])).toEqual([-1, 9]);
  });

  it("take a split from the caller when the name gives none, and have a name that opens again", async () => {
    await errorOf(openDataset(file), "bad-data");
    expect((await openDataset(file, { defaultSplit: "test" })).size).toBe(1);
    const part = (await openDataset(`${file}?split=train`)).subset({ part: [0.5, 1] });
    expect(await valuesOf(await openDataset(part.name), [0])).toEqual([1, 2]);
  });

  it("say what is wrong", async () => {
    await errorOf(openDataset(`${root}/none.yaml`), "missing-file");
    expect((await errorOf(openDataset(`${file}?split=tset`), "bad-data")).help).toContain("test");
    expect((await errorOf(openDataset(`${file}?splt=test`), "bad-data")).help).toContain("split");
    await errorOf(openDataset(yaml("a.yaml", "splits: [1, 2]")), "bad-data");
    await errorOf(openDataset(yaml("b.yaml", "split: { a: 'idx:digits' }")), "bad-data");
    await errorOf(openDataset(yaml("c.yaml", "splits: { a: [")), "bad-data");
    await errorOf(openDataset(yaml("d.yaml", "splits: { a: d.yaml }")), "bad-data");
    const wrong = yaml("e.yaml", "splits: { a: 'idx:digits' }\ninputs: { x: picture }");
    expect((await errorOf(openDataset(wrong), "bad-data")).expected).toBe("image");
  });
});
