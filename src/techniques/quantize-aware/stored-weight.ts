/** Codes of a weight as packed bytes, and the operators that make integers or floats of them when the engine loads the model. */
import { dtypeCode } from "../../base/dtype.ts";
import { packBits, packCodes } from "../../base/packed.ts";
import { elementCount } from "../../base/shape.ts";
import { Builder } from "../../ir/builder.ts";
import type { Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { sharedConstant, unpackWeight } from "../../transform/unpack-weights.ts";
import type { WeightCodes } from "./codes.ts";

interface WeightParts {
  readonly codes: WeightCodes;
  /** 8, 4, 3, 2 or 1. */
  readonly bits: number;
  readonly shape: readonly number[];
  readonly axis: number;
  /** What the integers of each channel are multiplied by. */
  readonly factors: Float32Array; // (channels)
  readonly dtype: "int8" | "float32";
}

/** Adds the weight value(code)·factor in front of all nodes: constants alone, so that the engine computes it once. */
export function storedWeight(
  model: Model,
  { codes: { codes, values }, bits, shape, axis, factors, dtype }: WeightParts,
  name: string,
): { readonly dense: Value; readonly bytes: number } {
  const { graph, opset } = model;
  const same = factors.every((factor) => factor === factors[0]);
  const along = shape.map((size, i) => (i === axis ? size : 1));
  const scales = same ? Tensor.float32([], factors.subarray(0, 1)) : Tensor.float32(along, factors);
  if (bits === 8 && dtype === "int8" && factors.every((factor) => Math.abs(factor) <= 1)) {
    const inner = elementCount(shape.slice(axis + 1));
    const signed = codes.map((code, i) => code * (factors[Math.floor(i / inner) % factors.length] ?? 1));
    const dense = graph.addInitializer(`${name}.codes`, Tensor.of("int8", shape, signed));
    return { dense, bytes: codes.length };
  }
  const before = graph.nodes[0];
  if (!values) {
    const width = bits as 2 | 3 | 4 | 8;
    const packed = packCodes(
      Uint8Array.from(codes, (code) => code + 2 ** (bits - 1)),
      width,
    );
    const parts = {
      bits: width,
      codes: Tensor.of("uint8", bits === 8 ? shape : [packed.length], packed),
      grouped: shape,
      scales,
      zeroPoints: undefined,
      shape,
      transpose: false,
      dtype,
    };
    return { dense: unpackWeight(graph, opset, parts, name, before), bytes: packed.length };
  }
  // Codes that mean any integers: every byte looks up those of its codes.
  const perByte = 8 / bits;
  const table = new Int8Array(256 * perByte);
  for (let byte = 0; byte < 256; byte++)
    for (let i = 0; i < perByte; i++) table[byte * perByte + i] = values[(byte >> (bits * i)) & (2 ** bits - 1)] ?? 0;
  const middle = bits === 1 ? 0 : 2 ** (bits - 1);
  const packed = packBits(
    Uint8Array.from(codes, (code) => code + middle),
    bits as 1 | 2,
  );
  const b = new Builder(graph, { prefix: `${name}.`, before });
  const cast = (value: Value, to: "int8" | "int32" | "float32"): Value =>
    b.op("Cast", [value], { attributes: { to: dtypeCode(to) }, name: "cast" });
  const entries = sharedConstant(graph, `values_${[...values].join("_")}`, Tensor.of("int8", [256, perByte], table));
  const bytes = b.constant("codes", Tensor.of("uint8", [packed.length], packed));
  const fields = b.op("Gather", [cast(entries, "float32"), cast(bytes, "int32")], { name: "values" });
  const flat = b.op("Reshape", [fields, b.constant("flat", Tensor.int64([-1]))], { name: "flat" });
  const ends = [b.constant("start", Tensor.int64([0])), b.constant("end", Tensor.int64([codes.length]))];
  const first = b.op("Slice", [flat, ...ends], { name: "first" });
  const dense = b.op("Reshape", [first, b.constant("shape", Tensor.int64(shape))], { name: "dense" });
  const product = b.op("Mul", [dense, b.constant("factors", scales)], { name: "mul" });
  const result = dtype === "float32" ? product : cast(product, dtype);
  [result.dtype, result.shape] = [dtype, shape];
  return { dense: result, bytes: packed.length };
}
