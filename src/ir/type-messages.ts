/** Element types and shapes of values, to and from ValueInfoProto. */
import { create } from "@bufbuild/protobuf";
import { type DType, dtypeCode, dtypeFromCode } from "../base/dtype.ts";
import type { Dim } from "../base/shape.ts";
import {
  TensorShapeProtoSchema,
  TensorShapeProto_DimensionSchema,
  type TensorShapeProto,
  TypeProtoSchema,
  type TypeProto,
  TypeProto_TensorSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "../onnx/gen/onnx_pb.js";
import { copyMessage } from "../onnx/message.ts";
import type { Value } from "./graph.ts";

/** Dtype and shape that a type message states; undefined for sequences, maps and other types without their own. */
export function readType(type: TypeProto | undefined): { dtype: DType | undefined; shape: Dim[] | undefined } {
  if (type?.value.case !== "tensorType") return { dtype: undefined, shape: undefined };
  const { elemType, shape } = type.value.value;
  const dtype = dtypeFromCode(elemType);
  return { dtype: dtype === "undefined" ? undefined : dtype, shape: shape ? readShape(shape) : undefined };
}

function readShape(shape: TensorShapeProto): Dim[] {
  return shape.dim.map(({ value }): Dim => {
    if (value.case === "dimParam") return value.value === "" ? null : value.value;
    if (value.case !== "dimValue") return null;
    const size = Number(value.value);
    return size >= 0 && Number.isSafeInteger(size) ? size : null; // exporters write -1 for unknown
  });
}

/** The value's type as a message; the original one (with denotations and non-tensor types) while it still says the same. */
export function writeType(value: Value, original: TypeProto | undefined): TypeProto | undefined {
  if (original) {
    const stated = readType(original);
    if (value.dtype === undefined && stated.dtype === undefined) return original;
    if (value.dtype === stated.dtype && sameShape(value.shape, stated.shape)) return original;
  }
  if (value.dtype === undefined) return undefined;
  const tensor = create(TypeProto_TensorSchema, { elemType: dtypeCode(value.dtype) });
  if (value.shape) tensor.shape = writeShape(value.shape);
  return create(TypeProtoSchema, { value: { case: "tensorType", value: tensor } });
}

function writeShape(shape: readonly Dim[]): TensorShapeProto {
  const dims = shape.map((dim) =>
    create(
      TensorShapeProto_DimensionSchema,
      dim === null
        ? {}
        : typeof dim === "number"
          ? { value: { case: "dimValue", value: BigInt(dim) } }
          : { value: { case: "dimParam", value: dim } },
    ),
  );
  return create(TensorShapeProtoSchema, { dim: dims });
}

/** The value as an entry of inputs, outputs or `value_info`. */
export function writeInfo(value: Value, original: ValueInfoProto | undefined): ValueInfoProto {
  const info = original
    ? copyMessage(original, { name: value.name })
    : create(ValueInfoProtoSchema, { name: value.name });
  const type = writeType(value, original?.type);
  if (type) info.type = type;
  else delete info.type;
  return info;
}

export function sameShape(a: readonly Dim[] | undefined, b: readonly Dim[] | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.length === b.length && a.every((dim, axis) => dim === b[axis]);
}
