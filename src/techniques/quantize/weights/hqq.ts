/** HQQ: scales and zero points for the least ℓ_p error of the weights alone, by half-quadratic splitting inside the engine. */
import { dtypeCode } from "../../../base/dtype.ts";
import { Builder } from "../../../ir/builder.ts";
import type { Value } from "../../../ir/graph.ts";
import { Model } from "../../../ir/model.ts";
import { Tensor } from "../../../ir/tensor.ts";
import type { Session, SessionOptions } from "../../../run/session.ts";
import { type Grid, type GridSpec, type Weights, topOf } from "./weight-grid.ts";

/** Exponent of the error, its pull and the growth of that, and iterations: the paper's values, errors in steps of the grid. */
const P = 0.7;
const BETA = 10;
const KAPPA = 1.01;
const ITERATIONS = 20;
/** Elements solved in one run of the engine. */
const SLAB = 2 ** 22;

/** One session for all weights of the same options. */
export class HalfQuadratic {
  readonly #session: Session;
  readonly #spec: GridSpec;

  private constructor(session: Session, spec: GridSpec) {
    this.#session = session;
    this.#spec = spec;
  }

  static async open(
    open: (model: Model, options: SessionOptions) => Promise<Session>,
    spec: GridSpec,
    options: SessionOptions,
  ): Promise<HalfQuadratic> {
    return new HalfQuadratic(await open(solverModel(spec), options), spec);
  }

  close(): Promise<void> {
    return this.#session.close();
  }

  /**
   * min over s, z of Σ|w − ŵ|^p, p = 0.7, group by group: e ← shrink(w − ŵ), which takes outliers as errors, then the z and s
   * that fit the codes to w − e. Unlike in the paper z is rounded, because the engine's kernels take integers, and s is fitted
   * too. Of all iterates the best is taken, so that the error never exceeds that of the grid given.
   * Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models".
   */
  async solve({ k, n, data }: Weights, start: Grid, group: number): Promise<Grid & { before: number; after: number }> {
    const groups = Math.ceil(k / group);
    const result = {
      scales: new Float32Array(groups * n),
      zeroPoints: new Float32Array(groups * n),
      before: 0,
      after: 0,
    };
    const step = Math.max(1, Math.floor(SLAB / (group * n)));
    for (let from = 0; from < groups; from += step) {
      const count = Math.min(step, groups - from);
      const w = new Float32Array(count * group * n);
      w.set(data.subarray(from * group * n, Math.min(k, (from + count) * group) * n));
      const rows = (grid: Float32Array): Float32Array => grid.slice(from * n, (from + count) * n);
      const float32 = (middle: number, x: Float32Array) =>
        ({ dtype: "float32", shape: [count, middle, n], data: x }) as const;
      const found = await this.#session.run({
        w: float32(group, w),
        s: float32(1, rows(start.scales)),
        z: float32(1, rows(start.zeroPoints)),
      });
      const floats = (name: string): Float32Array => found[name]?.data as Float32Array;
      result.scales.set(floats("best_s"), from * n);
      result.zeroPoints.set(floats("best_z"), from * n);
      result.before += sum(floats("before"));
      result.after += sum(floats("after"));
    }
    return result;
  }

  get spec(): GridSpec {
    return this.#spec;
  }
}

function sum(values: Float32Array): number {
  return values.reduce((total, value) => total + value, 0);
}

/** w (groups, group, n), s and z (groups, 1, n). */
function solverModel(spec: GridSpec): Model {
  const model = new Model(undefined, 18, 8);
  model.graph.name = "half-quadratic";
  const b = new Builder(model.graph);
  const input = (name: string, middle: string | number): Value => b.input(name, "float32", ["groups", middle, "n"]);
  const [w, s0, z0] = [input("w", "group"), input("s", 1), input("z", 1)];
  const number = (name: string, value: number): Value => b.constant(name, Tensor.float32([], [value]));
  const [zero, top, tiny] = [number("zero", 0), number("top", topOf(spec.bits)), number("tiny", 1e-20)];
  const [p, slope] = [number("p", P), number("slope", P - 1)];
  const axis = b.constant("axis", Tensor.int64([1]));
  const total = (x: Value): Value => b.op("ReduceSum", [x, axis]);
  const rounded = (x: Value): Value => b.op("Clip", [b.op("Round", [x]), zero, top]);
  const stored = (s: Value): Value => {
    if (spec.scaleType === "float32") return s;
    const half = b.op("Cast", [s], { attributes: { to: dtypeCode("float16") } });
    return b.op("Cast", [half], { attributes: { to: dtypeCode("float32") } });
  };

  let [s, z]: [Value, Value] = [s0, z0];
  let best: { error: Value; s: Value; z: Value } | undefined;
  let before: Value | undefined;
  for (let iteration = 0; iteration <= ITERATIONS; iteration++) {
    // q = clip(round(w/s) + z), d = (w − ŵ)/s
    const inSteps = b.op("Div", [w, s]);
    const q = rounded(b.op("Add", [b.op("Round", [inSteps]), z]));
    const level = b.op("Sub", [q, z]);
    const d = b.op("Sub", [inSteps, level]);
    const size = b.op("Abs", [d]);
    const error = total(b.op("Pow", [b.op("Mul", [size, b.op("Abs", [s])]), p]));
    if (best) {
      const better = b.op("Less", [error, best.error]);
      const pick = (now: Value, old: Value): Value => b.op("Where", [better, now, old]);
      best = { error: pick(error, best.error), s: pick(s, best.s), z: pick(z, best.z) };
    } else {
      best = { error, s, z };
      before = error;
    }
    if (iteration === ITERATIONS) break;
    // e = sign(d)·max(0, |d| − |d|^(p−1)/β), t = w/s − e
    const pull = b.op("Div", [
      b.op("Pow", [b.op("Max", [size, tiny]), slope]),
      number("beta", BETA * KAPPA ** iteration),
    ]);
    const shrunk = b.op("Mul", [b.op("Sign", [d]), b.op("Relu", [b.op("Sub", [size, pull])])]);
    const target = b.op("Sub", [inSteps, shrunk]);
    // z = mean(q − t), s ← s·Σt(q − z)/Σ(q − z)²
    if (!spec.symmetric) z = rounded(b.op("ReduceMean", [b.op("Sub", [q, target]), axis]));
    const fitted = b.op("Sub", [q, z]);
    const [up, down] = [total(b.op("Mul", [target, fitted])), total(b.op("Mul", [fitted, fitted]))];
    const ratio = b.op("Div", [up, b.op("Max", [down, tiny])]);
    const usable = b.op("And", [b.op("Greater", [down, tiny]), b.op("Greater", [ratio, tiny])]);
    s = b.op("Where", [usable, stored(b.op("Mul", [s, ratio])), s]);
  }
  const outputs = { best_s: best?.s, best_z: best?.z, before, after: best?.error };
  for (const [name, value] of Object.entries(outputs)) {
    const copy = b.op("Identity", [value]);
    [copy.dtype, copy.shape] = ["float32", ["groups", 1, "n"]];
    b.output(copy, name);
  }
  return model;
}
