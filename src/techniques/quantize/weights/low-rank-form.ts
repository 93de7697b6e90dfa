/** Thin factors beside a quantized weight, in the graph: added to the weight where it is unpacked at load, else as two products of the layer's input. */
import { Tensor } from "../../../ir/tensor.ts";
import { Builder } from "../../../ir/builder.ts";
import { type Node, type Use, Value } from "../../../ir/graph.ts";
import { bytesOf, dtypeCode } from "../../../base/dtype.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { sharedConstant } from "../../../transform/unpack-weights.ts";
import type { WeightSite } from "../../../transform/weight-sites.ts";
import type { Solved, StoredFactors } from "./solved-codes.ts";
import type { Plan } from "./weight-plan.ts";

/** Bytes of the factors of a weight of `rows` outputs and `cols` inputs. */
export function factorBytes({ rows, cols, factors }: Pick<Solved, "rows" | "cols" | "factors">): number {
  return factors ? 2 * factors.rank * (rows + cols) : 0;
}

/**
 * Adds A·B to what a weight's readers get: call `before` the weight's plan is applied, and what it returns after that. Unpacked at
 * load, ŵ + A·B is a constant and costs nothing at run time; packed products get y + (x·A)·B behind them, 2·rank·(k + n) operations
 * a row.
 */
export function lowRankForm(
  kernels: Kernels,
  site: WeightSite,
  plan: Plan,
  { rows, cols, factors }: Pick<Solved, "rows" | "cols"> & { readonly factors: StoredFactors },
): () => void {
  const { value, graph, tensor } = site;
  const { rank, a, b } = factors;
  const transposed = (bits: Uint16Array, height: number, width: number): Uint16Array =>
    kernels.toFloat16(kernels.transpose(kernels.fromFloat16(bits), height, width)).bits;
  const half = (name: string, shape: readonly number[], bits: Uint16Array): Value =>
    graph.addInitializer(`${value.name}.${name}`, Tensor.of("float16", shape, bytesOf(bits)));
  const to = dtypeCode(tensor.dtype);
  const wide = (build: Builder, factor: Value): Value =>
    tensor.dtype === "float16" ? factor : build.op("Cast", [factor], { attributes: { to }, name: "pare.w" });
  if (plan.kind !== "packed") {
    const readers: readonly Use[] = value.uses.slice();
    return () => {
      const dense = readers[0]?.node.inputs[readers[0].index] as Value;
      const build = new Builder(graph, { before: graph.nodes[graph.nodes.indexOf(dense.producer as Node) + 1] });
      // Stored by rows of inputs: Bᵀ·Aᵀ
      const [left, right] = plan.transpose
        ? [half("low.a", [cols, rank], a), half("low.b", [rank, rows], b)]
        : [
            half("low.b", [rows, rank], transposed(b, rank, rows)),
            half("low.a", [rank, cols], transposed(a, cols, rank)),
          ];
      let sum = build.op("MatMul", [wide(build, left), wide(build, right)], { name: "pare.w" });
      if (tensor.shape.length !== 2)
        sum = build.op(
          "Reshape",
          [sum, sharedConstant(graph, `shape_${tensor.shape.join("x")}`, Tensor.int64(tensor.shape))],
          {
            name: "pare.w",
          },
        );
      const whole = build.op("Add", [dense, sum], { name: "pare.w" });
      [whole.dtype, whole.shape] = [tensor.dtype, tensor.shape];
      for (const { node, index } of readers) node.setInput(index, whole);
    };
  }
  const inputs = site.uses.map(({ node }) => ({ node, x: node.inputs[0] as Value }));
  return () => {
    const stored = [half("low.a", [cols, rank], a), half("low.b", [rank, rows], b)] as const;
    for (const { node, x } of inputs) {
      const own = node.graph ?? graph;
      const build = new Builder(own, { prefix: `${value.name}.`, before: own.nodes[own.nodes.indexOf(node) + 1] });
      const [left, right] = stored.map((factor) => wide(build, factor)) as [Value, Value];
      const low = build.op("MatMul", [build.op("MatMul", [x, left], { name: "thin" }), right], { name: "low" });
      const result = node.outputs[0] as Value;
      const product = new Value(own.uniqueName(`${value.name}.product`), result.dtype, result.shape);
      node.outputs[0] = product;
      product.producer = node;
      const add = build.op("Add", [product, low], { name: "sum" }).producer as Node;
      add.outputs[0] = result;
      result.producer = add;
    }
  };
}
