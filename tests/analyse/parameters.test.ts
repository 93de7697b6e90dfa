import { describe, expect, it } from "vitest";
import { parameterTensors } from "../../src/analyse/parameters.ts";
import { unpackedWeight } from "../../src/analyse/unpacked-weight.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";

/** A convolution whose 8×2×3×3 weight is stored as bytes of two 4-bit codes: table lookup, zero point, scale. */
function packedConv(codes: Uint8Array): Model {
  const model = new Model();
  const b = new Builder(model.graph);
  const pairs = Int8Array.from({ length: 512 }, (_, i) => (i % 2 === 0 ? (i >> 1) & 15 : i >> 5));
  const cast = (value: ReturnType<Builder["constant"]>, to: number) => b.op("Cast", [value], { attributes: { to } });
  const table = cast(b.constant("table", Tensor.of("int8", [256, 2], pairs)), 1);
  const index = cast(b.constant("codes", Tensor.of("uint8", [72], codes)), 6);
  const grouped = b.op("Reshape", [b.op("Gather", [table, index]), b.constant("g", Tensor.int64([8, 18]))]);
  const zero = b.constant("zero", Tensor.float32([8, 1], new Float32Array(8).fill(3)));
  const scale = b.constant("scale", Tensor.float32([8, 1], new Float32Array(8).fill(0.25)));
  const scaled = b.op("Mul", [b.op("Sub", [grouped, zero]), scale]);
  const weight = b.op("Reshape", [scaled, b.constant("s", Tensor.int64([8, 2, 3, 3]))]);
  b.output(b.op("Conv", [b.input("x", "float32", [1, 2, 9, 9]), weight]));
  return model;
}

describe("parameters of weights that are unpacked at load", () => {
  it("counts elements, not bytes, scales or codebooks", async () => {
    const codes = Uint8Array.from({ length: 72 }, (_, i) => (i < 10 ? 0x33 : 0x45)); // 20 codes equal to the zero point
    const tensors = parameterTensors(packedConv(codes));
    expect(tensors.map(({ name, parameters }) => [name, parameters])).toEqual([["codes", 144]]);
    expect(await tensors[0]?.zeros()).toBe(20);
  });

  it("counts other zeros for other codes", async () => {
    expect(await parameterTensors(packedConv(new Uint8Array(72).fill(0x34)))[0]?.zeros()).toBe(72);
  });

  it("computes what the layer sees", async () => {
    const { graph } = packedConv(new Uint8Array(72).fill(0x15)); // codes 5, 1 → (5 − 3)/4, (1 − 3)/4
    const conv = graph.nodes.find((node) => node.opType === "Conv");
    expect((await unpackedWeight(conv?.inputs[1]))?.slice(0, 4)).toEqual(Float32Array.of(0.5, -0.5, 0.5, -0.5));
    expect(await unpackedWeight(conv?.inputs[0])).toBeUndefined();
  });
});
