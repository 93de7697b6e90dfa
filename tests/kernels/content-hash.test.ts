/** Content hashes: known digests, independence of where the bytes come from, and long content in pieces. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { contentHash } from "../../src/kernels/content-hash.ts";

const sha256 = (bytes: Uint8Array): Buffer => createHash("sha256").update(bytes).digest();

describe("contentHash", () => {
  it("is the start of SHA-256", async () => {
    expect(await contentHash(new Uint8Array(0))).toBe("e3b0c44298fc1c14");
    expect(await contentHash(new TextEncoder().encode("abc"))).toBe("ba7816bf8f01cfea");
  });

  it("hashes long content in pieces of 16 MiB, read one at a time", async () => {
    const bytes = new Uint8Array(16 * 2 ** 20 + 5).fill(7);
    const expected = sha256(
      Buffer.concat([sha256(bytes.subarray(0, 16 * 2 ** 20)), sha256(bytes.subarray(16 * 2 ** 20))]),
    );
    const reads: number[] = [];
    const source = {
      byteLength: bytes.byteLength,
      read: async (offset: number, length: number) => {
        reads.push(length);
        return bytes.subarray(offset, offset + length);
      },
    };
    expect(await contentHash(source)).toBe(expected.toString("hex").slice(0, 16));
    expect(reads).toEqual([16 * 2 ** 20, 5]);
    expect(await contentHash(bytes)).toBe(await contentHash(source));
  });

  it("tells one flipped bit", async () => {
    const bytes = new Uint8Array(1000);
    const before = await contentHash(bytes);
    bytes[999] = 1;
    expect(await contentHash(bytes)).not.toBe(before);
    expect(await contentHash(new Uint8Array(999))).not.toBe(before);
  });
});
