/**
 * Gradient cases of quantizers. Rounding has no derivative: the functions differentiated are those in which what rounding added
 * stays as it was at the first point, y = s·(clip(x/s) + δ) with δ = round(v) − v, whose exact gradient is the straight-through one.
 */
import { Rng } from "../../../src/base/rng.ts";
import type { Builder } from "../../../src/ir/builder.ts";
import type { Value } from "../../../src/ir/graph.ts";
import { Tensor } from "../../../src/ir/tensor.ts";
import type { GradientCase } from "../gradient-check.ts";

interface Quantizing {
  readonly shape: readonly number[];
  readonly scaleShape: readonly number[];
  readonly axis?: number;
  readonly block?: number;
  readonly zero?: number;
  readonly signed?: boolean;
  /** Something between quantizer and dequantizer. */
  readonly between?: (b: Builder, q: Value) => Value;
}

/** Half to even. */
function round(v: number): number {
  const low = Math.floor(v);
  if (v - low !== 0.5) return Math.round(v);
  return low % 2 === 0 ? low : low + 1;
}

/** Which scale element i of the data has. */
function scaleIndex({ shape, scaleShape, axis = 0, block = 0 }: Quantizing, i: number): number {
  if (scaleShape.length === 0) return 0;
  const inner = shape.slice(axis + 1).reduce((n, size) => n * size, 1);
  const at = Math.floor(i / inner) % (shape[axis] ?? 1);
  if (block === 0) return at;
  const outer = Math.floor(i / (inner * (shape[axis] ?? 1)));
  return (outer * (scaleShape[axis] ?? 1) + Math.floor(at / block)) * inner + (i % inner);
}

function pair(name: string, how: Quantizing): GradientCase {
  const { shape, scaleShape, axis, block, zero = 0, signed = true, between } = how;
  const [low, high] = signed ? [-128, 127] : [0, 255];
  const rng = new Rng(7).fork(name);
  const draw = (sizes: readonly number[], from: number, to: number): number[] =>
    Array.from({ length: sizes.reduce((n, size) => n * size, 1) }, () => Math.fround(rng.uniform(from, to)));
  const [x0, s0] = [draw(shape, -1, 1), draw(scaleShape, 0.003, 0.012)];
  const clip = (v: number): number => Math.min(Math.max(v, low - zero), high - zero);
  const rounding = x0.map((value, i) => {
    const v = clip(value / (s0[scaleIndex(how, i)] ?? 1));
    return round(v) - v;
  });
  return {
    name: `QuantizeLinear ${name}`,
    inputs: [
      { shape, values: x0 },
      { shape: scaleShape, values: s0 },
    ],
    build: (b, [x, s]) => {
      const count = scaleShape.reduce((n, size) => n * size, 1);
      const data = Array.from({ length: count }, () => zero);
      const z = signed
        ? Tensor.of("int8", scaleShape, Int8Array.from(data))
        : Tensor.of("uint8", scaleShape, Uint8Array.from(data));
      const point = b.constant("zero", z);
      const attributes = { axis, block_size: block };
      const q = b.op("QuantizeLinear", [x, s, point], { attributes });
      return b.op("DequantizeLinear", [between ? between(b, q) : q, s, point], { attributes });
    },
    reference([x, s]) {
      const [values, scales] = [x as Float64Array, s as Float64Array];
      return values.map((value, i) => {
        const scale = scales[scaleIndex(how, i)] ?? 1;
        return scale * (clip(value / scale) + (rounding[i] ?? 0));
      });
    },
  };
}

/** Rows of 4-bit weights, packed as the engine wants them. */
const packed = (): { readonly weights: Tensor; readonly scales: Tensor } => ({
  weights: Tensor.of(
    "uint8",
    [3, 1, 8],
    Uint8Array.from({ length: 24 }, (_, i) => (i * 37) % 256),
  ),
  scales: Tensor.float32([3, 1], [0.1, 0.2, 0.05]),
});

export const QUANTIZATION_CASES: readonly GradientCase[] = [
  pair("and DequantizeLinear, one scale", { shape: [4, 5], scaleShape: [] }),
  pair("unsigned with a zero point", { shape: [4, 5], scaleShape: [], zero: 100, signed: false }),
  pair("per channel", { shape: [2, 3, 4], scaleShape: [3], axis: 1 }),
  pair("per block", { shape: [2, 6], scaleShape: [2, 2], axis: 1, block: 3 }),
  pair("per block, the last one short", { shape: [5, 2], scaleShape: [2, 2], axis: 0, block: 3 }),
  pair("with integers reshaped in between", {
    shape: [2, 6],
    scaleShape: [],
    between: (b, q) =>
      b.op("Reshape", [
        b.op("Reshape", [q, b.constant("a", Tensor.int64([3, 4]))]),
        b.constant("b", Tensor.int64([2, 6])),
      ]),
  }),
  {
    name: "DequantizeLinear of stored integers",
    inputs: [{ shape: [3], low: 0.1, high: 1 }],
    build: (b, [s]) => {
      const q = Tensor.of("int8", [2, 3], Int8Array.of(1, -2, 3, 40, -50, 60));
      return b.op("DequantizeLinear", [b.constant("q", q), s], { attributes: { axis: 1 } });
    },
    linear: true,
  },
  {
    name: "DynamicQuantizeLinear and DequantizeLinear",
    inputs: [{ shape: [6] }],
    build: (b, [x]) => b.op("DequantizeLinear", b.ops("DynamicQuantizeLinear", [x], { outputs: 3 })),
    scalar: (x) => x,
  },
  {
    name: "MatMulNBits",
    inputs: [{ shape: [2, 16] }],
    build: (b, [x]) => {
      const { weights, scales } = packed();
      const attributes = { K: 16, N: 3, bits: 4, block_size: 16 };
      return b.op("MatMulNBits", [x, b.constant("w", weights), b.constant("s", scales)], {
        attributes,
        domain: "com.microsoft",
      });
    },
    linear: true,
  },
];
