/** Products and Cholesky factors of large matrices in single precision: products on the engine, small pieces in SIMD kernels. */
import { float } from "../ir/attribute.ts";
import { Builder } from "../ir/builder.ts";
import { Model } from "../ir/model.ts";
import type { Kernels } from "../kernels/types.ts";
import type { NdArray, Session, SessionOptions } from "./session.ts";

/** A row-major matrix. */
export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly data: Float32Array; // (rows, cols)
  /** Nobody reads the numbers again: the engine's thread may have them without a copy. */
  readonly disposable?: boolean;
}

/** Rows of the squares that kernels factor, and multiply-accumulates of a product below which the way to the engine costs more. */
export const LEAF = 128;
const ENGINE_MACS = 2 ** 22;

/** Factors of A = UᵀU. */
export interface Cholesky {
  readonly u: Matrix;
  /** U⁻¹, where it was asked for. */
  readonly inverse: Matrix | undefined;
}

/** Sessions for products of any sizes. */
export class MatrixEngine {
  readonly #sum: Session;
  readonly #difference: Session;
  readonly #kernels: Kernels;

  private constructor(sum: Session, difference: Session, kernels: Kernels) {
    this.#sum = sum;
    this.#difference = difference;
    this.#kernels = kernels;
  }

  static async open(
    open: (model: Model, options: SessionOptions) => Promise<Session>,
    kernels: Kernels,
    options: SessionOptions = {},
  ): Promise<MatrixEngine> {
    return new MatrixEngine(await open(gemm(0, 1), options), await open(gemm(1, -1), options), kernels);
  }

  async close(): Promise<void> {
    await this.#sum.close();
    await this.#difference.close();
  }

  /** A·B, or C + A·B. */
  async product(a: Matrix, b: Matrix, c?: Matrix): Promise<Matrix> {
    const sizes = { m: a.rows, p: a.cols, n: b.cols };
    if (sizes.m * sizes.p * sizes.n < ENGINE_MACS && sizes.m <= 1024 && sizes.p <= 1024) {
      const start = c?.data ?? new Float32Array(sizes.m * sizes.n);
      return { rows: sizes.m, cols: sizes.n, data: this.#kernels.addProduct(start, a.data, b.data, sizes) };
    }
    return this.#run(this.#sum, a.rows, a, b, c);
  }

  /** C − AᵀB, or −AᵀB. */
  async minusCrossProduct(a: Matrix, b: Matrix, c?: Matrix): Promise<Matrix> {
    return this.#run(this.#difference, a.cols, a, b, c);
  }

  /**
   * U with UᵀU = A, for a symmetric positive definite A of which the upper triangle is read; undefined where a pivot is not
   * positive. By halves (U₁₂ = U₁₁⁻ᵀA₁₂, A₂₂ − U₁₂ᵀU₁₂ next), so that all but squares of 128 rows are products: k³/3
   * operations in the factorization itself, about 0.76 k³ as it is done here.
   */
  async cholesky(a: Matrix, inverse = false): Promise<Cholesky | undefined> {
    const k = a.rows;
    if (k <= LEAF) {
      const u = this.#kernels.choleskyUpper(a.data, k);
      return u && { u: square(k, u), inverse: inverse ? square(k, this.#kernels.invertUpper(u, k)) : undefined };
    }
    const m = Math.ceil(k / LEAF / 2) * LEAF;
    const first = await this.cholesky(part(a, 0, m, 0, m), true);
    if (!first?.inverse) return undefined;
    const u12 = negated(await this.minusCrossProduct(first.inverse, part(a, 0, m, m, k)));
    const second = await this.cholesky(await this.minusCrossProduct(u12, u12, part(a, m, k, m, k)), inverse);
    if (!second) return undefined;
    const u = square(k, new Float32Array(k * k));
    place(u, first.u, 0, 0);
    place(u, u12, 0, m);
    place(u, second.u, m, m);
    if (!second.inverse) return { u, inverse: undefined };
    // V₁₂ = −V₁₁U₁₂V₂₂
    const corner = negated(await this.product(first.inverse, await this.product(u12, second.inverse)));
    const v = square(k, new Float32Array(k * k));
    place(v, first.inverse, 0, 0);
    place(v, corner, 0, m);
    place(v, second.inverse, m, m);
    return { u, inverse: v };
  }

  async #run(session: Session, rows: number, a: Matrix, b: Matrix, c = NOTHING): Promise<Matrix> {
    const { y } = await session.run({ a: feed(a), b: feed(b), c: feed(c) }, ["y"], { transfer: true });
    return { rows, cols: b.cols, data: y?.data as Float32Array };
  }
}

/** An addend that is broadcast. */
const NOTHING: Matrix = { rows: 1, cols: 1, data: new Float32Array(1) };

/** y = c + alpha·op(a)·b. */
function gemm(transA: 0 | 1, alpha: number): Model {
  const model = new Model(undefined, 17, 8);
  model.graph.name = "product";
  const b = new Builder(model.graph);
  const inputs = ["a", "b", "c"].map((name) => b.input(name, "float32", [`${name}_rows`, `${name}_cols`]));
  const y = b.op("Gemm", inputs, { attributes: { transA, alpha: float(alpha) }, name: "y" });
  [y.dtype, y.shape] = ["float32", ["y_rows", "y_cols"]];
  b.output(y);
  return model;
}

function negated(a: Matrix): Matrix {
  for (let i = 0; i < a.data.length; i++) a.data[i] = -(a.data[i] as number);
  return a;
}

/** Numbers that the engine's thread may keep. */
function feed({ rows, cols, data, disposable = false }: Matrix): NdArray {
  return { dtype: "float32", shape: [rows, cols], data: disposable ? data : data.slice() };
}

function square(k: number, data: Float32Array): Matrix {
  return { rows: k, cols: k, data };
}

/** Rows [top, bottom) and columns [left, right), to be used once: a copy, but of whole rows a view. */
export function part(a: Matrix, top: number, bottom: number, left: number, right: number): Matrix {
  if (left === 0 && right === a.cols)
    return { rows: bottom - top, cols: a.cols, data: a.data.subarray(top * a.cols, bottom * a.cols) };
  const cols = right - left;
  const data = new Float32Array((bottom - top) * cols);
  for (let row = top; row < bottom; row++)
    data.set(a.data.subarray(row * a.cols + left, row * a.cols + right), (row - top) * cols);
  return { rows: bottom - top, cols, data, disposable: true };
}

/** Copies a block into a matrix. */
function place(into: Matrix, block: Matrix, top: number, left: number): void {
  for (let row = 0; row < block.rows; row++)
    into.data.set(block.data.subarray(row * block.cols, (row + 1) * block.cols), (top + row) * into.cols + left);
}
