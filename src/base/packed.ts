/** 2- and 4-bit elements packed into bytes as ONNX does: the first element in the lowest bits, the last byte padded with 0; 3-bit elements as two planes. */

/** Packs numbers (two's complement where negative; only the low `bits` bits count). */
export function packBits(values: ArrayLike<number>, bits: 1 | 2 | 4): Uint8Array {
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

/** Bytes of `count` codes of so many bits; 3-bit codes take a plane of 2 bits and one of 1. */
export function packedBytes(count: number, bits: 2 | 3 | 4 | 8): number {
  return bits === 3 ? Math.ceil(count / 4) + Math.ceil(count / 8) : Math.ceil((count * bits) / 8);
}

/** Codes in as few bytes as they need: of 3 bits the lower two of all codes, then the third of all codes. */
export function packCodes(codes: Uint8Array, bits: 2 | 3 | 4 | 8): Uint8Array {
  if (bits === 8) return codes;
  if (bits !== 3) return packBits(codes, bits);
  const planes = new Uint8Array(packedBytes(codes.length, 3));
  planes.set(packBits(codes, 2));
  planes.set(
    packBits(
      codes.map((code) => code >> 2),
      1,
    ),
    Math.ceil(codes.length / 4),
  );
  return planes;
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
