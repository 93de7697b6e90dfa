/** Codes of a weight as packed bytes, and the operators that make integers or floats of them when the engine loads the model. */
import { type CodeBits, packCodes } from "../../base/packed.ts";
import { elementCount } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { unpackWeight } from "../../transform/unpack-weights.ts";
import type { WeightCodes } from "./codes.ts";

interface WeightParts {
  readonly codes: WeightCodes;
  readonly bits: CodeBits;
  readonly shape: readonly number[];
  readonly axis: number;
  /** What the integers of each channel are multiplied by. */
  readonly factors: Float32Array; // (channels)
  readonly dtype: "int8" | "float32";
}

/** Adds the weight value(code)·factor in front of all nodes: constants alone, so that the engine computes it once. */
export function storedWeight(
  { graph, opset }: Model,
  { codes: { codes, values }, bits, shape, axis, factors, dtype }: WeightParts,
  name: string,
): { readonly dense: Value; readonly bytes: number } {
  if (bits === 8 && dtype === "int8" && factors.every((factor) => Math.abs(factor) <= 1)) {
    const inner = elementCount(shape.slice(axis + 1));
    const signed = codes.map((code, i) => code * (factors[Math.floor(i / inner) % factors.length] ?? 1));
    return { dense: graph.addInitializer(`${name}.codes`, Tensor.of("int8", shape, signed)), bytes: codes.length };
  }
  const same = factors.every((factor) => factor === factors[0]);
  const along = shape.map((size, i) => (i === axis ? size : 1));
  const first = bits === 1 ? 0 : -(2 ** (bits - 1));
  const packed = packCodes(
    Uint8Array.from(codes, (code) => code - first),
    bits,
  );
  const parts = {
    bits,
    codes: Tensor.of("uint8", bits === 8 ? shape : [packed.length], packed),
    grouped: shape,
    scales: same ? Tensor.float32([], factors.subarray(0, 1)) : Tensor.float32(along, factors),
    zeroPoints: undefined,
    levels: values && Tensor.float32([values.length], Float32Array.from(values)),
    shape,
    transpose: false,
    dtype,
  };
  return { dense: unpackWeight(graph, opset, parts, name, graph.nodes[0]), bytes: packed.length };
}
