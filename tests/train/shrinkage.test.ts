/** Proximal steps of penalties: against the formulas written out, and trainings that end where the penalized problem's solution is. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { shrink, type Shrinkage } from "../../src/train/shrinkage.ts";
import { train } from "../../src/train/train.node.ts";

type Weights = Record<string, { shape: readonly number[]; data: Float32Array }>;

/** The proximal step as the engine computes it; `amount` is the rate times the strength. */
async function stepped(weights: Weights, shrinkage: Shrinkage, amount: number): Promise<Record<string, Float32Array>> {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const inputs = new Map(Object.entries(weights).map(([name, { shape }]) => [name, b.input(name, "float32", shape)]));
  const site = { b, opset: 17 };
  for (const [name, value] of shrink(site, shrinkage, b.input("amount", "float32", []), inputs))
    b.output(b.op("Identity", [value]), `${name}_next`);
  for (const output of model.graph.outputs) [output.dtype, output.shape] = ["float32", undefined];
  const session = await openSession(model, { inProcess: true, threads: 1 });
  try {
    const fed = Object.entries(weights).map(([name, each]) => [name, { dtype: "float32" as const, ...each }] as const);
    const amounts = { dtype: "float32" as const, shape: [], data: Float32Array.of(amount) };
    const results = await session.run({ ...Object.fromEntries(fed), amount: amounts });
    return Object.fromEntries(
      Object.keys(weights).map((name) => [name, results[`${name}_next`]?.data as Float32Array]),
    );
  } finally {
    await session.close();
  }
}

const drawn = (rng: Rng, shape: readonly number[]): { shape: readonly number[]; data: Float32Array } => ({
  shape,
  data: Float32Array.from({ length: shape.reduce((n, size) => n * size, 1) }, () => rng.normal()),
});

describe("the step", () => {
  // Four channels: filters (5, 2, 3, 3) whose last belongs to none, the second axis of (3, 4), a bias (4); the shift follows.
  const weights = (seed: number): Weights => {
    const rng = new Rng(seed);
    return {
      filters: drawn(rng, [5, 2, 3, 3]),
      tied: drawn(rng, [3, 4]),
      bias: drawn(rng, [4]),
      shift: drawn(rng, [4]),
    };
  };
  const MEMBERS = [
    { weight: "filters", axis: 0, groupOf: Int32Array.of(2, 0, 1, 3, -1) },
    { weight: "tied", axis: 1, groupOf: Int32Array.of(0, 1, 2, 3) },
    { weight: "bias", axis: 0, groupOf: Int32Array.of(3, 2, 1, 0) },
    { weight: "shift", axis: 0, groupOf: Int32Array.of(0, 1, 2, 3), follows: true },
    { weight: "not trained", axis: 0, groupOf: Int32Array.of(0, 1, 2, 3) },
  ];
  const groupAt = (member: (typeof MEMBERS)[number], shape: readonly number[], at: number): number => {
    const inner = shape.slice(member.axis + 1).reduce((n, size) => n * size, 1);
    return member.groupOf[Math.floor(at / inner) % member.groupOf.length] as number;
  };

  it.each([1, 2, 3])(
    "of the group lasso is max(1 − aλ√n/‖W‖, 0) times each group, over all tied weights; seed %i",
    async (seed) => {
      const all = weights(seed);
      const amount = 0.9;
      const [squares, sizes] = [new Float64Array(4), new Float64Array(4)];
      for (const member of MEMBERS.slice(0, 3))
        for (const [at, w] of (all[member.weight] as Weights[string]).data.entries()) {
          const group = groupAt(member, (all[member.weight] as Weights[string]).shape, at);
          if (group < 0) continue;
          squares[group] = (squares[group] as number) + w * w;
          sizes[group] = (sizes[group] as number) + 1;
        }
      expect([...sizes]).toEqual([22, 22, 22, 22]); // 2·3·3 + 3 + 1
      // The group with the smallest norm is to vanish, the others are not.
      const least = [...squares].sort((a, b) => a - b);
      const chosen = amount * (Math.sqrt(((least[0] as number) + (least[1] as number)) / 2) / Math.sqrt(22) / amount);
      const factors = Array.from(squares, (square) => Math.max(0, 1 - (chosen * Math.sqrt(22)) / Math.sqrt(square)));
      expect(factors.filter((factor) => factor === 0)).toHaveLength(1);
      const groups = [{ count: 4, members: MEMBERS }];
      const found = await stepped(all, { kind: "groups", strength: 1, groups }, chosen);
      for (const member of MEMBERS.slice(0, 4)) {
        const { shape, data } = all[member.weight] as Weights[string];
        for (const [at, w] of (found[member.weight] as Float32Array).entries()) {
          const group = groupAt(member, shape, at);
          const factor =
            group < 0 ? 1 : member.follows ? Number((factors[group] as number) > 0) : (factors[group] as number);
          if (factor === 0) expect(w === 0).toBe(true);
          else expect(Math.abs(w - (data[at] as number) * factor)).toBeLessThan(1e-5); // float32 sums of 22 squares
        }
      }
    },
  );

  it("presses marked groups alone", async () => {
    const all = weights(4);
    const pressed = Float32Array.of(0, 1, 0, 1);
    const groups = [{ count: 4, members: MEMBERS.slice(0, 3), pressed }];
    const found = await stepped(all, { kind: "pressed", strength: 1, groups }, 3);
    for (const member of MEMBERS.slice(0, 3)) {
      const { shape, data } = all[member.weight] as Weights[string];
      for (const [at, w] of (found[member.weight] as Float32Array).entries()) {
        const factor = pressed[groupAt(member, shape, at)] === 1 ? 1 / 4 : 1;
        expect(Math.abs(w - (data[at] as number) * factor)).toBeLessThan(1e-6);
      }
    }
    expect(found["shift"]).toEqual(all["shift"]?.data);
  });
});

describe("training", () => {
  const [K, C] = [8, 3];
  const rng = new Rng(6);
  const targets = Float32Array.from({ length: K * C }, () => rng.normal());
  const identity = Float32Array.from({ length: K * K }, (_, i) => Number(i % (K + 1) === 0));
  // With one-hot samples the loss is Σ(w − y)²/KC.
  const data = datasetOf({
    fields: { x: { dtype: "float32", shape: [K, K], data: identity } },
    labels: { dtype: "float32", shape: [K, C], data: targets },
  });

  async function solved(shrinkage: Shrinkage, momentum: number): Promise<Float32Array> {
    const model = new Model(undefined, 17, 8);
    const b = new Builder(model.graph);
    const start = Tensor.float32([K, C], new Float32Array(K * C).fill(0.3));
    const y = b.op("MatMul", [b.input("x", "float32", ["n", K]), b.constant("w", start)]);
    [y.dtype, y.shape] = ["float32", ["n", C]];
    b.output(y, "y");
    // Steps of η/(1 − μ)·2/KC = 0.4 of the way
    const learningRate = 0.2 * K * C * (1 - momentum);
    const options = { epochs: 150, batch: K, schedule: "constant" as const, warmup: 0, learningRate, momentum };
    await train(model, data, { ...options, loss: "mse", shrinkage, inProcess: true });
    return (await model.graph.initializers.get("w")?.tensor?.data()) as Float32Array;
  }

  it.each([0, 0.8])(
    "with l1 ends at the soft thresholds of the targets, zeros exact; momentum %d",
    async (momentum) => {
      const strength = 0.06;
      const least = (strength * K * C) / 2; // from 2(w − y)/KC + λ·sign(w) = 0
      const w = await solved({ kind: "weights", strength, weights: new Set(["w"]) }, momentum);
      const expected = targets.map((y) => Math.sign(y) * Math.max(0, Math.abs(y) - least));
      expect(Array.from(w, (v) => v === 0)).toEqual(Array.from(expected, (v) => v === 0));
      expect(expected.filter((v) => v === 0).length).toBeGreaterThan(4);
      for (const [i, v] of w.entries()) expect(Math.abs(v - (expected[i] as number))).toBeLessThan(1e-4);
      const plain = await solved({ kind: "weights", strength, weights: new Set() }, momentum);
      expect(plain.filter((v) => v === 0)).toHaveLength(0); // the control: without the penalty nothing is zero
    },
  );

  it.each([0, 0.8])("with the group lasso ends at shrunken rows, whole rows zero; momentum %d", async (momentum) => {
    const strength = 0.06;
    const groups = [
      { count: K, members: [{ weight: "w", axis: 0, groupOf: Int32Array.from({ length: K }, (_, i) => i) }] },
    ];
    const w = await solved({ kind: "groups", strength, groups }, momentum);
    let zeroRows = 0;
    for (let row = 0; row < K; row++) {
      const y = targets.subarray(row * C, (row + 1) * C);
      const factor = Math.max(0, 1 - (strength * Math.sqrt(C) * K * C) / 2 / Math.hypot(...y));
      if (factor === 0) zeroRows++;
      for (let c = 0; c < C; c++) {
        if (factor === 0) expect(w[row * C + c] === 0).toBe(true);
        expect(Math.abs((w[row * C + c] as number) - factor * (y[c] as number))).toBeLessThan(1e-4);
      }
    }
    expect(zeroRows).toBeGreaterThan(0);
    expect(zeroRows).toBeLessThan(K);
  });

  it("raises the strength over the ramp", async () => {
    const strength = 0.06;
    const shrinkage = { kind: "weights" as const, strength, weights: new Set(["w"]) };
    const early = { ...shrinkage, ramp: 1 };
    // Over a ramp of all steps the last ones are as strong as without: the end is close, and not the same.
    const [whole, ramped] = [await solved(shrinkage, 0), await solved(early, 0)];
    for (const [i, v] of whole.entries()) expect(Math.abs(v - (ramped[i] as number))).toBeLessThan(0.02);
    expect(ramped).not.toEqual(whole);
  });
});
