/** Weights as DequantizeLinear of packed integers: the standard form, which the engine unpacks at every run. */
import { type DType, bytesOf } from "../../../base/dtype.ts";
import { type CodeBits, packCodes } from "../../../base/packed.ts";
import { toFloat32 } from "../../../base/to-float32.ts";
import { Builder } from "../../../ir/builder.ts";
import type { Tensor } from "../../../ir/tensor.ts";
import type { Model } from "../../../ir/model.ts";
import type { ChannelQuantized, Kernels } from "../../../kernels/types.ts";
import { SharedParts } from "../../../transform/shared-source.ts";
import { irVersionFor } from "../../../transform/unpack-weights.ts";
import type { WeightSite } from "../../../transform/weight-sites.ts";
import type { Solved } from "./solved-codes.ts";
import { type Codes, type CodesOptions, relativeError, scaleBytes } from "./weight-codes.ts";

/** Puts `DequantizeLinear` behind the weight for every use. Symmetric codes are signed, others unsigned with a zero point. */
export function applyDequantize(
  model: Model,
  kernels: Kernels,
  site: WeightSite,
  plan: { readonly transpose: boolean; readonly group: number },
  options: CodesOptions,
  solved?: Solved,
): Codes {
  const { tensor, graph, value } = site;
  const { bits, symmetric } = options;
  const shape = tensor.shape;
  const [first = 1, last = 1] = shape;
  const channels = plan.transpose ? last : first;
  const groups = tensor.elements / channels / plan.group;
  const scalesShape = groups === 1 ? [channels] : plan.transpose ? [groups, channels] : [channels, groups];
  const type = `${symmetric ? "int" : "uint"}${bits}` as DType;
  const error: { value: number | undefined } = { value: undefined };
  const nearest = async (): Promise<ChannelQuantized> => {
    const stored = toFloat32(tensor.dtype, await tensor.bytes());
    return kernels.quantizeChannels(
      plan.transpose ? kernels.transpose(stored, first, last) : stored,
      { outer: 1, channels: channels * groups, inner: plan.group },
      { ...options, low: 0, high: 2 ** bits - 1 },
    );
  };
  const parts = new SharedParts(
    [
      { dtype: type, shape },
      { dtype: options.scaleType, shape: scalesShape },
      ...(symmetric ? [] : [{ dtype: type, shape: scalesShape }]),
    ],
    async () => {
      const result = solved ?? (await nearest());
      error.value = "error" in result ? result.error : relativeError(result);
      // Flipping the top bit of an unsigned code subtracts the middle code: two's complement.
      const flip = symmetric ? 2 ** (bits - 1) : 0;
      const codes = Uint8Array.from(bytesOf(result.codes), (code) => code ^ flip);
      const inOrder = plan.transpose ? transposed(codes, channels, first) : codes;
      const scales = plan.transpose ? Float32Array.from(transposed(result.scales, channels, groups)) : result.scales;
      const zeros = Uint8Array.from(
        plan.transpose ? transposed(result.zeroPoints, channels, groups) : result.zeroPoints,
      );
      const pack = (list: Uint8Array): Uint8Array => packCodes(list, bits as CodeBits);
      return [pack(inOrder), scaleBytes(kernels, scales, options.scaleType), ...(symmetric ? [] : [pack(zeros)])];
    },
  );
  const [codes, scales, zeroPoints] = parts.tensors as [Tensor, Tensor, Tensor | undefined];
  const b = new Builder(graph, { prefix: `${value.name}.`, before: graph.nodes[0] });
  const inputs = [
    b.constant("codes", codes),
    b.constant("scales", scales),
    zeroPoints && b.constant("zero", zeroPoints),
  ];
  const axis = groups === 1 ? (plan.transpose ? 1 : 0) : plan.transpose ? 0 : 1;
  const dense = b.op("DequantizeLinear", inputs, {
    attributes: { axis, block_size: groups === 1 ? undefined : plan.group },
    name: "dense",
  });
  dense.dtype = tensor.dtype;
  dense.shape = shape;
  value.replaceUses(dense);
  model.irVersion = Math.max(model.irVersion, irVersionFor(type));
  return { codes, scales, zeroPoints, error, keep: () => parts.keep() };
}

/** (rows, cols) to (cols, rows). */
function transposed<T extends Uint8Array | Float32Array | Int32Array>(data: T, rows: number, cols: number): T {
  const result = data.slice() as T;
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) result[j * rows + i] = data[i * cols + j] as number;
  return result;
}
