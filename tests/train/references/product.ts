/** Matrix products in double precision. */
import { type Nd, type Reference, broadcastAt, each } from "./arrays.ts";

/** y = f(α·op(a)·op(b) + β·c) */
const gemm: Reference = (node, [a, b, c]) => {
  const [left, right] = [a as Nd, b as Nd];
  const [transA, transB] = [node.int("transA", 0) !== 0, node.int("transB", 0) !== 0];
  const [m = 0, inner = 0] = transA ? [left.shape[1], left.shape[0]] : left.shape;
  const n = right.shape[transB ? 0 : 1] ?? 0;
  const data = new Float64Array(m * n);
  each([m, n], (at, flat) => {
    const [i = 0, j = 0] = at;
    let sum = 0;
    for (let k = 0; k < inner; k++)
      sum +=
        (left.data[transA ? k * m + i : i * inner + k] ?? 0) * (right.data[transB ? j * inner + k : k * n + j] ?? 0);
    const y = node.float("alpha", 1) * sum + (c ? node.float("beta", 1) * broadcastAt(c, at) : 0);
    data[flat] = node.string("activation") === "Relu" ? Math.max(0, y) : y;
  });
  return [{ shape: [m, n], data }];
};

export const PRODUCT_REFERENCES: Readonly<Record<string, Reference>> = { "com.microsoft::FusedGemm": gemm };
