/** Finished parts of a long step, which survive a kill of the process: the next run of the same recipe on the same input takes them over. */

export interface Finished {
  /** What an earlier run kept under the key, if it did. */
  get(key: string): Promise<Uint8Array | undefined>;
  /** Keeps a part; whole or not at all. */
  put(key: string, bytes: Uint8Array): Promise<void>;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A header that JSON can hold and arrays behind it, as one piece. */
export function packPart(header: unknown, arrays: readonly Uint8Array[]): Uint8Array {
  const text = encoder.encode(JSON.stringify({ header, lengths: arrays.map(({ byteLength }) => byteLength) }));
  const total = arrays.reduce((sum, { byteLength }) => sum + byteLength, 4 + text.length);
  const bytes = new Uint8Array(total);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  let at = 4 + text.length;
  for (const array of arrays) {
    bytes.set(array, at);
    at += array.byteLength;
  }
  return bytes;
}

/** What {@link packPart} packed, the arrays in buffers of their own. */
export function unpackPart(bytes: Uint8Array): { readonly header: unknown; readonly arrays: readonly Uint8Array[] } {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const { header, lengths } = JSON.parse(decoder.decode(bytes.subarray(4, 4 + length))) as {
    header: unknown;
    lengths: number[];
  };
  let at = 4 + length;
  return { header, arrays: lengths.map((size) => new Uint8Array(bytes.subarray(at, (at += size)))) };
}
