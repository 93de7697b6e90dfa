/** Sparse tensors (coordinate form): read as dense tensors that are filled in when asked. */
import { type DType, byteLengthOf, dtypeBits } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { elementCount, stridesOf } from "../base/shape.ts";
import type { SparseTensorProto } from "../onnx/gen/onnx_pb.js";
import {
  MAX_DECODED_BYTES,
  MAX_FREE_DENSE_BYTES,
  MAX_RANK,
  MAX_SPARSE_RATIO,
  MAX_TENSOR_BYTES,
} from "../onnx/limits.ts";
import { Tensor } from "./tensor.ts";
import { readTensor } from "./tensor-messages.ts";

/** The dense form of a sparse tensor; indices are checked when it is read. */
export function densify(message: SparseTensorProto): Tensor {
  const where = `sparse tensor '${message.values?.name ?? ""}'`;
  if (!message.values || !message.indices)
    throw new PareError("bad-model", "A sparse tensor without values or indices", { where });
  const values = readTensor(message.values);
  const indices = readTensor(message.indices);
  const shape = message.dims.map(Number);
  const elements = elementCount(shape);
  if (shape.length > MAX_RANK || shape.some((size) => size < 0) || elements * 16 > MAX_TENSOR_BYTES)
    throw new PareError("bad-model", "A sparse tensor with impossible dimensions", {
      where,
      found: `[${message.dims.join(", ")}]`,
    });
  const count = values.elements;
  const linear = indices.shape.length === 1 && indices.shape[0] === count;
  const coordinates = indices.shape.length === 2 && indices.shape[0] === count && indices.shape[1] === shape.length;
  if (indices.dtype !== "int64" || values.shape.length !== 1 || !(linear || coordinates))
    throw new PareError("bad-model", "A sparse tensor whose indices do not fit its values", {
      where,
      found: `values [${values.shape.join(", ")}], indices ${indices.dtype} [${indices.shape.join(", ")}]`,
      expected: `indices int64 [${count}] or [${count}, ${shape.length}]`,
    });
  if (dtypeBits(values.dtype) < 8)
    throw new PareError("unsupported", "Sparse tensors of packed types are not read", { where });
  return Tensor.lazy(values.dtype, shape, async () =>
    scatter(values.dtype, shape, await values.bytes(), (await indices.data()) as BigInt64Array, linear, where),
  );
}

function scatter(
  dtype: DType,
  shape: readonly number[],
  values: Uint8Array,
  indices: BigInt64Array,
  linear: boolean,
  where: string,
): Uint8Array {
  const elements = elementCount(shape);
  const byteLength = byteLengthOf(dtype, elements);
  const stored = values.byteLength + indices.byteLength;
  const limit = Math.min(MAX_DECODED_BYTES, Math.max(MAX_FREE_DENSE_BYTES, stored * MAX_SPARSE_RATIO));
  if (byteLength > limit)
    throw new PareError("bad-model", "A sparse tensor is too large to be made dense", {
      where,
      found: `${byteLength} bytes from ${stored}`,
      expected: `at most ${limit} bytes`,
    });
  const dense = new Uint8Array(byteLength);
  const width = dtypeBits(dtype) / 8;
  const strides = linear ? [1] : stridesOf(shape);
  for (let i = 0; i < values.length / width; i++) {
    let at = 0;
    for (const [axis, stride] of strides.entries()) {
      const index = Number(indices[i * strides.length + axis]);
      if (index < 0 || index >= (linear ? elements : (shape[axis] ?? 0)))
        throw new PareError("bad-model", "A sparse tensor's index lies outside its shape", {
          where,
          found: String(index),
        });
      at += index * stride;
    }
    dense.set(values.subarray(i * width, (i + 1) * width), at * width);
  }
  return dense;
}
