/** Zeros of packed weights are counted in place: as many as unpacking every code would find. */
import { describe, expect, it } from "vitest";
import { parameterTensors } from "../../src/analyse/parameters.ts";
import { packBits } from "../../src/base/packed.ts";
import { Rng } from "../../src/base/rng.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";

const N = 40;

/** A product with packed weights, and its zeros counted code by code. */
function packedModel(bits: 2 | 4 | 8, k: number, block: number, stored: boolean): { model: Model; zeros: number } {
  const rng = new Rng(bits * 1000 + k);
  const blocks = Math.ceil(k / block);
  const levels = 2 ** bits;
  const codes = Uint8Array.from({ length: N * blocks * block }, () => rng.below(levels));
  const perRow = Math.ceil((blocks * bits) / 8) * (8 / bits); // zero points of a row start at a byte
  const points = Uint8Array.from({ length: N * perRow }, () => rng.below(levels));
  let zeros = 0;
  for (let row = 0; row < N; row++)
    for (let col = 0; col < k; col++) {
      const point = stored ? points[row * perRow + Math.floor(col / block)] : levels / 2;
      if (codes[row * blocks * block + col] === point) zeros++;
    }
  const pack = (values: Uint8Array): Uint8Array => (bits === 8 ? values : packBits(values, bits));
  const model = new Model();
  model.opsets.set("com.microsoft", 1);
  const b = new Builder(model.graph);
  const inputs = [
    b.input("x", "float32", [2, k]),
    b.constant("codes", Tensor.of("uint8", [N, blocks, (block * bits) / 8], pack(codes))),
    b.constant("scales", Tensor.float32([N, blocks], new Float32Array(N * blocks).fill(0.1))),
    stored ? b.constant("points", Tensor.of("uint8", [N, (perRow * bits) / 8], pack(points))) : undefined,
  ];
  const attributes = { K: k, N, bits, block_size: block };
  b.output(b.op("MatMulNBits", inputs, { domain: "com.microsoft", attributes }), "y");
  return { model, zeros };
}

describe("zeros of MatMulNBits", () => {
  const cases = ([2, 4, 8] as const).flatMap((bits) =>
    [64, 96, 70].flatMap((k) => [true, false].map((stored) => [bits, k, stored] as const)),
  );
  it.each(cases)("%i bits, K = %i, zero points stored: %s", async (bits, k, stored) => {
    const { model, zeros } = packedModel(bits, k, 32, stored);
    const [entry, ...others] = parameterTensors(model);
    expect(others).toEqual([]);
    expect(entry?.parameters).toBe(N * k);
    expect(zeros).toBeGreaterThan(0);
    expect(await entry?.zeros()).toBe(zeros);
  });
});
