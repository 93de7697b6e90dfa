/** Gram matrices XᵀX of what layers multiply their weights with, computed inside the engine and added up in double precision. */
import { PareError } from "../base/error.ts";
import { dtypeCode } from "../base/dtype.ts";
import { Builder } from "../ir/builder.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { exposeValues } from "./expose.ts";
import { openSession } from "./open-session.node.ts";
import { prefetch } from "./prefetch.ts";
import type { Session, SessionOptions } from "./session.ts";
import type { FeedStream } from "./feed-stream.ts";

/** A request: the rows that a product sums over, of a value's last axis or of a convolution's patches. */
export type GramRequest =
  /** The value is taken as rows of its axis `axis` (default the last): X is (rows, k). */
  | { readonly value: string; readonly axis?: number }
  /** The patches that this Conv node sees: X is (positions, c/groups·kh·kw) for each group. */
  | { readonly conv: string };

export interface Gram {
  /** Size of the matrix. */
  readonly k: number;
  /** XᵀX, row-major, one matrix for each group of a convolution. */
  readonly matrices: readonly Float64Array[]; // groups × (k, k)
  /** Rows of X behind it. */
  readonly rows: number;
}

/**
 * Runs the data through the model and returns XᵀX for every request, in order. Memory: one k × k matrix per request and the
 * engine's memory for one batch. Products run in float32 within a batch and are added in float64 over batches.
 */
export async function gram(
  model: Model,
  requests: readonly GramRequest[],
  stream: FeedStream,
  options: SessionOptions = {},
): Promise<Gram[]> {
  const { session, groups } = await openGramSession(model, requests, options);
  try {
    const sums = requests.map(() => ({ k: 0, rows: 0, matrices: [] as Float64Array[] }));
    for await (const feeds of prefetch(stream())) {
      const fed = Object.fromEntries(
        session.inputs.flatMap(({ name }) => (feeds[name] ? [[name, feeds[name]] as const] : [])),
      );
      const results = await session.run(fed);
      for (const [index, sum] of sums.entries()) {
        sum.rows += Number((results[`rows_${index}`]?.data as BigInt64Array | undefined)?.[0] ?? 0n);
        for (let group = 0; group < (groups[index] ?? 1); group++) {
          const product = results[`gram_${index}_${group}`];
          if (!product) throw new PareError("internal", "A Gram matrix is missing");
          sum.k = product.shape[0] ?? 0;
          addTo((sum.matrices[group] ??= new Float64Array(sum.k * sum.k)), product.data as Float32Array);
        }
      }
    }
    if (sums.some((sum) => sum.k === 0))
      throw new PareError("bad-data", "There is not one sample to run through the model");
    return sums;
  } finally {
    await session.close();
  }
}

function addTo(sum: Float64Array, part: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (part[i] as number);
}

/** A session that computes the products instead of the model's outputs. */
async function openGramSession(
  model: Model,
  requests: readonly GramRequest[],
  options: SessionOptions,
): Promise<{ readonly session: Session; readonly groups: readonly number[] }> {
  const nodes = new Map(model.graph.nodes.map((node) => [node.name, node]));
  const sources = requests.map((request) => {
    if ("value" in request) return request.value;
    const node = nodes.get(request.conv);
    if (node?.opType !== "Conv" || !node.inputs[0])
      throw new PareError("bad-option", `The model has no Conv node '${request.conv}'`);
    return node.inputs[0].name;
  });
  const tapped = exposeValues(model, sources);
  const byName = new Map([...tapped.graph.values()].map((value) => [value.name, value]));
  tapped.graph.outputs.length = 0;
  const b = new Builder(tapped.graph, { prefix: "pare_gram_" });
  const groups = requests.map((request, index) => {
    const source = byName.get(sources[index] as string) as Value;
    return "value" in request
      ? rowsOfValue(b, source, request.axis ?? -1, index)
      : patchesOfConv(b, source, nodes.get(request.conv) as Node, index);
  });
  return { session: await openSession(tapped, options), groups };
}

/** X: the value with `axis` last, as rows. */
function rowsOfValue(b: Builder, source: Value, axis: number, index: number): number {
  const rank = source.shape?.length;
  let value = asFloat(b, source);
  if (axis !== -1 && axis !== (rank ?? 0) - 1) {
    if (rank === undefined)
      throw new PareError("unsupported", `The rank of '${source.name}' is not known`, {
        help: "Infer the model's shapes first",
      });
    const at = axis < 0 ? axis + rank : axis;
    const perm = Array.from({ length: rank }, (_, i) => i).filter((i) => i !== at);
    value = b.op("Transpose", [value], { attributes: { perm: [...perm, at] } });
  }
  const size = b.op("Shape", [value]);
  const last = b.op("Gather", [size, b.constant("last", Tensor.int64([-1]))], { attributes: { axis: 0 } });
  const rows = b.op("Concat", [b.constant("any", Tensor.int64([-1])), last], { attributes: { axis: 0 } });
  product(b, b.op("Reshape", [value, rows]), index, 0, true);
  return 1;
}

/**
 * X: the patches of a convolution, by a convolution with one-hot kernels: filter (c, i, j) copies element (c, i, j) of the
 * patch. Padding, strides and dilations are the node's own.
 */
function patchesOfConv(b: Builder, source: Value, node: Node, index: number): number {
  const shape = node.inputs[1]?.shape;
  const groups = node.int("group", 1);
  const [, width, ...kernel] = (shape ?? []) as number[];
  if (width === undefined || kernel.length === 0 || [width, ...kernel].some((size) => typeof size !== "number"))
    throw new PareError("unsupported", `The weight's shape of Conv '${node.name}' is not known`);
  const k = kernel.reduce((product, size) => product * size, width);
  const weights = b.constant("patches", oneHot(k, width, kernel));
  const rank = kernel.length + 2;
  const data = asFloat(b, source);
  const parts =
    groups === 1
      ? [data]
      : b.ops("Split", [data, b.constant("split", Tensor.int64(Array.from({ length: groups }, () => width)))], {
          attributes: { axis: 1 },
          outputs: groups,
        });
  const perm = [0, ...Array.from({ length: rank - 2 }, (_, i) => i + 2), 1];
  for (const [group, part] of parts.entries()) {
    const patches = b.op("Conv", [part, weights], { attributes: convAttributes(node) }); // (n, k, oh, ow)
    const last = b.op("Transpose", [patches], { attributes: { perm } });
    const rows = b.op("Reshape", [last, b.constant("rows", Tensor.int64([-1, k]))]); // (n·oh·ow, k)
    product(b, rows, index, group, group === 0);
  }
  return groups;
}

function convAttributes(node: Node): Record<string, readonly number[] | string | undefined> {
  return {
    pads: node.ints("pads"),
    strides: node.ints("strides"),
    dilations: node.ints("dilations"),
    kernel_shape: node.ints("kernel_shape"),
    auto_pad: node.string("auto_pad"),
  };
}

/** The identity as a convolution's weights. */
function oneHot(k: number, width: number, kernel: readonly number[]): Tensor {
  const data = new Float32Array(k * k);
  for (let i = 0; i < k; i++) data[i * k + i] = 1;
  return Tensor.float32([k, width, ...kernel], data);
}

/** Adds the outputs XᵀX and, once per request, the number of rows. */
function product(b: Builder, x: Value, index: number, group: number, countRows: boolean): void {
  const xt = b.op("Transpose", [x], { attributes: { perm: [1, 0] } });
  const result = b.op("MatMul", [xt, x]);
  result.dtype = "float32";
  b.output(result, `gram_${index}_${group}`);
  if (!countRows) return;
  const rows = b.op("Gather", [b.op("Shape", [x]), b.constant("first", Tensor.int64([0]))], {
    attributes: { axis: 0 },
  });
  rows.dtype = "int64";
  b.output(rows, `rows_${index}`);
}

function asFloat(b: Builder, value: Value): Value {
  return value.dtype === "float32" ? value : b.op("Cast", [value], { attributes: { to: dtypeCode("float32") } });
}
