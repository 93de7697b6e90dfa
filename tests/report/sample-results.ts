/** A results document like those of a real sweep, made from a seed: 15 recipes on a small residual network, one of them failed. */
import { Rng } from "../../src/base/rng.ts";
import { frontOf } from "../../src/search/sweep.ts";
import type { Entry, LayerRecord, Objective, RecipeStep, Results, StepRecord } from "../../src/search/results.ts";

const LAYERS: readonly (readonly [string, string, number])[] = [
  ["conv1", "Conv", 432],
  ...[1, 2, 3].flatMap((stage) =>
    [0, 1, 2].flatMap((block) =>
      [1, 2].map((conv): [string, string, number] => {
        const width = 8 * 2 ** stage;
        const from = block === 0 && conv === 1 && stage > 1 ? width / 2 : width;
        return [`layer${stage}.${block}.conv${conv}`, "Conv", from * width * 9];
      }),
    ),
  ),
  ["linear", "Gemm", 650],
];
const PARAMETERS = LAYERS.reduce((sum, [, , count]) => sum + count, 0);

type Row = readonly [
  id: string,
  label: string,
  family: string,
  steps: readonly RecipeStep[],
  bits: number,
  kept: number,
  accuracy: number,
  ratio: number,
];
const step = (technique: string, options: Record<string, unknown> = {}): RecipeStep => ({ technique, options });

const ROWS: readonly Row[] = [
  ["simplify", "Simplified", "simplify", [step("simplify")], 32, 1, 0.9173, 0.93],
  ["fp16", "fp16", "quantize", [step("simplify"), step("cast", { to: "fp16" })], 16, 1, 0.9173, 1.31],
  ["int8-dynamic", "int8 dynamic", "quantize", [step("quantize-dynamic")], 8.2, 1, 0.9151, 1.08],
  [
    "int8-static",
    "int8 static",
    "quantize",
    [step("simplify"), step("quantize", { to: "int8" })],
    8.3,
    1,
    0.9162,
    0.47,
  ],
  ["w8", "int8 weights", "quantize", [step("quantize-weights", { bits: 8 })], 8.5, 1, 0.9173, 0.99],
  ["w4", "int4 weights, block 32", "quantize", [step("quantize-weights", { bits: 4, block: 32 })], 4.6, 1, 0.9042, 1.0],
  [
    "w2",
    "int2 weights, block 16",
    "quantize",
    [step("quantize-weights", { bits: 2, block: 16 })],
    3.1,
    1,
    0.3121,
    1.01,
  ],
  ["sparse-50", "50 % sparse", "prune", [step("prune-weights", { ratio: 0.5 })], 32, 0.55, 0.9021, 0.98],
  [
    "sparse-50-tuned",
    "50 % sparse, tuned",
    "prune",
    [step("prune-weights", { ratio: 0.5 }), step("finetune", { epochs: 2 })],
    32,
    0.55,
    0.9155,
    0.98,
  ],
  [
    "sparse-80-tuned",
    "80 % sparse, tuned",
    "prune",
    [step("prune-weights", { ratio: 0.8 }), step("finetune", { epochs: 3 })],
    32,
    0.25,
    0.9004,
    0.97,
  ],
  ["sparse-2-4", "2:4 sparse", "prune", [step("prune-weights", { pattern: "2:4" })], 32, 0.56, 0.8911, 0.99],
  [
    "sparse-int8",
    "80 % sparse + int8",
    "combined",
    [step("prune-weights", { ratio: 0.8 }), step("finetune", { epochs: 3 }), step("quantize", { to: "int8" })],
    8.3,
    0.3,
    0.8981,
    0.47,
  ],
  [
    "sparse-int4",
    "50 % sparse + int4",
    "combined",
    [step("prune-weights", { ratio: 0.5 }), step("finetune", { epochs: 2 }), step("quantize-weights", { bits: 4 })],
    4.6,
    0.72,
    0.8998,
    1.0,
  ],
];

function layersOf(random: Rng, bits: number, kept: number, accuracy: number): LayerRecord[] {
  let error = 0;
  return LAYERS.map(([name, op, count], index) => {
    const local =
      bits === 32 && kept === 1 ? 0 : (0.92 - accuracy + 0.004) * random.uniform(0.1, 0.6) * (index === 0 ? 2 : 1);
    error = Math.hypot(error * 0.86, local);
    const before = count * 4;
    return { name, op, bytes: Math.round((before * bits) / 32), bytesBefore: before, error, localError: local };
  });
}

function stepsOf(recipe: readonly RecipeStep[], bits: number): StepRecord[] {
  return recipe.map((item) => ({
    ...item,
    seconds: item.technique === "finetune" ? 21.4 : 0.4,
    changed: LAYERS.slice(1).map(([what, , count]) => ({
      what,
      how: item.technique.startsWith("prune")
        ? "float32, half of it zero"
        : `float32 -> ${Math.floor(bits)} bits, per channel`,
      error: 0.0123,
      bytesBefore: count * 4,
      bytesAfter: Math.round((count * bits) / 8),
    })),
    skipped: item.technique === "simplify" ? [] : [{ what: "conv1", why: "432 weights: too small to gain anything" }],
  }));
}

/** The document; `extra` entries go to the end. */
export function sampleResults(extra: readonly Entry[] = []): Results {
  const random = new Rng(7);
  const file = PARAMETERS * 4 + 21_000;
  const interval = (value: number): { value: number; low: number; high: number } => {
    const half = 1.96 * Math.sqrt((value * (1 - value)) / 846);
    return { value, low: value - half, high: Math.min(1, value + half) };
  };
  const measure = (bits: number, kept: number, accuracy: number, ratio: number) => ({
    metrics: {
      accuracy: { ...interval(accuracy), samples: 846 },
      loss: { value: 0.9 - accuracy * 0.6, low: 0.3, high: 0.4, samples: 846 },
    },
    bytes: {
      file: Math.round((PARAMETERS * bits) / 8 + 21_000),
      gzip: Math.round(((PARAMETERS * bits) / 8) * kept * 0.93 + 7_000),
      brotli: Math.round(((PARAMETERS * bits) / 8) * kept * 0.915 + 5_200),
      brotliQuality: 11,
    },
    parameters: PARAMETERS,
    nonzero: Math.round(PARAMETERS * (kept === 1 ? 1 : kept - 0.05)),
    macs: 40_551_040,
    bops: 40_551_040 * bits * (bits < 9 && ratio < 0.9 ? 8 : 32),
    latency: {
      p50: 0.00231 * ratio,
      p90: 0.00248 * ratio,
      p99: 0.0031 * ratio,
      mean: 0.00236 * ratio,
      ratio: { value: ratio, low: ratio * 0.985, high: ratio * 1.016 },
    },
    throughput: 433 / ratio,
    peakMemoryBytes: Math.round(61e6 + PARAMETERS * bits * 0.3),
    energy: { joules: 0.00019 * ratio * (bits < 9 ? 0.7 : 1), estimated: true, source: "Horowitz 2014, 45 nm" },
  });
  const baseline: Entry = {
    id: "baseline",
    label: "Original",
    family: "baseline",
    recipe: [],
    ...measure(32, 1, 0.9173, 1),
    latency: { p50: 0.00231, p90: 0.00248, p99: 0.0031, mean: 0.00236, ratio: { value: 1, low: 1, high: 1 } },
    steps: [],
    layers: LAYERS.map(([name, op, count]) => ({ name, op, bytes: count * 4, bytesBefore: count * 4 })),
    output: "models/baseline.onnx",
    seconds: 3.2,
  };
  const entries: Entry[] = ROWS.map(([id, label, family, recipe, bits, kept, accuracy, ratio]) => ({
    id,
    label,
    family,
    recipe,
    command: `npx pare compress resnet20.onnx ${recipe
      .map(
        ({ technique, options }) =>
          `--step '${technique}${Object.entries(options)
            .map(([key, value], index) => `${index === 0 ? ":" : ","}${key}=${String(value)}`)
            .join("")}'`,
      )
      .join(" ")} --data cifar10:data -o ${id}.onnx`,
    ...measure(bits, kept, accuracy, ratio),
    fidelity: {
      sqnrDb: 44 - (32 - bits) * 0.8,
      cosine: 0.9993,
      agreement: Math.max(0.3, 1 - (0.93 - accuracy)),
      kl: 0.004,
      samples: 846,
    },
    steps: stepsOf(recipe, bits),
    layers: layersOf(random, bits, kept, accuracy),
    verified: { session: true, provider: "cpu", maxAbsError: 0.21, sqnrDb: 31.2, cosine: 0.9991, samples: 32 },
    output: `models/${id}.onnx`,
    seconds: 6.1,
  }));
  entries.push({
    id: "w1",
    label: "int1 weights",
    family: "quantize",
    recipe: [step("quantize-weights", { bits: 1 })],
    error: { code: "bad-option", message: "quantize-weights option 'bits': found 1; expected 2, 4 or 8" },
    metrics: {},
    steps: [],
    layers: [],
    seconds: 0.01,
  });
  const objectives: Objective[] = [
    { name: "accuracy", direction: "maximize" },
    { name: "brotli", direction: "minimize" },
    { name: "latency-ratio", direction: "minimize" },
  ];
  const all = [baseline, ...entries, ...extra];
  return {
    format: "pare-results",
    version: 1,
    title: "resnet20-cifar10",
    created: "2026-01-15T09:30:00.000Z",
    machine: {
      cpu: "AMD EPYC 7763 64-Core Processor",
      cores: 2,
      memoryBytes: 16 * 2 ** 30,
      platform: "linux x64",
      versions: { pare: "0.1.0", node: "20.20.2", "onnxruntime-node": "1.30.0" },
    },
    model: { name: "resnet20-cifar10.onnx", bytes: file, sha256: "9f2c".repeat(16) },
    data: { calibration: "cifar10:data?split=train", evaluation: "cifar10:data?split=test" },
    seed: 1,
    command: "npx pare demo -o pare-demo",
    measured: { provider: "cpu", threads: 2, batch: 1, rounds: 50 },
    objectives,
    entries: all,
    ...frontOf(all, objectives),
  };
}
