/** Packing of 2- and 4-bit elements, and every dtype as float32. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DTYPES, type DType, byteLengthOf, bytesOf } from "../../src/base/dtype.ts";
import { packBits, unpackSigned, unpackUnsigned } from "../../src/base/packed.ts";
import { toFloat32 } from "../../src/base/to-float32.ts";

describe("packing", () => {
  it("puts the first element into the lowest bits, as ONNX does", () => {
    expect(Array.from(packBits([1, 2, 15], 4))).toEqual([0x21, 0x0f]);
    expect(Array.from(packBits([-1, -8], 4))).toEqual([0x8f]);
    expect(Array.from(packBits([1, 2, 3, 0, 1], 2))).toEqual([0b00_11_10_01, 0b01]);
    expect(Array.from(packBits([-1, -2, 1, 0], 2))).toEqual([0b00_01_10_11]);
    expect(packBits([], 4).length).toBe(0);
  });

  it("comes back, signed and unsigned, for any length", () => {
    for (const bits of [2, 4] as const) {
      const unsigned = fc.array(fc.integer({ min: 0, max: 2 ** bits - 1 }));
      const signed = fc.array(fc.integer({ min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 }));
      fc.assert(
        fc.property(unsigned, (values) => {
          expect(Array.from(unpackUnsigned(packBits(values, bits), bits, values.length))).toEqual(values);
        }),
      );
      fc.assert(
        fc.property(signed, (values) => {
          expect(Array.from(unpackSigned(packBits(values, bits), bits, values.length))).toEqual(values);
        }),
      );
    }
  });

  it("read with the wrong sign or order is something else (control)", () => {
    const packed = packBits([-1, 2], 4);
    expect(Array.from(unpackUnsigned(packed, 4, 2))).toEqual([15, 2]);
    expect(Array.from(packBits([2, -1], 4))).not.toEqual(Array.from(packed));
  });
});

describe("toFloat32", () => {
  const cases: [DType, Uint8Array, number[]][] = [
    ["float32", bytesOf(Float32Array.of(1.5, -2)), [1.5, -2]],
    ["float64", bytesOf(Float64Array.of(0.1)), [Math.fround(0.1)]],
    ["float16", bytesOf(Uint16Array.of(0x3c00, 0xc000)), [1, -2]],
    ["bfloat16", bytesOf(Uint16Array.of(0x3f80, 0xc000)), [1, -2]],
    ["float8e4m3fn", Uint8Array.of(0x38, 0xb8), [1, -1]],
    ["float8e4m3fnuz", Uint8Array.of(0x40), [1]],
    ["float8e5m2", Uint8Array.of(0x3c), [1]],
    ["float8e5m2fnuz", Uint8Array.of(0x40), [1]],
    ["float8e8m0", Uint8Array.of(127, 128), [1, 2]],
    ["float4e2m1", Uint8Array.of(0xf1), [0.5, -6]],
    ["int8", Uint8Array.of(255), [-1]],
    ["uint8", Uint8Array.of(255), [255]],
    ["bool", Uint8Array.of(1, 0), [1, 0]],
    ["int16", bytesOf(Int16Array.of(-300)), [-300]],
    ["uint16", bytesOf(Uint16Array.of(65535)), [65535]],
    ["int32", bytesOf(Int32Array.of(-7)), [-7]],
    ["uint32", bytesOf(Uint32Array.of(7)), [7]],
    ["int64", bytesOf(BigInt64Array.of(-7n)), [-7]],
    ["uint64", bytesOf(BigUint64Array.of(7n)), [7]],
    ["int4", Uint8Array.of(0x8f), [-1, -8]],
    ["uint4", Uint8Array.of(0x8f), [15, 8]],
    ["int2", Uint8Array.of(0b00_01_10_11), [-1, -2, 1, 0]],
    ["uint2", Uint8Array.of(0b00_01_10_11), [3, 2, 1, 0]],
  ];

  it.each(cases)("%s", (dtype, bytes, values) => {
    expect(Array.from(toFloat32(dtype, bytes))).toEqual(values);
    expect(Array.from(toFloat32(dtype, bytes, values.length))).toEqual(values);
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    expect(Array.from(toFloat32(dtype, shifted.subarray(1)))).toEqual(values); // not aligned
  });

  it("covers every numeric dtype, and refuses the others", () => {
    const others: DType[] = ["undefined", "string", "complex64", "complex128"];
    expect([...cases.map(([dtype]) => dtype), ...others].sort()).toEqual([...DTYPES].sort());
    for (const dtype of others) expect(() => toFloat32(dtype, new Uint8Array(16))).toThrow(/no float32 form/);
  });

  it("leaves out the padding of packed types when told the count", () => {
    expect(byteLengthOf("int4", 3)).toBe(2);
    expect(toFloat32("int4", Uint8Array.of(0x21, 0x03), 3).length).toBe(3);
  });
});
