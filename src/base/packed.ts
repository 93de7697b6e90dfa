/** Elements of few bits packed into bytes as ONNX does: the first element in the lowest bits, the last byte padded with 0; those of 3, 5 and 6 bits as two planes. */

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

/** Widths of codes that {@link packCodes} packs. */
export type CodeBits = 1 | 2 | 3 | 4 | 5 | 6 | 8;

/** Bits of the planes that codes are stored in, low bits first: a plane of 1, 2 or 4 bits fills bytes without a rest. */
export function planesOf(bits: CodeBits): readonly (1 | 2 | 4 | 8)[] {
  switch (bits) {
    case 3:
      return [2, 1];
    case 5:
      return [4, 1];
    case 6:
      return [4, 2];
    default:
      return [bits];
  }
}

/** Bytes of `count` codes of so many bits, plane after plane. */
export function packedBytes(count: number, bits: CodeBits): number {
  return planesOf(bits).reduce<number>((bytes, plane) => bytes + Math.ceil((count * plane) / 8), 0);
}

/** Codes in as few bytes as they need: the low bits of all codes, then the bits above them (see {@link planesOf}). */
export function packCodes(codes: Uint8Array, bits: CodeBits): Uint8Array {
  if (bits === 8) return codes;
  const packed = new Uint8Array(packedBytes(codes.length, bits));
  let [at, shift] = [0, 0];
  for (const plane of planesOf(bits)) {
    const fields = shift === 0 ? codes : codes.map((code) => code >> shift);
    const bytes = packBits(fields, plane as 1 | 2 | 4);
    packed.set(bytes, at);
    at += bytes.length;
    shift += plane;
  }
  return packed;
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
