/** Dropout under training, from fed random numbers: the engine's own generator starts over in each session. */
import type { DType } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import { elementCount, isConcrete } from "../base/shape.ts";
import { Builder } from "../ir/builder.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import { Tensor } from "../ir/tensor.ts";
import type { NdArray } from "../run/session.ts";
import { mul, scalar, type Site, slice, unsqueeze } from "../ops/gradients/words.ts";

/** The input that brings the random numbers of a step. */
export interface NoisePort {
  readonly name: string;
  /** int64 numbers per step. */
  readonly length: number;
}

/**
 * Replaces every Dropout by y = x·[u ≥ p]/(1 − p). With an element's row i and column j, u is the top of the 64-bit product
 * X_i·Y_j·c mod 2⁶⁴ of fed odd numbers X, Y and a constant c of the node (multiply-shift hashing, Dietzfelbinger et al.
 * 1997): for a given column the bits of all rows are independent, and the other way round. A tensor of n elements needs
 * about 2√n random numbers per step, whatever the engine. Shapes must be known. Undefined without a Dropout.
 */
export function feedDropout(graph: Graph, opset: number): NoisePort | undefined {
  const nodes = graph.nodes.filter((node) => node.opType === "Dropout" && node.domain === "");
  const plans = nodes.flatMap((node) => {
    const rate = rateOf(node);
    return rate > 0 ? [{ node, rate, ...gridOf(node) }] : [];
  });
  if (plans.length === 0) return undefined;
  const rows = Math.max(...plans.map((plan) => plan.rows));
  const length = rows + Math.max(...plans.map((plan) => plan.columns));
  const b = new Builder(graph, { prefix: "train/" });
  const noise = b.input("noise", "int64", [length]);
  const multipliers = new Rng(0x9e3779b9);
  for (const { node, rate, rows: i, columns: j, shape } of plans) {
    const s: Site = { b: new Builder(graph, { prefix: "train/", before: node }), opset };
    const [x, y] = [node.inputs[0] as Value, node.outputs[0] as Value];
    const odd = s.b.constant("odd", Tensor.int64([multipliers.bits() * 2 + 1], []));
    const row = unsqueeze(s, slice(s, noise, [0], [0], [i]), [1]);
    const column = unsqueeze(s, mul(s, slice(s, noise, [0], [rows], [rows + j]), odd), [0]);
    const bits = mul(s, row, column); // (i, j), wraps around
    // A signed number is uniform from −2⁶³; its lowest share p is dropped.
    const threshold = BigInt.asIntN(64, -(1n << 63n) + BigInt(Math.round(rate * 2 ** 53)) * 2n ** 11n);
    const least = Tensor.of("int64", [], BigInt64Array.of(threshold));
    const drop = s.b.op("Less", [bits, s.b.constant("least", least)]);
    const dtype: DType = x.dtype ?? "float32";
    const factors = s.b.op("Where", [drop, scalar(s, dtype, 0), scalar(s, dtype, 1 / (1 - rate))]);
    const mask = s.b.op("Reshape", [factors, s.b.constant("shape", Tensor.int64(shape))]);
    const kept = mul(s, x, mask);
    [kept.dtype, kept.shape] = [dtype, shape];
    const used = node.outputs[1];
    if (used && used.uses.length > 0)
      used.replaceUses(s.b.op("Reshape", [s.b.op("Not", [drop]), s.b.constant("shape", Tensor.int64(shape))]));
    if (!graph.replaceValue(y, kept))
      throw new PareError("unsupported", "Dropout as the model's last operator cannot be trained", {
        where: `node '${node.name}'`,
      });
    graph.remove(node);
  }
  return { name: noise.name, length };
}

/** The random numbers of a step: odd, a function of the seed and the step alone. */
export function noiseFor(port: NoisePort, seed: number, step: number): NdArray {
  const rng = new Rng(seed).fork(`dropout ${step}`);
  const data = new BigInt64Array(port.length);
  const words = new Uint32Array(data.buffer);
  for (let i = 0; i < words.length; i++) words[i] = i % 2 === 0 ? rng.bits() | 1 : rng.bits();
  return { dtype: "int64", shape: [port.length], data };
}

/** Share that is dropped: an attribute before opset 12, an input (default ½) since. */
function rateOf(node: Node): number {
  const attribute = node.float("ratio");
  if (attribute !== undefined) return attribute;
  const input = node.inputs[1];
  if (!input) return 0.5;
  const constant = input.producer?.opType === "Constant" ? input.producer.attributes.get("value") : undefined;
  const rate = (input.tensor ?? (constant?.type === "tensor" ? constant.value : undefined))?.peekNumbers()?.[0];
  if (rate !== undefined && rate >= 0 && rate < 1) return rate;
  throw new PareError("unsupported", "The share that Dropout drops must be a constant from 0 to 1", {
    where: `node '${node.name}'`,
    found: rate === undefined ? "a value computed while the graph runs" : String(rate),
    help: "Train with dropout off",
  });
}

/** The shape of what is dropped from, as about √n rows and columns. */
function gridOf(node: Node): { shape: readonly number[]; rows: number; columns: number } {
  const shape = node.inputs[0]?.shape;
  if (!isConcrete(shape))
    throw new PareError("unsupported", "The shape of what Dropout drops from is not known", {
      where: `node '${node.name}'`,
      help: "Train with dropout off",
    });
  const count = elementCount(shape);
  let best = 1;
  let columns = 1;
  for (const size of [...shape].reverse()) {
    columns *= size;
    if (columns + count / columns < best + count / best) best = columns;
  }
  return { shape, rows: count / best, columns: best };
}
