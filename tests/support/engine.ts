/** ONNX Runtime in this process, as the judge of shapes: runs a model's bytes on seeded random inputs. */
import * as ort from "onnxruntime-node";
import { type DType, type TypedData, arrayTypeOf } from "../../src/base/dtype.ts";
import { Rng } from "../../src/base/rng.ts";
import { elementCount } from "../../src/base/shape.ts";

/** What the engine says of a value that it computed. */
export interface Computed {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: ort.Tensor["data"];
}

/** Random elements: floats in [-1, 1), integers in [0, limit), bools 0 or 1, half floats as patterns of [1, 2). */
export function randomData(dtype: DType, shape: readonly number[], rng: Rng, limit = 2): TypedData | string[] {
  const count = elementCount(shape);
  if (dtype === "string") return Array.from({ length: count }, (_, i) => `text ${i}`);
  const data = new (arrayTypeOf(dtype))(new ArrayBuffer(count * arrayTypeOf(dtype).BYTES_PER_ELEMENT), 0, count);
  for (let i = 0; i < count; i++) {
    if (dtype === "float32" || dtype === "float64") data[i] = rng.uniform(-1, 1);
    else if (dtype === "float16") data[i] = 0x3c00 | rng.below(0x400);
    else if (data instanceof BigInt64Array || data instanceof BigUint64Array) data[i] = BigInt(rng.below(limit));
    else data[i] = rng.below(dtype === "bool" ? 2 : limit);
  }
  return data;
}

export function engineTensor(dtype: DType, shape: readonly number[], data: TypedData | string[]): ort.Tensor {
  return new ort.Tensor(dtype as ort.Tensor.Type, data as never, [...shape]);
}

/** Opens the model without graph optimization, runs it once and returns every output. Warnings of the engine are kept quiet. */
export async function runInEngine(
  bytes: Uint8Array,
  feeds: Readonly<Record<string, ort.Tensor>>,
): Promise<Map<string, Computed>> {
  const session = await ort.InferenceSession.create(bytes, {
    graphOptimizationLevel: "disabled",
    logSeverityLevel: 4,
    intraOpNumThreads: 1,
  });
  try {
    const results = await session.run(feeds, { logSeverityLevel: 4 });
    return new Map(
      Object.entries(results).map(([name, tensor]) => [
        name,
        { dtype: tensor.type, shape: tensor.dims, data: tensor.data },
      ]),
    );
  } finally {
    await session.release();
  }
}
