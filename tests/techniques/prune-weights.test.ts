/** Criteria of unstructured pruning against their formulas written out, what they are compared in, how much goes where, and patterns. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { loadKernels } from "../../src/kernels/kernels.ts";
import { MatrixEngine } from "../../src/run/matrix-engine.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { hullPieces } from "../../src/techniques/prune/weights/sensitivity.ts";
import { sparseGpt } from "../../src/techniques/prune/weights/sparsegpt.ts";
import { erdosRenyi, lampScores } from "../../src/techniques/prune/weights/weight-allocation.ts";
import { runTechnique } from "../support/run-technique.ts";

const [K, N, SAMPLES] = [16, 8, 96];

/** Inputs that are correlated and of very different sizes, so that criteria disagree. */
function inputs(seed = 5, k = K): Float32Array {
  const rng = new Rng(seed);
  const x = new Float32Array(SAMPLES * k);
  for (let s = 0; s < SAMPLES; s++) {
    const common = rng.normal();
    for (let j = 0; j < k; j++) x[s * k + j] = (0.2 + (j % 5)) * (0.6 * common + rng.normal());
  }
  return x;
}

const DATA = datasetOf({ fields: { x: { dtype: "float32", shape: [SAMPLES, K], data: inputs() } } });

/** y = relu(x W1) W2, W1 (16, 8), W2 (8, 4). */
function network(seed = 1): Model {
  const rng = new Rng(seed);
  const matrix = (rows: number, cols: number): Tensor =>
    Tensor.float32(
      [rows, cols],
      Float32Array.from({ length: rows * cols }, () => rng.normal()),
    );
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", K]);
  const hidden = b.op("Relu", [b.op("MatMul", [x, b.constant("w1", matrix(K, N))], { name: "first" })]);
  const y = b.op("MatMul", [hidden, b.constant("w2", matrix(N, 4))], { name: "second" });
  [y.dtype, y.shape] = ["float32", ["n", 4]];
  b.output(y, "y");
  return model;
}

async function weight(model: Model, name: string): Promise<Float32Array> {
  return (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
}

async function pruned(options: Record<string, unknown>, model = network()): Promise<Record<"w1" | "w2", Float32Array>> {
  const result = await runTechnique(pruneWeights, model, { samples: SAMPLES, ...options }, DATA);
  return { w1: await weight(result.model, "w1"), w2: await weight(result.model, "w2") };
}

/** XᵀX in double precision. */
function gramOf(x: Float32Array, k: number): Float64Array {
  const gram = new Float64Array(k * k);
  for (let s = 0; s < x.length / k; s++)
    for (let i = 0; i < k; i++)
      for (let j = 0; j < k; j++)
        gram[i * k + j] = (gram[i * k + j] as number) + (x[s * k + i] as number) * (x[s * k + j] as number);
  return gram;
}

function inverse(a: Float64Array, k: number): Float64Array {
  const m = Array.from({ length: k }, (_, i) =>
    Array.from({ length: 2 * k }, (__, j) => (j < k ? (a[i * k + j] as number) : j - k === i ? 1 : 0)),
  );
  for (let p = 0; p < k; p++) {
    const row = m[p] as number[];
    const pivot = row[p] as number;
    for (let j = 0; j < 2 * k; j++) row[j] = (row[j] as number) / pivot;
    for (const [i, other] of m.entries()) {
      const f = other[p] as number;
      if (i !== p) for (let j = 0; j < 2 * k; j++) other[j] = (other[j] as number) - f * (row[j] as number);
    }
  }
  return Float64Array.from(m.flatMap((row) => row.slice(k)));
}

/** Which elements are not the least important: the largest scores, as many. */
function keeps(scores: readonly number[], count: number): boolean[] {
  const least = [...scores].sort((a, b) => b - a)[count - 1] as number;
  return scores.map((score) => score >= least);
}

const isKept = (w: Float32Array): boolean[] => Array.from(w, (x) => x !== 0);

describe("scores", () => {
  it("wanda is |w| times the norm of the input, within each output", async () => {
    const w = await weight(network(), "w1");
    const gram = gramOf(inputs(), K);
    const expected: boolean[] = Array(K * N).fill(false);
    for (let o = 0; o < N; o++) {
      const scores = Array.from(
        { length: K },
        (_, j) => Math.abs(w[j * N + o] as number) * Math.sqrt(gram[j * (K + 1)] as number),
      );
      for (const [j, kept] of keeps(scores, K / 2).entries()) expected[j * N + o] = kept;
    }
    expect(isKept((await pruned({ score: "wanda" })).w1)).toEqual(expected);
    // Negative control: another criterion keeps others
    expect(isKept((await pruned({ score: "magnitude", scope: "output" })).w1)).not.toEqual(expected);
  });

  it("obd and obs are what the layer's output loses, without and with the other inputs making up for it", async () => {
    const w = await weight(network(), "w1");
    const gram = gramOf(inputs(), K);
    let trace = 0;
    for (let j = 0; j < K; j++) trace += gram[j * (K + 1)] as number;
    const damped = gram.map((x, at) => x + (at % (K + 1) === 0 ? (0.01 * trace) / K : 0));
    const inverted = inverse(damped, K);
    const scores = (d: (j: number) => number): number[] => Array.from(w, (x, at) => x * x * d(Math.floor(at / N)));
    expect(isKept((await pruned({ score: "obd" })).w1)).toEqual(
      keeps(
        scores((j) => gram[j * (K + 1)] as number),
        (K * N) / 2,
      ),
    );
    expect(isKept((await pruned({ score: "obs" })).w1)).toEqual(
      keeps(
        scores((j) => 1 / (inverted[j * (K + 1)] as number)),
        (K * N) / 2,
      ),
    );
  });

  it("taylor and fisher follow the gradient of the cross-entropy", async () => {
    const model = new Model(undefined, 17, 8);
    const b = new Builder(model.graph);
    const x = b.input("x", "float32", ["n", K]);
    const rng = new Rng(3);
    const w = Float32Array.from({ length: K * 3 }, () => 0.2 * rng.normal());
    const y = b.op("MatMul", [x, b.constant("w", Tensor.float32([K, 3], w))]);
    [y.dtype, y.shape] = ["float32", ["n", 3]];
    b.output(y, "y");
    const labels = Int32Array.from({ length: SAMPLES }, (_, i) => i % 3);
    const xs = inputs();
    const data = datasetOf({
      fields: { x: { dtype: "float32", shape: [SAMPLES, K], data: xs } },
      labels: { dtype: "int32", shape: [SAMPLES], data: labels },
    });
    const sums = { taylor: new Float64Array(K * 3), fisher: new Float64Array(K * 3) };
    for (let s = 0; s < SAMPLES; s++) {
      const row = xs.subarray(s * K, (s + 1) * K);
      const scores = [0, 1, 2].map((c) => row.reduce((sum, value, j) => sum + value * (w[j * 3 + c] as number), 0));
      const most = Math.max(...scores);
      const total = scores.reduce((sum, score) => sum + Math.exp(score - most), 0);
      for (let at = 0; at < K * 3; at++) {
        const c = at % 3;
        const p = Math.exp((scores[c] as number) - most) / total - (labels[s] === c ? 1 : 0);
        const g = p * (row[Math.floor(at / 3)] as number);
        sums.taylor[at] = (sums.taylor[at] as number) + g;
        sums.fisher[at] = (sums.fisher[at] as number) + g * g;
      }
    }
    for (const score of ["taylor", "fisher"] as const) {
      const result = await runTechnique(pruneWeights, model, { score, samples: SAMPLES }, data);
      const of = (at: number): number =>
        score === "taylor"
          ? Math.abs((w[at] as number) * (sums.taylor[at] as number))
          : (w[at] as number) ** 2 * (sums.fisher[at] as number);
      expect(isKept(await weight(result.model, "w"))).toEqual(
        keeps(
          Array.from(w, (_, at) => of(at)),
          (K * 3) / 2,
        ),
      );
      expect(result.journal.notes.join()).toMatch(/96 samples, against their labels/);
    }
    const own = await runTechnique(pruneWeights, network(), { score: "taylor" }, DATA);
    expect(own.journal.notes.join()).toMatch(/against the model's own answers/);
  });

  it("takes a function, and random as the control", async () => {
    const last = (weights: Float32Array): Float32Array => weights.map((_, i) => i);
    const { w1 } = await pruned({ score: last, ratio: 0.25 });
    expect(isKept(w1)).toEqual(Array.from(w1, (_, i) => i >= w1.length / 4));
    expect(isKept((await pruned({ score: "random" })).w1)).not.toEqual(isKept((await pruned({})).w1));
  });
});

describe("sparsegpt", () => {
  /** The paper's algorithm with plain inverses: the mask of all inputs from the start, errors moved to later inputs. */
  function reference(w: Float32Array, gram: Float64Array, k: number, n: number, keep: number): Float64Array {
    const inverted = inverse(gram, k);
    const rows: { d: number; row: number[] }[] = [];
    for (let j = 0; j < k; j++) {
      const d = inverted[j * (k + 1)] as number;
      rows.push({ d, row: Array.from({ length: k }, (_, i) => inverted[j * k + i] as number) });
      const column = Array.from({ length: k }, (_, i) => inverted[i * k + j] as number);
      for (let a = 0; a < k; a++)
        for (let b = 0; b < k; b++)
          inverted[a * k + b] = (inverted[a * k + b] as number) - ((column[a] as number) * (column[b] as number)) / d;
    }
    const kept = keeps(
      Array.from(w, (x, at) => (x * x) / (rows[Math.floor(at / n)] as { d: number }).d),
      keep,
    );
    const result = Float64Array.from(w);
    for (const [j, { d, row }] of rows.entries())
      for (let o = 0; o < n; o++) {
        if (kept[j * n + o]) continue;
        const error = (result[j * n + o] as number) / d;
        for (let i = j; i < k; i++) result[i * n + o] = (result[i * n + o] as number) - error * (row[i] as number);
        result[j * n + o] = 0;
      }
    return result;
  }

  it("is the paper's algorithm", async () => {
    const kernels = await loadKernels();
    const matrices = await MatrixEngine.open(openSession, kernels, { threads: 1 });
    try {
      for (const k of [8, 40]) {
        const rng = new Rng(k);
        const w = Float32Array.from({ length: k * 5 }, () => rng.normal());
        const gram = gramOf(inputs(k, k), k);
        let trace = 0;
        for (let j = 0; j < k; j++) trace += gram[j * (k + 1)] as number;
        const damped = gram.map((x, at) => x + (at % (k + 1) === 0 ? (0.05 * trace) / k : 0));
        const expected = reference(w, damped, k, 5, (k * 5) / 2);
        const options = { ratio: 0.5, pattern: { kind: "free" }, damping: 0.05 } as const;
        const { data } = await sparseGpt(matrices, kernels, { k, n: 5, data: w }, gram, options);
        const worst = data.reduce((most, x, at) => Math.max(most, Math.abs(x - (expected[at] as number))), 0);
        // Single precision against double, over k steps that feed each other
        expect(worst).toBeLessThan(1e-3);
        expect(w.reduce((most, x, at) => Math.max(most, Math.abs(x - (expected[at] as number))), 0)).toBeGreaterThan(
          0.1,
        );
      }
    } finally {
      await matrices.close();
    }
  });

  it("loses less of a layer's output than wanda, and wanda less than magnitude", async () => {
    const gram = gramOf(inputs(), K);
    const w = await weight(network(), "w1");
    const lost = async (options: Record<string, unknown>): Promise<number> => {
      const { w1 } = await pruned(options);
      let sum = 0;
      for (let o = 0; o < N; o++)
        for (let i = 0; i < K; i++)
          for (let j = 0; j < K; j++)
            sum +=
              ((w1[i * N + o] as number) - (w[i * N + o] as number)) *
              (gram[i * K + j] as number) *
              ((w1[j * N + o] as number) - (w[j * N + o] as number));
      return sum;
    };
    for (const options of [{ ratio: 0.5 }, { pattern: "2:4" }]) {
      const [obs, wanda, plain] = [
        await lost({ ...options, score: "sparsegpt" }),
        await lost({ ...options, score: "wanda" }),
        await lost(options),
      ];
      expect(obs).toBeLessThan(0.8 * wanda);
      expect(wanda).toBeLessThan(0.8 * plain);
    }
  });
});

describe("patterns", () => {
  const SCORES = ["magnitude", "random", "wanda", "obd", "obs", "sparsegpt", "taylor", "fisher"];

  it.each(SCORES)("n:m and blocks hold by %s", async (score) => {
    const { w1 } = await pruned({ score, pattern: "2:4" });
    for (let o = 0; o < N; o++)
      for (let group = 0; group < K; group += 4)
        expect([0, 1, 2, 3].filter((i) => w1[(group + i) * N + o] !== 0).length).toBe(2);
    const blocks = (await pruned({ score, pattern: "4x2", ratio: 0.5 })).w1;
    let gone = 0;
    for (let row = 0; row < K; row += 4)
      for (let col = 0; col < N; col += 2) {
        const own = Array.from({ length: 8 }, (_, i) => blocks[(row + (i >> 1)) * N + col + (i & 1)]);
        const zeros = own.filter((x) => x === 0).length;
        expect([0, 8]).toContain(zeros);
        gone += zeros;
      }
    expect(gone).toBe((K * N) / 2);
  });
});

describe("what is compared, and how much goes where", () => {
  const zeros = (w: Float32Array): number => w.filter((x) => x === 0).length;

  it("within outputs and layers the share holds for each, over all layers for all together", async () => {
    const scale = network();
    const w2 = await weight(scale, "w2");
    const value = scale.graph.initializers.get("w2");
    if (value)
      value.tensor = Tensor.float32(
        [N, 4],
        w2.map((x) => 100 * x),
      );
    const output = await pruned({ scope: "output", ratio: 0.25 }, scale);
    for (let o = 0; o < N; o++) expect(output.w1.filter((x, at) => at % N === o && x === 0)).toHaveLength(K / 4);
    const global = await pruned({ scope: "global", ratio: 0.5 }, scale);
    expect([zeros(global.w1), zeros(global.w2)]).toEqual([80, 0]);
    const normalised = await pruned({ scope: "normalised", ratio: 0.5 }, scale);
    expect(zeros(normalised.w1) + zeros(normalised.w2)).toBe(80);
    expect(zeros(normalised.w2)).toBeGreaterThan(8);
    const lamp = await pruned({ allocation: "lamp", ratio: 0.5 }, scale);
    expect(zeros(lamp.w1) + zeros(lamp.w2)).toBe(80);
    expect(zeros(lamp.w2)).toBeGreaterThan(0);
    for (const score of ["wanda", "obd", "obs"]) {
      const together = await pruned({ scope: "global", ratio: 0.5, score });
      expect(zeros(together.w1) + zeros(together.w2)).toBe(80);
    }
  });

  it("Erdős–Rényi keeps small layers denser, and the total", () => {
    const site = (shape: number[]): never =>
      ({ tensor: Tensor.float32(shape, new Float32Array(shape.reduce((a, b) => a * b))) }) as never;
    const sites = [site([4, 4]), site([64, 64]), site([32, 16, 3, 3])];
    const shares = erdosRenyi(sites, 0.8);
    const [small = 0, large = 0] = sites.map((each) => shares.get(each) as number);
    expect(small).toBe(0);
    expect(large).toBeGreaterThan(0.5);
    const elements = [16, 4096, 4608];
    const gone = sites.reduce((sum, each, i) => sum + (shares.get(each) as number) * (elements[i] as number), 0);
    expect(gone / 8720).toBeCloseTo(0.8, 6);
  });

  it("LAMP divides by all that is at least as large", () => {
    const w = Float32Array.of(3, -1, 2, 0, 1);
    const expected = [1, 1 / 15, 4 / 13, 0, 1 / 15];
    for (const [i, score] of lampScores(w).entries()) expect(score).toBeCloseTo(expected[i] as number, 6);
  });

  it("sensitivity takes the least harmful weights first", async () => {
    const shares = { w1: 0, w2: 0 };
    // A layer that feeds a saturated maximum has no effect until it is all gone
    const model = network();
    const w2 = await weight(model, "w2");
    const value = model.graph.initializers.get("w2");
    if (value)
      value.tensor = Tensor.float32(
        [N, 4],
        w2.map((x, i) => (i < 4 ? 50 * x : 1e-4 * x)),
      );
    const result = await pruned({ allocation: "sensitivity", ratio: 0.5 }, model);
    shares.w1 = zeros(result.w1) / (K * N);
    shares.w2 = zeros(result.w2) / (N * 4);
    expect(zeros(result.w1) + zeros(result.w2)).toBeGreaterThan(76);
    expect(zeros(result.w1) + zeros(result.w2)).toBeLessThan(84);
    expect(shares.w2).toBeGreaterThan(0.8);
    const site = { tensor: Tensor.float32([100], new Float32Array(100)) } as never;
    const slopes = hullPieces(site, [0.4, 0.3, 0.5, 0.9, 1.5, 3]).map(({ slope }) => slope);
    expect(slopes).toEqual([...slopes].sort((a, b) => a - b));
  });

  it("refuses what contradicts itself", async () => {
    for (const options of [
      { scope: "global", allocation: "erk" },
      { scope: "local", allocation: "lamp" },
      { score: "sparsegpt", scope: "global" },
      { scope: "output", pattern: "4x4" },
      { pattern: "4:2" },
    ])
      await expect(runTechnique(pruneWeights, network(), options, DATA)).rejects.toMatchObject({ code: "bad-option" });
  });
});
