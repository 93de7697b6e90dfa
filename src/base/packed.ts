/** 2- and 4-bit elements packed into bytes as ONNX does: the first element in the lowest bits, the last byte padded with 0. */

/** Packs numbers (two's complement where negative; only the low `bits` bits count). */
export function packBits(values: ArrayLike<number>, bits: 2 | 4): Uint8Array {
  const mask = (1 << bits) - 1;
  const count = values.length;
  const bytes = new Uint8Array(Math.ceil((count * bits) / 8));
  for (let i = 0, at = 0; i < count; at++) {
    let byte = 0;
    for (let shift = 0; shift < 8 && i < count; shift += bits) byte |= ((values[i++] as number) & mask) << shift;
    bytes[at] = byte;
  }
  return bytes;
}

/** Unpacks `count` elements, zero-extended. */
export function unpackUnsigned(bytes: Uint8Array, bits: 2 | 4, count: number): Uint8Array {
  const perByte = 8 / bits;
  const mask = (1 << bits) - 1;
  const values = new Uint8Array(count);
  for (let i = 0; i < count; i++)
    values[i] = ((bytes[Math.floor(i / perByte)] as number) >>> (bits * (i % perByte))) & mask;
  return values;
}

/** Unpacks `count` elements, sign-extended. */
export function unpackSigned(bytes: Uint8Array, bits: 2 | 4, count: number): Int8Array {
  const values = new Int8Array(unpackUnsigned(bytes, bits, count).buffer);
  const shift = 32 - bits;
  for (let i = 0; i < count; i++) values[i] = ((values[i] as number) << shift) >> shift;
  return values;
}
