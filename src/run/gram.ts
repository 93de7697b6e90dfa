/** Gram matrices XᵀX of what layers multiply their weights with, and XᵀZ against target values, computed inside the engine and added up in double precision. */
import { PareError } from "../base/error.ts";
import { dtypeCode } from "../base/dtype.ts";
import { Builder } from "../ir/builder.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { exposeValues } from "./expose.ts";
import type { FeedStream } from "./feed-stream.ts";
import { prefetch } from "./prefetch.ts";
import type { Feeds, NdArray, Session, SessionOptions } from "./session.ts";

/** What the rows are to be related to: a value Z with one row for each row of X. */
export interface GramTarget {
  /** Its channels are axis 1 beside a convolution's patches, its last axis elsewhere. */
  readonly value: string;
  /** Channels of it, in this order; default: all. */
  readonly channels?: readonly number[] | undefined;
}

/** A request: the rows that a product sums over, of a value's last axis or of a convolution's patches. */
export type GramRequest =
  /** The value is taken as rows of its axis `axis` (default the last): X is (rows, k). */
  | { readonly value: string; readonly axis?: number; readonly target?: GramTarget | undefined }
  /**
   * The patches that this Conv node sees: X is (positions, c/groups·kh·kw) for each group. `every` n takes every n-th
   * position along each spatial axis; default 1.
   */
  | { readonly conv: string; readonly every?: number; readonly target?: GramTarget | undefined };

export interface Gram {
  /** Size of the matrix. */
  readonly k: number;
  /** XᵀX, row-major, one matrix for each group of a convolution. */
  readonly matrices: readonly Float64Array[]; // groups × (k, k)
  /** Sum of X's rows, for each group. */
  readonly sums: readonly Float64Array[]; // groups × (k)
  /** Rows of X behind it. */
  readonly rows: number;
  /** XᵀZ, the sum of Z's rows and of their squares, for each group; undefined without a target. */
  readonly target: TargetSums | undefined;
}

/** Sums over the rows of a target, for each group. */
export interface TargetSums {
  readonly cross: readonly Float64Array[]; // groups × (k, o/groups)
  readonly sums: readonly Float64Array[]; // groups × (o/groups)
  readonly squares: readonly Float64Array[]; // groups × (o/groups)
}

export interface GramOptions extends SessionOptions {
  /** Values that are wanted as they are, beside the sums. */
  readonly fetch?: readonly string[] | undefined;
  /** Called after each batch with these values, by name, and what was fed. */
  readonly onBatch?: ((values: Readonly<Record<string, NdArray>>, feeds: Feeds) => void) | undefined;
}

/**
 * Runs the data through the model and returns XᵀX for every request, in order. Memory: one k × k matrix per request and the
 * engine's memory for one batch. Products run in float32 within a batch, on rows from which the batch's mean is taken, so
 * that nearly constant inputs keep their digits; the mean's part and the sum over batches are added in float64.
 */
export async function gram(
  model: Model,
  requests: readonly GramRequest[],
  stream: FeedStream,
  open: (model: Model, options: SessionOptions) => Promise<Session>,
  options: GramOptions = {},
): Promise<Gram[]> {
  const { fetch = [], onBatch, ...sessionOptions } = options;
  const { counted, groups } = countingModel(model, requests, fetch);
  const session = await open(counted, sessionOptions);
  try {
    const sums = requests.map((request, i) => new Sums(groups[i] ?? 1, request.target !== undefined));
    for await (const feeds of prefetch(stream())) {
      const fed = Object.fromEntries(
        session.inputs.flatMap(({ name }) => (feeds[name] ? [[name, feeds[name]] as const] : [])),
      );
      const results = await session.run(fed);
      for (const [index, sum] of sums.entries()) sum.add((part) => results[`${part}_${index}`]);
      onBatch?.(results, feeds);
    }
    if (sums.some((sum) => sum.rows === 0))
      throw new PareError("bad-data", "There is not one sample to run through the model");
    return sums;
  } finally {
    await session.close();
  }
}

/** The sums of one request over all batches. */
class Sums implements Gram {
  readonly matrices: Float64Array[] = [];
  readonly sums: Float64Array[] = [];
  readonly target: (TargetSums & Record<"cross" | "sums" | "squares", Float64Array[]>) | undefined;
  readonly #groups: number;
  k = 0;
  rows = 0;

  constructor(groups: number, target: boolean) {
    this.#groups = groups;
    this.target = target ? { cross: [], sums: [], squares: [] } : undefined;
  }

  /** Adds a batch: XᵀX = (X − x̄)ᵀ(X − x̄) + n·x̄x̄ᵀ, and so with Z. */
  add(part: (name: Part) => NdArray | undefined): void {
    const rows = Number((part("rows")?.data as BigInt64Array | undefined)?.[0] ?? 0n);
    this.rows += rows;
    this.k = part("gram")?.shape[1] ?? 0;
    const split = (name: Part): Float32Array[] => {
      const data = (part(name)?.data ?? new Float32Array()) as Float32Array;
      const size = data.length / this.#groups;
      return Array.from({ length: this.#groups }, (_, group) => data.subarray(group * size, (group + 1) * size));
    };
    const means = split("mean");
    addTo(this.matrices, split("gram"), means, means, rows);
    addTo(
      this.sums,
      means.map((mean) => mean.map(() => 0)),
      means,
      means.map(() => [1]),
      rows,
    );
    if (!this.target) return;
    const targets = split("target_mean");
    addTo(this.target.cross, split("cross"), means, targets, rows);
    addTo(
      this.target.sums,
      targets.map((mean) => mean.map(() => 0)),
      targets,
      targets.map(() => [1]),
      rows,
    );
    for (const [group, squares] of split("target_square").entries()) {
      const sum = (this.target.squares[group] ??= new Float64Array(squares.length));
      const mean = targets[group] as Float32Array;
      for (let o = 0; o < squares.length; o++)
        sum[o] = (sum[o] as number) + (squares[o] as number) + rows * (mean[o] as number) ** 2;
    }
  }
}

/** Adds part + n·a·bᵀ to the sum of each group. */
function addTo(
  sums: Float64Array[],
  parts: readonly Float32Array[],
  a: readonly ArrayLike<number>[],
  b: readonly ArrayLike<number>[],
  n: number,
): void {
  for (const [group, part] of parts.entries()) {
    const sum = (sums[group] ??= new Float64Array(part.length));
    const [left, right] = [a[group] ?? [], b[group] ?? []];
    for (let i = 0, at = 0; i < left.length; i++)
      for (let j = 0, scaled = n * (left[i] as number); j < right.length; j++, at++)
        sum[at] = (sum[at] as number) + (part[at] as number) + scaled * (right[j] as number);
  }
}

/** The model that computes the products instead of the model's outputs, and the groups of each request. */
function countingModel(
  model: Model,
  requests: readonly GramRequest[],
  fetch: readonly string[],
): { counted: Model; groups: number[] } {
  const nodes = new Map(model.graph.nodes.map((node) => [node.name, node]));
  const convs = requests.map((request) => {
    if ("value" in request) return undefined;
    const node = nodes.get(request.conv);
    if (node?.opType !== "Conv" || !node.inputs[0])
      throw new PareError("bad-option", `The model has no Conv node '${request.conv}'`);
    return node;
  });
  const sources = requests.map((request, i) =>
    "value" in request ? request.value : (convs[i]?.inputs[0]?.name ?? ""),
  );
  const targets = requests.flatMap(({ target }) => (target ? [target.value] : []));
  const counted = exposeValues(model, [...sources, ...targets, ...fetch]);
  const byName = new Map([...counted.graph.values()].map((value) => [value.name, value]));
  const { graph } = counted;
  graph.outputs.splice(0, graph.outputs.length, ...fetch.map((name) => byName.get(name) as Value));
  const b = new Builder(graph, { prefix: "pare_gram_" });
  const groups = requests.map((request, index) => {
    const source = byName.get(sources[index] as string) as Value;
    const node = convs[index];
    const every = "conv" in request ? (request.every ?? 1) : 1;
    const x = node
      ? patchesOfConv(b, source, node, every)
      : rowsOfValue(b, source, "axis" in request ? request.axis : -1);
    const z = request.target && targetRows(b, byName.get(request.target.value) as Value, request.target, node, every);
    products(b, x, z, index);
    return node?.int("group", 1) ?? 1;
  });
  const read = graph.inputs.filter((input) => input.uses.length > 0 || graph.isOutput(input));
  graph.inputs.splice(0, graph.inputs.length, ...read);
  return { counted, groups };
}

/** X (1, rows, k): the value with `axis` last, as rows. */
function rowsOfValue(b: Builder, source: Value, axis = -1): Value {
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
  const last = b.op("Gather", [size, ints(b, [-1])], { attributes: { axis: 0 } });
  return b.op("Reshape", [value, b.op("Concat", [ints(b, [1, -1]), last], { attributes: { axis: 0 } })]);
}

/**
 * X (groups, positions, k): the patches of a convolution, by a convolution with one-hot kernels: filter (c, i, j) copies
 * element (i, j) of channel c's patch. Padding, strides and dilations are the node's own.
 */
function patchesOfConv(b: Builder, source: Value, node: Node, every: number): Value {
  const shape = node.inputs[1]?.shape;
  const groups = node.int("group", 1);
  const [, width, ...kernel] = (shape ?? []) as number[];
  if (width === undefined || kernel.length === 0 || [width, ...kernel].some((size) => typeof size !== "number"))
    throw new PareError("unsupported", `The weight's shape of Conv '${node.name}' is not known`);
  const taps = kernel.reduce((product, size) => product * size, 1);
  const channels = width * groups;
  const weights = new Float32Array(channels * taps * taps);
  for (let filter = 0; filter < channels * taps; filter++) weights[filter * taps + (filter % taps)] = 1;
  const oneHot = b.constant("patches", Tensor.float32([channels * taps, 1, ...kernel], weights));
  const strides = (node.ints("strides") ?? kernel.map(() => 1)).map((stride) => stride * every);
  const attributes = {
    pads: node.ints("pads"),
    strides,
    dilations: node.ints("dilations"),
    kernel_shape: kernel,
    auto_pad: node.string("auto_pad"),
    group: channels,
  };
  return channelRows(b, b.op("Conv", [asFloat(b, source), oneHot], { attributes }), groups, width * taps);
}

/** Z (groups, rows, o/groups), rows in the order of X. */
function targetRows(b: Builder, value: Value, target: GramTarget, node: Node | undefined, every: number): Value {
  let z = asFloat(b, value);
  if (target.channels) {
    const channels = b.constant("channels", Tensor.int64(target.channels));
    z = b.op("Gather", [z, channels], { attributes: { axis: node ? 1 : -1 } });
  }
  if (!node) return rowsOfValue(b, z);
  const [outputs = 1, , ...kernel] = (node.inputs[1]?.shape ?? []) as number[];
  if (every > 1) {
    const axes = kernel.map((_, i) => i + 2);
    const list = (values: number[]): Value => ints(b, values);
    const limits = [list(axes.map(() => 0)), list(axes.map(() => 2 ** 31)), list(axes), list(axes.map(() => every))];
    z = b.op("Slice", [z, ...limits]);
  }
  const groups = node.int("group", 1);
  return channelRows(b, z, groups, (target.channels?.length ?? outputs) / groups);
}

/** (n, groups·k, *z) to (groups, n·Πz, k). */
function channelRows(b: Builder, value: Value, groups: number, k: number): Value {
  const split = b.op("Reshape", [value, ints(b, [0, groups, k, -1])]);
  const moved = b.op("Transpose", [split], { attributes: { perm: [1, 0, 3, 2] } });
  return b.op("Reshape", [moved, ints(b, [groups, -1, k])]);
}

/** Names of a request's outputs. */
type Part = "rows" | "mean" | "gram" | "target_mean" | "target_square" | "cross";

/** Adds the outputs of a request: number and mean of the rows, and sums of products of what is left without the mean. */
function products(b: Builder, x: Value, z: Value | undefined, index: number): void {
  const output = (part: Part, value: Value): void => {
    value.dtype = part === "rows" ? "int64" : "float32";
    b.output(value, `${part}_${index}`);
  };
  const rows = b.op("Gather", [b.op("Shape", [x]), ints(b, [1])], { attributes: { axis: 0 } });
  output("rows", rows);
  const count = b.op("Cast", [rows], { attributes: { to: dtypeCode("float32") } });
  const sum = (value: Value): Value => b.op("ReduceSum", [value, ints(b, [1])]);
  const mean = (value: Value): Value => b.op("Div", [sum(value), count]);
  const xMean = mean(x);
  output("mean", xMean);
  const centred = b.op("Sub", [x, xMean]);
  const transposed = b.op("Transpose", [centred], { attributes: { perm: [0, 2, 1] } });
  output("gram", b.op("MatMul", [transposed, centred]));
  if (!z) return;
  const zMean = mean(z);
  output("target_mean", zMean);
  const rest = b.op("Sub", [z, zMean]);
  output("cross", b.op("MatMul", [transposed, rest]));
  output("target_square", sum(b.op("Mul", [rest, rest])));
}

function ints(b: Builder, values: readonly number[]): Value {
  return b.constant("ints", Tensor.int64(values));
}

function asFloat(b: Builder, value: Value): Value {
  return value.dtype === "float32" ? value : b.op("Cast", [value], { attributes: { to: dtypeCode("float32") } });
}
