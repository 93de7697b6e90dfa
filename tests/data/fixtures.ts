/** Small files in a temporary folder for the tests of readers, and helpers that ask for errors. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect } from "vitest";
import { PareError } from "../../src/base/error.ts";
import type { Dataset } from "../../src/data/dataset.ts";

/** A temporary folder, removed after the file's tests. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "pare-data-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** An IDX file of unsigned bytes. */
export function idxBytes(shape: readonly number[], values: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(4 + 4 * shape.length + values.length);
  bytes.set([0, 0, 8, shape.length]);
  const view = new DataView(bytes.buffer);
  for (const [axis, size] of shape.entries()) view.setUint32(4 + 4 * axis, size);
  bytes.set(Uint8Array.from(values), 4 + 4 * shape.length);
  return bytes;
}

/** A .npy file: `descr` such as "<f4" or ">i2", elements already in that form. */
export function npyBytes(descr: string, shape: readonly number[], body: Uint8Array, fortran = false): Uint8Array {
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '${descr}', 'fortran_order': ${fortran ? "True" : "False"}, 'shape': (${tuple}), }`;
  const header = `${text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11)}\n`;
  const bytes = new Uint8Array(10 + header.length + body.length);
  bytes.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  bytes.set(new TextEncoder().encode(header), 10);
  bytes.set(body, 10 + header.length);
  return bytes;
}

export function bytesUnder(array: Float32Array | Float64Array | Int16Array | Uint8Array | BigInt64Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** The error that a promise ends with; fails when it does not end with a PareError of that code. */
export async function errorOf(promise: Promise<unknown>, code: PareError["code"]): Promise<PareError> {
  const error: unknown = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(PareError);
  expect((error as PareError).code).toBe(code);
  return error as PareError;
}

/** Numbers of one field of the samples at `indices`. */
export async function valuesOf(dataset: Dataset, indices: readonly number[], field?: string): Promise<number[]> {
  const batch = await dataset.take(indices);
  const array = batch.fields[field ?? dataset.fields[0]?.name ?? ""];
  return Array.from((array?.data ?? []) as ArrayLike<number | bigint>, Number);
}

export async function labelsOf(dataset: Dataset, indices: readonly number[]): Promise<number[]> {
  return Array.from(((await dataset.take(indices)).labels?.data ?? []) as Int32Array);
}
