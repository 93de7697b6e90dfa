/** Half, bfloat16, 8- and 4-bit floats: every code, every tie, and checksums computed with ml_dtypes 0.6. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  BFLOAT16_MAX,
  bfloat16ToFloat32,
  decodeBfloat16,
  encodeBfloat16,
  float32ToBfloat16,
} from "../../src/base/bfloat.ts";
import {
  type SmallFloat,
  decodeFloat8e8m0,
  decodeSmallFloat,
  encodeFloat8e8m0,
  encodeSmallFloat,
  smallFloatTable,
} from "../../src/base/float8.ts";
import { FLOAT16_MAX, decodeFloat16, encodeFloat16, float16ToFloat32, float32ToFloat16 } from "../../src/base/half.ts";
import { roundHalfEven } from "../../src/base/minifloat.ts";

const PATTERNS = Uint16Array.from({ length: 65536 }, (_, pattern) => pattern);

describe("float16", () => {
  it("decodes hand-checked patterns", () => {
    const known: [number, number][] = [
      [0x3c00, 1],
      [0xc000, -2],
      [0x3555, 0.333251953125],
      [0x7bff, 65504],
      [0x0400, 2 ** -14],
      [0x0001, 2 ** -24],
      [0x03ff, 1023 * 2 ** -24],
      [0x8000, -0],
      [0x7c00, Infinity],
      [0xfc00, -Infinity],
      [0x7e00, Number.NaN],
    ];
    for (const [bits, value] of known) expect(decodeFloat16(bits)).toBe(value);
    expect(FLOAT16_MAX).toBe(65504);
  });

  it("encodes every value back to its pattern, scalar and array", () => {
    const values = float16ToFloat32(PATTERNS);
    const bits = float32ToFloat16(values);
    for (let i = 0; i < 65536; i++) {
      const nan = Number.isNaN(values[i]);
      const canonical = (i & 0x8000) | 0x7e00;
      if (nan) expect((bits[i] as number) | 0x8000).toBe(canonical | 0x8000);
      else if (bits[i] !== i || encodeFloat16(values[i] as number) !== i) expect(`${i} → ${bits[i]}`).toBe(i);
    }
  });

  it("rounds ties between neighbours to the even pattern, and what is beside them to the nearer", () => {
    for (let i = 0; i < 0x7bff; i++) {
      const low = decodeFloat16(i);
      const tie = (low + decodeFloat16(i + 1)) / 2; // exact in float32
      const even = i % 2 === 0 ? i : i + 1;
      const beside = [tie * (1 - 2 ** -22), tie, tie * (1 + 2 ** -22)];
      const expected = [i, even, i + 1];
      const fast = float32ToFloat16(Float32Array.from(beside));
      for (let j = 0; j < 3; j++)
        if (fast[j] !== expected[j] || encodeFloat16(beside[j] as number) !== expected[j])
          expect(`near ${i}: ${fast[j]}`).toBe(`near ${i}: ${expected[j]}`);
    }
  });

  it("overflows from 65520 on to infinity, or saturates", () => {
    for (const x of [65520, 1e30, Infinity]) {
      expect(encodeFloat16(x)).toBe(0x7c00);
      expect(encodeFloat16(-x, true)).toBe(0xfbff);
      expect(Array.from(float32ToFloat16(Float32Array.of(x, -x), true))).toEqual([0x7bff, 0xfbff]);
    }
    expect(encodeFloat16(65519.99)).toBe(0x7bff);
  });

  it("agrees between the scalar and the array form on any float32", () => {
    fc.assert(
      fc.property(fc.float(), (x) => {
        const [bits = -1] = float32ToFloat16(Float32Array.of(x));
        if (!Number.isNaN(x)) expect(bits).toBe(encodeFloat16(x));
        const [brain = -1] = float32ToBfloat16(Float32Array.of(x));
        if (!Number.isNaN(x)) expect(brain).toBe(encodeBfloat16(x));
      }),
      { numRuns: 2000 },
    );
  });
});

describe("bfloat16", () => {
  it("round-trips all 65536 patterns", () => {
    const values = bfloat16ToFloat32(PATTERNS);
    const bits = float32ToBfloat16(values);
    for (let i = 0; i < 65536; i++) {
      if (Number.isNaN(values[i])) expect((bits[i] as number) & 0x7fff).toBe(0x7fc0);
      else if (bits[i] !== i || decodeBfloat16(i) !== values[i]) expect(`${i} → ${bits[i]}`).toBe(i);
    }
  });

  it("rounds to even and overflows as stated", () => {
    expect(encodeBfloat16(1 + 2 ** -8)).toBe(0x3f80); // tie, even below
    expect(encodeBfloat16(1 + 3 * 2 ** -8)).toBe(0x3f82); // tie, even above
    expect(encodeBfloat16(3.4e38)).toBe(0x7f80);
    expect(encodeBfloat16(3.4e38, true)).toBe(0x7f7f);
    expect(decodeBfloat16(0x7f7f)).toBe(BFLOAT16_MAX);
  });
});

/** Of all codes: how many are finite, Σ|value| of those, NaNs, infinities; then a checksum of 20000 encodings. By ml_dtypes. */
const ORACLE: [SmallFloat, number, number, number, number, number][] = [
  ["float8e4m3fn", 254, 10815.75, 2, 0, 7315917715],
  ["float8e4m3fnuz", 255, 5887.875, 1, 0, 6266666892],
  ["float8e5m2", 248, 720895.9995117188, 6, 2, 7978999857],
  ["float8e5m2fnuz", 255, 720895.9997558594, 1, 0, 7829899277],
];

describe.each(ORACLE)("%s", (format, finite, total, nans, infinities, checksum) => {
  it("decodes all 256 codes", () => {
    const values = Array.from(smallFloatTable(format));
    const kept = values.filter(Number.isFinite);
    expect(kept.length).toBe(finite);
    expect(kept.reduce((sum, x) => sum + Math.abs(x), 0)).toBe(total);
    expect(values.filter(Number.isNaN).length).toBe(nans);
    expect(values.filter((x) => Math.abs(x) === Infinity).length).toBe(infinities);
  });

  it("encodes all values back to their codes, and ties to the even code", () => {
    const byValue = Array.from({ length: 128 }, (_, code) => decodeSmallFloat(format, code)).filter(Number.isFinite);
    for (const [code, value] of byValue.entries()) {
      expect(encodeSmallFloat(format, value)).toBe(code);
      if (value !== 0) expect(encodeSmallFloat(format, -value)).toBe(code + 128);
      const next = byValue[code + 1];
      if (next === undefined) continue;
      expect(encodeSmallFloat(format, (value + next) / 2)).toBe(code % 2 === 0 ? code : code + 1);
    }
  });

  it("encodes as ml_dtypes does (overflow unsaturated)", () => {
    let sum = 0;
    for (let i = 0; i < 20000; i++) {
      const x = Math.fround((1 + (i % 97) / 97) * 2 ** ((i % 37) - 20)) * (i % 2 === 1 ? 1 : -1);
      sum += (encodeSmallFloat(format, x, false) * (i + 1)) % 1000003;
    }
    expect(sum).toBe(checksum);
  });

  it("saturates by default and keeps NaN", () => {
    const largest = Math.max(...Array.from(smallFloatTable(format)).filter(Number.isFinite));
    for (const x of [largest * 2, 1e30, Infinity]) {
      expect(decodeSmallFloat(format, encodeSmallFloat(format, x))).toBe(largest);
      expect(decodeSmallFloat(format, encodeSmallFloat(format, -x))).toBe(-largest);
      expect(decodeSmallFloat(format, encodeSmallFloat(format, x, false))).toBe(
        format === "float8e5m2" ? Infinity : Number.NaN,
      );
    }
    expect(decodeSmallFloat(format, encodeSmallFloat(format, Number.NaN))).toBeNaN();
  });

  it("has a negative zero only where the format has one", () => {
    expect(encodeSmallFloat(format, -0)).toBe(format.endsWith("fnuz") ? 0 : 128);
  });
});

describe("float4e2m1", () => {
  it("has these sixteen values", () => {
    const half = [0, 0.5, 1, 1.5, 2, 3, 4, 6];
    expect(Array.from(smallFloatTable("float4e2m1"))).toEqual([...half, ...half.map((x) => -x)]);
  });

  it("rounds ties to even and saturates", () => {
    const cases: [number, number][] = [
      [0.25, 0],
      [0.75, 1],
      [1.25, 1],
      [1.75, 2],
      [2.5, 2],
      [3.5, 4],
      [5, 4],
      [5.01, 6],
      [100, 6],
      [Infinity, 6],
      [Number.NaN, 6],
      [-5, -4],
    ];
    for (const [x, y] of cases)
      expect(decodeSmallFloat("float4e2m1", encodeSmallFloat("float4e2m1", x, false))).toBe(y);
  });
});

describe("float8e8m0", () => {
  it("decodes and encodes all 256 codes", () => {
    for (let code = 0; code < 255; code++) {
      expect(decodeFloat8e8m0(code)).toBe(2 ** (code - 127));
      for (const mode of ["up", "down", "nearest"] as const)
        expect(encodeFloat8e8m0(2 ** (code - 127), mode)).toBe(code);
    }
    expect(decodeFloat8e8m0(255)).toBeNaN();
  });

  it("rounds as asked", () => {
    expect([1.25, 1.5, 1.75].map((x) => encodeFloat8e8m0(x, "up"))).toEqual([128, 128, 128]);
    expect([1.25, 1.5, 1.75].map((x) => encodeFloat8e8m0(x, "down"))).toEqual([127, 127, 127]);
    expect([1.25, 1.5, 1.75].map((x) => encodeFloat8e8m0(x, "nearest"))).toEqual([127, 128, 128]);
  });

  it("handles the ends", () => {
    expect([0, 1e-45, 1e39].map((x) => encodeFloat8e8m0(x))).toEqual([0, 0, 254]);
    expect(encodeFloat8e8m0(1e39, "up", false)).toBe(255);
    expect([Number.NaN, Infinity, -Infinity].map((x) => encodeFloat8e8m0(x))).toEqual([255, 255, 255]);
    expect(encodeFloat8e8m0(-2)).toBe(128);
  });
});

describe("roundHalfEven", () => {
  it("rounds", () => {
    expect([0, 0.5, 0.51, 1.5, 2.5, 2.49].map(roundHalfEven)).toEqual([0, 0, 1, 2, 2, 2]);
  });
});
