import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { zipSync } from "fflate";
import { describe, expect, it } from "vitest";
import { csvRows } from "../../src/data/csv-parse.ts";
import { parseNpy } from "../../src/data/npy.ts";
import { openDataset } from "../../src/data/open.node.ts";
import { describeWithData } from "../support/shared-data.ts";
import { bytesUnder, errorOf, labelsOf, npyBytes, temporaryFolder, valuesOf } from "./fixtures.ts";

const root = temporaryFolder();

function write(name: string, content: string | Uint8Array): string {
  writeFileSync(join(root, name), content);
  return join(root, name);
}

describe("csv", () => {
  const houses = write(
    "houses.csv",
    "rooms,age,price,place\n1,10,100,sea\n2,20,300,hill\n3,40,200,sea\n4,30,400,town\n",
  );

  it("parses quotes, doubled quotes and line ends", () => {
    expect([...csvRows('﻿a,"b ""x"", y"\r\n\n1,\r\n"2\n3",4')]).toEqual([
      ["a", 'b "x", y'],
      ["1", ""],
      ["2\n3", "4"],
    ]);
    expect(() => [...csvRows('a\n"b')]).toThrow(/not closed/);
  });

  it("takes columns as features and one as target or class", async () => {
    const values = await openDataset(`csv:${houses}?columns=rooms,1&target=price&targetMean=100&targetStd=100`);
    expect(values.labels).toBe("values");
    expect(await valuesOf(values, [1, 3])).toEqual([2, 20, 4, 30]);
    expect(await labelsOf(values, [0, 1, 2, 3])).toEqual([0, 2, 1, 3]);
    const classes = await openDataset(`csv:${houses}?columns=rooms&label=place`);
    expect(classes.classes).toEqual(["hill", "sea", "town"]);
    expect(await labelsOf(classes, [0, 1, 3])).toEqual([1, 0, 2]);
    const oneHot = await openDataset(`csv:${houses}?columns=place,rooms&target=price&categories=one-hot`);
    expect(await valuesOf(oneHot, [0])).toEqual([0, 1, 0, 1]);
  });

  it("standardizes by the rows that the name gives, and by no others", async () => {
    const set = await openDataset(`csv:${houses}?columns=rooms&fit=train&train=0,0.5&target=price`);
    expect(await valuesOf(set, [0, 1, 2, 3])).toEqual([-1, 1, 3, 5]);
    const given = await openDataset(`csv:${houses}?columns=rooms,age&mean=1,10&std=1,10&target=price`);
    expect(await valuesOf(given, [2])).toEqual([2, 3]);
  });

  it("says what is wrong", async () => {
    const open = (name: string) => openDataset(`csv:${name}`);
    await errorOf(open(`${root}/absent.csv`), "missing-file");
    expect((await errorOf(open(`${houses}?target=prise`), "bad-data")).help).toContain("price");
    expect((await errorOf(open(`${houses}?target=price`), "bad-data")).message).toContain("Row 1, column 'place'");
    expect((await errorOf(open(write("gap.csv", "a,b\n1,2\n3\n")), "bad-data")).message).toContain("Row 2");
    const empty = write("empty.csv", "a,b\n1,2\n,4\n");
    expect((await errorOf(open(empty), "bad-data")).help).toContain("missing=skip");
    expect((await open(`${empty}?missing=skip`)).size).toBe(1);
    expect(await valuesOf(await open(`${empty}?missing=9`), [1])).toEqual([9, 4]);
    await errorOf(open(`${houses}?columns=rooms&mean=1,2`), "bad-data");
    await errorOf(open(write("none.csv", "a,b\n")), "bad-data");
  });
});

describe("npy", () => {
  const body = bytesUnder(Float32Array.of(1, 2, 3, 4, 5, 6));

  it("reads byte orders, memory orders and integer types", () => {
    expect([...parseNpy(npyBytes("<f4", [2, 3], body), "t").data]).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...parseNpy(npyBytes("<f4", [2, 3], body, true), "t").data]).toEqual([1, 3, 5, 2, 4, 6]);
    expect([...parseNpy(npyBytes(">i2", [2], Uint8Array.of(1, 0, 255, 255)), "t").data]).toEqual([256, -1]);
    expect([...parseNpy(npyBytes("<i8", [1], bytesUnder(BigInt64Array.of(-7n))), "t").data]).toEqual([-7n]);
    expect(parseNpy(npyBytes("|b1", [2], Uint8Array.of(1, 0)), "t").dtype).toBe("bool");
    expect(parseNpy(npyBytes("<f2", [1], Uint8Array.of(0, 60)), "t").dtype).toBe("float16");
  });

  it("refuses objects, truncation and other files", () => {
    expect(() => parseNpy(npyBytes("|O", [2], body), "t")).toThrow(/header/);
    expect(() => parseNpy(npyBytes("<f4", [2, 4], body), "t")).toThrow(/declares/);
    expect(() => parseNpy(Uint8Array.of(1, 2, 3), "t")).toThrow(/not a .npy/);
    expect(() => parseNpy(npyBytes("<f4", [99999999, 99999999], body), "t")).toThrow(/declares/);
  });
});

describe("npz", () => {
  const x = npyBytes("<f8", [3, 2], bytesUnder(Float64Array.of(1, 2, 3, 4, 5, 6)));
  const y = npyBytes("<i8", [3, 1], bytesUnder(BigInt64Array.of(2n, 0n, 1n)));
  const archive = write("set.npz", zipSync({ "x.npy": x, "y.npy": y, "z.npy": x }));

  it("takes arrays as fields and labels", async () => {
    const set = await openDataset(`npz:${archive}?input=x&scale=2&shape=1,2`);
    expect(set.fields).toEqual([{ name: "x", dtype: "float32", shape: [1, 2] }]);
    expect(await valuesOf(set, [2, 0])).toEqual([2.5, 3, 0.5, 1]);
    expect(await labelsOf(set, [0, 1, 2])).toEqual([2, 0, 1]);
    const all = await openDataset(`npz:${archive}?labels=none&dtype=keep`);
    expect(all.fields.map((field) => `${field.name} ${field.dtype}`)).toEqual(["x float64", "y int64", "z float64"]);
    expect(all.labels).toBeUndefined();
    write("x.npy", x);
    write("y.npy", y);
    const pair = await openDataset(`npz:${root}/x.npy?labels=y.npy&kind=values&name=input`);
    expect(await labelsOf(pair, [0])).toEqual([2]);
    expect(pair.labels).toBe("values");
  });

  it("says what is wrong", async () => {
    const open = (options: string) => openDataset(`npz:${archive}${options}`);
    expect((await errorOf(open("?input=w"), "bad-data")).expected).toContain("x, y, z");
    expect((await errorOf(open("?input=x&classes=2"), "bad-data")).message).toContain("out of range");
    expect((await errorOf(open("?input=x&shape=3"), "bad-data")).expected).toContain("[2]");
    expect((await errorOf(open("?shape=2"), "bad-data")).found).toBe("2 inputs");
    const cut = write("cut.npz", zipSync({ "x.npy": x }).subarray(0, 60));
    await errorOf(openDataset(`npz:${cut}`), "bad-data");
    const uneven = write(
      "uneven.npz",
      zipSync({ "x.npy": x, "y.npy": npyBytes("<i8", [2], bytesUnder(BigInt64Array.of(1n, 2n))) }),
    );
    expect((await errorOf(openDataset(`npz:${uneven}`), "bad-data")).message).toContain("number of samples");
  });
});

describe("audio", () => {
  it("dequantizes features: y = (x − zero) · scale", async () => {
    mkdirSync(join(root, "kws"));
    write("kws/k-features.npy", npyBytes("|i1", [2, 1, 2], Uint8Array.of(0, 1, 255, 128)));
    write("kws/k-labels.npy", npyBytes("|u1", [2], Uint8Array.of(1, 0)));
    write("kws/k-classes.json", '["no", "yes"]');
    const set = await openDataset(`audio:${root}/kws?scale=0.5&zero=1&shape=2`);
    expect(await valuesOf(set, [0, 1])).toEqual([-0.5, 0, -1, -64.5]);
    expect(set.classes).toEqual(["no", "yes"]);
    write("kws/k-labels.npy", npyBytes("|u1", [2], Uint8Array.of(1, 2)));
    expect((await errorOf(openDataset(`audio:${root}/kws`), "bad-data")).message).toContain("out of range");
  });

  it("cuts a .wav into windows", async () => {
    const wav = Buffer.alloc(44 + 12);
    wav.write("RIFF", 0);
    wav.writeUInt32LE(48, 4);
    wav.write("WAVEfmt ", 8);
    wav.writeUInt32LE(16, 16);
    for (const [at, value] of [
      [20, 1],
      [22, 1],
      [32, 2],
      [34, 16],
    ] as const)
      wav.writeUInt16LE(value, at);
    wav.write("data", 36);
    wav.writeUInt32LE(12, 40);
    for (let i = 0; i < 6; i++) wav.writeInt16LE((i - 2) * 4096, 44 + 2 * i);
    const path = write("a.wav", wav);
    const set = await openDataset(`audio:${path}?length=3&stride=2`);
    expect(set.size).toBe(2);
    expect(await valuesOf(set, [1])).toEqual([0, 0.125, 0.25]);
    await errorOf(openDataset(`audio:${path}?length=7`), "bad-data");
    await errorOf(openDataset(`audio:${write("cut.wav", wav.subarray(0, 50))}?length=2`), "bad-data");
  });
});

describeWithData("california-housing", "tabular/california-housing.csv", (path) => {
  it("opens with its words and gaps dealt with by name", async () => {
    await errorOf(openDataset(`csv:${path}?target=median_house_value`), "bad-data");
    const set = await openDataset(
      `csv:${path}?target=median_house_value&categories=one-hot&missing=skip&fit=train&targetStd=100000`,
    );
    expect(set.size).toBe(20_433);
    expect(set.fields[0]?.shape).toEqual([13]);
  });
});

describeWithData("keyword spotting", "audio/kws01", (path) => {
  it("has 1,000 features of 12 classes", async () => {
    const set = await openDataset(`audio:${path}?scale=0.5847&zero=83&shape=1,49,10`);
    expect([set.size, set.classes?.length]).toEqual([1000, 12]);
  });
});
