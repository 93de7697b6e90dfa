import { describe, expect, it } from "vitest";
import { feedChunks, dropPadding } from "../../src/run/feeds.ts";
import { convertArray, joinRows, padRows, rowsOf } from "../../src/run/arrays.ts";
import type { NdArray, Port } from "../../src/run/session.ts";
import { indexRanges, syntheticFeeds } from "../../src/run/synthetic.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { unary } from "../support/small-models.ts";

const ramp = (shape: number[], dtype: "float32" | "uint8" | "int32" = "float32"): NdArray => {
  const values = Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i);
  const data =
    dtype === "float32"
      ? Float32Array.from(values)
      : dtype === "uint8"
        ? Uint8Array.from(values)
        : Int32Array.from(values);
  return { dtype, shape, data };
};
const port = (name: string, shape: Port["shape"], dtype: Port["dtype"] = "float32"): Port => ({ name, dtype, shape });

describe("mapping a batch to inputs", () => {
  it("pairs a lone field with a lone input and leaves the elements alone", () => {
    const image = ramp([3, 1, 2, 2]);
    const [chunk, ...rest] = feedChunks([port("data", ["n", 1, 2, 2])], { size: 3, fields: { image } });
    expect(rest).toEqual([]);
    expect(chunk?.feeds["data"]).toEqual(image);
  });

  it("flattens, adds and drops axes of size 1, and converts dtypes", () => {
    const fields = { image: ramp([2, 1, 2, 2], "uint8") };
    expect(feedChunks([port("x", ["n", 4])], { size: 2, fields })[0]?.feeds["x"]).toEqual({
      ...ramp([2, 4]),
      shape: [2, 4],
    });
    expect(feedChunks([port("x", ["n", 2, 2])], { size: 2, fields })[0]?.feeds["x"]?.shape).toEqual([2, 2, 2]);
    expect(feedChunks([port("x", ["n", 2, 2, 1])], { size: 2, fields })[0]?.feeds["x"]?.shape).toEqual([2, 2, 2, 1]);
  });

  it("feeds a fixed batch in chunks and pads the last", () => {
    const chunks = feedChunks([port("x", [4, 2])], { size: 6, fields: { a: ramp([6, 2]) } });
    expect(chunks.map(({ size, start }) => [size, start])).toEqual([
      [4, 0],
      [2, 4],
    ]);
    expect(Array.from(chunks[1]?.feeds["x"]?.data as Float32Array)).toEqual([8, 9, 10, 11, 10, 11, 10, 11]);
    const padded = ramp([4, 3]);
    expect(dropPadding(padded, chunks[1] as (typeof chunks)[0]).shape).toEqual([2, 3]);
    expect(dropPadding(padded, chunks[0] as (typeof chunks)[0]).shape).toEqual([4, 3]);
  });

  it("feeds a model without a batch axis sample by sample", () => {
    const chunks = feedChunks([port("x", [3, 5])], { size: 2, fields: { a: ramp([2, 3, 5]) } });
    expect(chunks.map(({ feeds }) => feeds["x"]?.shape)).toEqual([
      [3, 5],
      [3, 5],
    ]);
  });

  it("goes by names and fills in masks and positions", () => {
    const inputs = [
      port("input_ids", ["b", "t"], "int64"),
      port("attention_mask", ["b", "t"], "int64"),
      port("position_ids", ["b", "t"], "int64"),
    ];
    const [chunk] = feedChunks(inputs, { size: 2, fields: { input_ids: ramp([2, 3], "int32") } });
    expect(chunk?.feeds["attention_mask"]?.data).toEqual(BigInt64Array.of(1n, 1n, 1n, 1n, 1n, 1n));
    expect(chunk?.feeds["position_ids"]?.data).toEqual(BigInt64Array.of(0n, 1n, 2n, 0n, 1n, 2n));
  });

  it("names the input and the field with both shapes when they do not fit", () => {
    const fields = { image: ramp([2, 8, 8, 3]) };
    const inputs = [port("data", ["n", 3, 8, 8])];
    expect(() => feedChunks(inputs, { size: 2, fields })).toThrow(
      /'image'.*'data'.*\[8, 8, 3\].*\[n, 3, 8, 8\].*layout=nchw/,
    );
    expect(() => feedChunks([...inputs, port("b", ["n", 1])], { size: 2, fields })).toThrow(/no field for input 'b'/);
    expect(() => feedChunks([port("ids", ["n", 8, 8, 3], "int64")], { size: 2, fields })).toThrow(/does not fit/); // float to int
  });
});

describe("arrays", () => {
  it("cut, pad, join and convert", () => {
    const a = ramp([3, 2]);
    expect(rowsOf(a, 1, 3)).toEqual({ dtype: "float32", shape: [2, 2], data: Float32Array.of(2, 3, 4, 5) });
    expect(joinRows([rowsOf(a, 0, 1), rowsOf(a, 1, 3)])).toEqual(a);
    expect(padRows(rowsOf(a, 0, 1), 2).data).toEqual(Float32Array.of(0, 1, 0, 1));
    expect(convertArray(ramp([2]), "float16").data).toEqual(Uint16Array.of(0, 0x3c00));
    expect(() => convertArray({ dtype: "int32", shape: [1], data: Int32Array.of(300) }, "uint8")).toThrow(
      /does not fit uint8/,
    );
  });
});

describe("synthetic inputs", () => {
  it("are seeded and of the right types and sizes", () => {
    const inputs = [
      port("image", ["n", 3, "h", "w"]),
      port("ids", ["n", "t"], "int64"),
      port("flag", [1], "bool"),
      port("sum", ["n", "t + 2"]),
    ];
    const feeds = syntheticFeeds(inputs, { seed: 5, batch: 2, dims: { h: 8 }, ranges: { ids: 7 } });
    expect(feeds["image"]?.shape).toEqual([2, 3, 8, 64]);
    expect(feeds["sum"]?.shape).toEqual([2, 18]);
    const ids = Array.from(feeds["ids"]?.data as BigInt64Array, Number);
    expect(Math.max(...ids)).toBeLessThan(7);
    expect(new Set(ids).size).toBeGreaterThan(3);
    expect(syntheticFeeds(inputs, { seed: 5, batch: 2, dims: { h: 8 }, ranges: { ids: 7 } })).toEqual(feeds);
    expect(syntheticFeeds(inputs, { seed: 6, batch: 2, dims: { h: 8 } })["image"]).not.toEqual(feeds["image"]);
  });

  it("stay within the table that they index", () => {
    const model = unary("int64", ["n"], (b, x) => {
      const table = b.constant("table", Tensor.float32([11, 2], new Float32Array(22)));
      return b.op("Gather", [table, b.op("Identity", [x])], { attributes: { axis: 0 } });
    });
    expect(indexRanges(model)).toEqual({ x: 11 });
  });
});
