/** A data set's fingerprint: files may change while their name stays the same. */
import { type TypedData, bytesOf } from "../base/dtype.ts";
import { elementCount } from "../base/shape.ts";
import { contentHash } from "../kernels/content-hash.ts";
import type { NdArray } from "../run/session.ts";
import type { Dataset } from "./dataset.ts";

/** Samples that are read have about so many bytes together, but at least so many are. */
const BYTES = 16 * 2 ** 20;
const FEWEST = 16;
/** Samples of one read. */
const BATCH = 64;

/**
 * 64 bits of SHA-256, as 16 hexadecimal digits, over name, number of samples, fields, and the contents and labels of samples spread
 * evenly from first to last: all of them up to 16 MiB, beyond that so many as fill 16 MiB, and never fewer than sixteen.
 */
export async function fingerprintData(data: Dataset): Promise<string> {
  const { name, size, fields, labels } = data;
  const sampleBytes = fields.reduce((sum, { shape }) => sum + 4 * elementCount(shape), 0);
  const count = Math.min(size, Math.max(FEWEST, Math.floor(BYTES / Math.max(1, sampleBytes))));
  const indices = Array.from({ length: count }, (_, i) =>
    Math.floor((i * Math.max(0, size - 1)) / Math.max(1, count - 1)),
  );
  const parts = [JSON.stringify({ name, size, fields, labels })];
  for (let from = 0; from < count; from += BATCH) {
    const batch = await data.take(indices.slice(from, from + BATCH));
    for (const [field, array] of Object.entries(batch.fields)) parts.push(`${field} ${await hashOf(array)}`);
    if (batch.labels) parts.push(`labels ${await hashOf(batch.labels)}`);
  }
  return contentHash(new TextEncoder().encode(parts.join("\n")));
}

/** Element type, shape and 64 bits of SHA-256 of the elements. */
export async function hashOf({ dtype, shape, data }: NdArray): Promise<string> {
  const bytes =
    dtype === "string" ? new TextEncoder().encode((data as readonly string[]).join("\0")) : bytesOf(data as TypedData);
  return `${dtype} ${shape.join()} ${await contentHash(bytes)}`;
}
