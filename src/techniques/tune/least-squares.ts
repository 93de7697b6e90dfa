/** Ridge least squares for the weights of a linear layer, with weights that must stay zero: conjugate gradients inside the engine. */
import { Builder } from "../../ir/builder.ts";
import { Graph, type Value } from "../../ir/graph.ts";
import { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Gram } from "../../run/gram.ts";
import type { NdArray, Session, SessionOptions } from "../../run/session.ts";

/** Iterations and the residual, relative to the first, at which the solution is good enough: a ridge bounds what is left. */
const MOST_ITERATIONS = 200;
const TOLERANCE = 1e-5;
/** Sums of float32 products are known to about this share of the inputs' mean square; less ridge could be less than their errors. */
const LEAST_RIDGE = 1e-5;

export interface LayerProblem {
  /** Sums over the calibration rows, with a target. */
  readonly gram: Gram;
  /** Weights as rows, (groups, o/groups, k); zeros stay zero. */
  readonly weights: Float32Array;
  /** What is added to each output now (o); undefined where no vector can be added, which is part of the solution else. */
  readonly bias: ArrayLike<number> | undefined;
  /** Pull towards the present weights, relative to the mean square of the inputs. */
  readonly ridge: number;
  /** Leave the weights and find the shift only. */
  readonly shiftOnly: boolean;
}

export interface LayerSolution {
  readonly weights: Float32Array;
  /** To be added to each output (o); undefined without a bias. */
  readonly shift: Float64Array | undefined;
  /** ‖z − ẑ‖/‖z‖ over the calibration rows, before and after. */
  readonly before: number;
  readonly after: number;
}

/** Solves layers one after another in one session. */
export class LeastSquares {
  readonly #session: Session;

  private constructor(session: Session) {
    this.#session = session;
  }

  static async open(
    open: (model: Model, options: SessionOptions) => Promise<Session>,
    options: SessionOptions,
  ): Promise<LeastSquares> {
    return new LeastSquares(await open(solverModel(), options));
  }

  close(): Promise<void> {
    return this.#session.close();
  }

  /**
   * Minimizes Σ‖z − Wx − b‖² + λ‖W − W₀‖² over the weights that are not zero. With a free b the sums are centred first,
   * and b = z̄ − Wx̄.
   */
  async solve({ gram, weights, bias, ridge, shiftOnly }: LayerProblem): Promise<LayerSolution> {
    const { k, rows, matrices, target } = gram;
    const groups = matrices.length;
    const outputs = weights.length / k / groups; // of each group
    const free = bias !== undefined;
    const g = new Float64Array(groups * k * k);
    const c = new Float64Array(groups * outputs * k);
    const inverse = new Float64Array(groups * k);
    const damping = new Float64Array(groups);
    for (let group = 0; group < groups; group++) {
      const [matrix, sum] = [matrices[group] as Float64Array, gram.sums[group] as Float64Array];
      const [cross, targetSum] = [target?.cross[group] as Float64Array, target?.sums[group] as Float64Array];
      const own = g.subarray(group * k * k, (group + 1) * k * k);
      let trace = 0;
      for (let i = 0; i < k; i++) {
        const si = free ? at(sum, i) / rows : 0;
        for (let j = 0; j < k; j++) own[i * k + j] = at(matrix, i * k + j) - si * at(sum, j);
        for (let o = 0; o < outputs; o++)
          c[(group * outputs + o) * k + i] = at(cross, i * outputs + o) - si * at(targetSum, o);
        trace += at(matrix, i * k + i);
      }
      // Inputs that are always zero get no step: their row of G and C is zero and λ is not.
      damping[group] = Math.max(Math.max(ridge, LEAST_RIDGE) * (trace / k), 1e-30);
      for (let i = 0; i < k; i++) inverse[group * k + i] = 1 / (at(own, i * k + i) + at(damping, group));
    }
    const mask = Float64Array.from(weights, (w) => (w === 0 ? 0 : 1));
    const float64 = (shape: number[], data: Float64Array): NdArray => ({ dtype: "float64", shape, data });
    const result = await this.#session.run({
      weights: float64([groups, outputs, k], Float64Array.from(weights)),
      mask: float64([groups, outputs, k], mask),
      gram: float64([groups, k, k], g),
      cross: float64([groups, outputs, k], c),
      damping: float64([groups, 1, 1], damping),
      inverse: float64([groups, 1, k], inverse),
      iterations: { dtype: "int64", shape: [], data: BigInt64Array.of(shiftOnly ? 0n : BigInt(MOST_ITERATIONS)) },
    });
    const solved = Float32Array.from(result["solved"]?.data as Float64Array);
    const [before, after] = ["before", "after"].map((name) => result[name]?.data as Float64Array) as [
      Float64Array,
      Float64Array,
    ];
    const shift = free ? new Float64Array(groups * outputs) : undefined;
    let [energy, errorBefore, errorAfter] = [0, 0, 0];
    for (let channel = 0; channel < groups * outputs; channel++) {
      const [group, o] = [Math.floor(channel / outputs), channel % outputs];
      const square = at(target?.squares[group] ?? [], o);
      const mean = at(target?.sums[group] ?? [], o) / rows;
      const centred = square - (free ? rows * mean ** 2 : 0);
      energy += square;
      errorBefore += Math.max(0, centred + at(before, channel));
      errorAfter += Math.max(0, centred + at(after, channel));
      if (!shift) continue;
      const [old, now] = [weights, solved].map((w) => dot(w, channel * k, gram.sums[group] as Float64Array) / rows);
      errorBefore += rows * (mean - (old ?? 0) - at(bias ?? [], channel)) ** 2;
      shift[channel] = mean - (now ?? 0) - at(bias ?? [], channel);
    }
    const relative = (error: number): number => (energy === 0 ? 0 : Math.sqrt(error / energy));
    return { weights: solved, shift, before: relative(errorBefore), after: relative(errorAfter) };
  }
}

function at(values: ArrayLike<number>, i: number): number {
  return values[i] ?? 0;
}

function dot(weights: Float32Array, from: number, x: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += at(weights, from + i) * at(x, i);
  return sum;
}

/**
 * The conjugate gradient method with the diagonal as preconditioner (Shewchuk 1994), for every row of W at once, each with
 * its own step lengths; `before` and `after` are wGwᵀ − 2wcᵀ of each row, the squared error without the target's own square.
 */
function solverModel(): Model {
  const model = new Model(undefined, 18, 8);
  const { graph } = model;
  graph.name = "least-squares";
  const b = new Builder(graph);
  const input = (name: string, ...shape: string[]): Value => b.input(name, "float64", shape);
  const weights = input("weights", "g", "o", "k");
  const mask = input("mask", "g", "o", "k");
  const gram = input("gram", "g", "k", "k");
  const cross = input("cross", "g", "o", "k");
  const damping = input("damping", "g", "one", "one");
  const inverse = input("inverse", "g", "one", "k");
  const iterations = b.input("iterations", "int64", []);
  const number = (name: string, value: number): Value =>
    b.constant(name, Tensor.of("float64", [], Float64Array.of(value)));
  const [zero, tiny, tolerance] = [number("zero", 0), number("tiny", 1e-300), number("tolerance", TOLERANCE ** 2)];
  const last = b.constant("last", Tensor.int64([-1]));
  const rowSum = (on: Builder, x: Value): Value => on.op("ReduceSum", [x, last]);
  const quadratic = (w: Value, product: Value): Value =>
    rowSum(b, b.op("Mul", [w, b.op("Sub", [product, b.op("Add", [cross, cross])])]));

  const product = b.op("MatMul", [weights, gram]);
  const before = quadratic(weights, product);
  // r₀ = c − w₀G on the support, z₀ = D⁻¹r₀, p₀ = z₀, δ₀ = 0
  const residual = b.op("Mul", [mask, b.op("Sub", [cross, product])]);
  const first = b.op("Mul", [inverse, residual]);
  const start = rowSum(b, b.op("Mul", [residual, first]));
  const enough = b.op("Mul", [b.op("Max", [start, tiny]), tolerance]);
  const none = b.op("Mul", [weights, zero]);
  const always = b.constant("always", Tensor.of("bool", [], Uint8Array.of(1)));

  const body = new Graph("iteration", graph);
  const inner = new Builder(body, { prefix: "cg_" });
  inner.input("cg_index", "int64", []);
  inner.input("cg_condition", "bool", []);
  const carried = (name: string): Value =>
    inner.input(`cg_${name}_in`, "float64", ["g", "o", name === "rz" ? "one" : "k"]);
  const [delta, r, p, rz] = [carried("delta"), carried("r"), carried("p"), carried("rz")];
  const positive = (x: Value, quotient: Value): Value =>
    inner.op("Where", [inner.op("Greater", [x, tiny]), quotient, zero]);
  // q = (pG + λp) on the support, α = r·z/p·q
  const q = inner.op("Mul", [mask, inner.op("Add", [inner.op("MatMul", [p, gram]), inner.op("Mul", [p, damping])])]);
  const curvature = rowSum(inner, inner.op("Mul", [p, q]));
  const alpha = positive(curvature, inner.op("Div", [rz, curvature]));
  const nextDelta = inner.op("Add", [delta, inner.op("Mul", [alpha, p])]);
  const nextR = inner.op("Sub", [r, inner.op("Mul", [alpha, q])]);
  // z = D⁻¹r, β = r·z/(r·z before), p = z + βp
  const z = inner.op("Mul", [inverse, nextR]);
  const nextRz = rowSum(inner, inner.op("Mul", [nextR, z]));
  const beta = positive(rz, inner.op("Div", [nextRz, rz]));
  const nextP = inner.op("Add", [z, inner.op("Mul", [beta, p])]);
  const open = inner.op("Cast", [inner.op("Greater", [nextRz, enough])], { attributes: { to: 6 } });
  const goOn = inner.op("Cast", [inner.op("ReduceMax", [open], { attributes: { keepdims: 0 } })], {
    attributes: { to: 9 },
  });
  [goOn.dtype, goOn.shape] = ["bool", []];
  inner.output(goOn);
  for (const next of [nextDelta, nextR, nextP, nextRz]) {
    next.dtype = "float64";
    inner.output(next);
  }
  const [change] = b.ops("Loop", [iterations, always, none, residual, first, start], {
    attributes: { body: { type: "graph", value: body } },
    outputs: 4,
  }) as [Value];
  const solved = b.op("Add", [weights, change]);
  const outputs = { solved, before, after: quadratic(solved, b.op("MatMul", [solved, gram])) };
  for (const [name, value] of Object.entries(outputs)) {
    value.dtype = "float64";
    b.output(value, name);
  }
  return model;
}
