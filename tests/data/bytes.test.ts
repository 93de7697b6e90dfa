import { gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { fileRecords, gunzip } from "../../src/data/bytes.ts";
import { numberedClasses } from "../../src/data/classes.ts";
import type { Host } from "../../src/data/host.ts";
import { nodeHost } from "../../src/data/host.node.ts";
import { errorOf } from "./fixtures.ts";

describe("records", () => {
  it("of a file too large for memory are read one by one, from the right place", async () => {
    const reads: [number, number][] = [];
    const host: Host = {
      ...nodeHost,
      byteLength: () => Promise.resolve(16 + 3 * 2 ** 30),
      read: (_path, offset = 0, length = 0) => {
        reads.push([offset, length]);
        return Promise.resolve(new Uint8Array(length).fill(offset % 251));
      },
    };
    const records = await fileRecords(host, "large", 16, 3);
    expect(records.count).toBe(2 ** 30);
    expect(reads).toEqual([]);
    const { bytes, start } = await records.at(2 ** 30 - 1);
    expect(reads).toEqual([[16 + 3 * (2 ** 30 - 1), 3]]);
    expect([bytes.length, start]).toEqual([3, 0]);
  });
});

describe("gzip", () => {
  it("is bounded in what comes out", async () => {
    const bomb = gzipSync(new Uint8Array(50 * 2 ** 20));
    expect((await errorOf(gunzip(bomb, 1000, "bomb"), "bad-data")).found).toContain("1000");
    expect(await gunzip(gzipSync(Uint8Array.of(1, 2)), 2, "small")).toEqual(Uint8Array.of(1, 2));
    await errorOf(gunzip(Uint8Array.of(1, 2, 3), 9, "other"), "bad-data");
  });
});

describe("numbered classes", () => {
  it("are bounded: a label that is an identifier does not fill memory", () => {
    expect(numberedClasses(2, "t")).toEqual(["0", "1"]);
    expect(() => numberedClasses(1_000_000_000, "t")).toThrow(/out of range/);
  });
});
