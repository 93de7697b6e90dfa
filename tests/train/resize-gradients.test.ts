/** The gradient of Resize over random sizes, scales and modes is the transpose of what the engine computes. */
import { describe, expect, test } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { float } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { NdArray } from "../../src/run/session.ts";
import { grad, gradientName } from "../../src/train/grad.ts";

/** Sums of some hundred float32 terms; another source element than the engine's is off by a tenth. */
const TOLERANCE = 1e-5;
const CASES = Number(process.env["CASES"] ?? 70);

const COORDINATES = [
  "half_pixel",
  "half_pixel_symmetric",
  "pytorch_half_pixel",
  "align_corners",
  "asymmetric",
  "tf_crop_and_resize",
];
const ROUNDING = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];

interface Drawn {
  readonly shape: readonly number[];
  readonly scales?: readonly number[];
  readonly sizes?: readonly number[];
  readonly roi?: readonly number[] | undefined;
  readonly attributes: Readonly<Record<string, string | number | ReturnType<typeof float>>>;
}

const pick = <T>(rng: Rng, items: readonly T[]): T => items[rng.below(items.length)] as T;

/** Scales of one decimal, thirds and any other: the first two meet ties and rounding in the last bit. */
function scaleOf(rng: Rng): number {
  const scale = pick(rng, [
    (2 + rng.below(30)) / 10,
    (1 + rng.below(8)) / 3,
    (1 + rng.below(15)) / 7,
    rng.uniform(0.3, 3),
  ]);
  return Math.fround(scale);
}

function draw(rng: Rng, mode: string): Drawn {
  const spatial = mode === "nearest" ? 1 + rng.below(3) : 2;
  const shape = mode === "nearest" && rng.below(4) === 0 ? [] : [1, 2];
  const lead = shape.length;
  for (let i = 0; i < spatial; i++) shape.push(4 + rng.below(spatial === 1 ? 40 : 9));
  const coordinates = pick(rng, mode === "nearest" ? [...COORDINATES, "tf_half_pixel_for_nn"] : COORDINATES);
  const attributes: Record<string, string | number | ReturnType<typeof float>> = {
    mode,
    coordinate_transformation_mode: coordinates,
  };
  if (mode === "nearest") attributes["nearest_mode"] = pick(rng, ROUNDING);
  if (mode === "cubic") {
    attributes["cubic_coeff_a"] = float(pick(rng, [-0.75, -0.5]));
    if (coordinates !== "tf_crop_and_resize") attributes["exclude_outside"] = rng.below(2);
  }
  const bound = (low: number, high: number): number => Math.fround(rng.uniform(low, high));
  const roi =
    coordinates === "tf_crop_and_resize"
      ? [
          ...shape.map((_, i) => (i < lead ? 0 : bound(-0.2, 0.4))),
          ...shape.map((_, i) => (i < lead ? 1 : bound(0.6, 1.2))),
        ]
      : undefined;
  // The engine infers sizes in double precision and computes them in single: where they differ it refuses its own model.
  const agrees = (size: number, scale: number): boolean =>
    Math.floor(size * scale) === Math.floor(Math.fround(size * scale)) && size * scale >= 1;
  const scales = shape.map((size, i) => {
    if (i < lead) return 1;
    for (;;) {
      const scale = scaleOf(rng);
      if (agrees(size, scale)) return scale;
    }
  });
  if (!roi && rng.below(2) === 0) return { shape, scales, attributes };
  return { shape, sizes: shape.map((size, i) => Math.max(1, Math.floor(size * (scales[i] ?? 1)))), roi, attributes };
}

/** |w·R(x) − (Rᵀw)·x| / (|w|·|R(x)|) of random w and x: zero for the true transpose only. */
async function asymmetry(drawn: Drawn, rng: Rng, corrupt = 0): Promise<number> {
  const { shape, scales, sizes, roi, attributes } = drawn;
  const model = new Model(undefined, 18);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", shape);
  const floats = (values: readonly number[]) => b.constant("floats", Tensor.float32([values.length], values));
  const inputs = [x, roi && floats(roi), scales && floats(scales), sizes && b.constant("sizes", Tensor.int64(sizes))];
  const y = b.op("Resize", inputs, { attributes });
  const result = sizes ?? shape.map((size, i) => Math.floor(Math.fround(size * (scales?.[i] ?? 1))));
  const random = (dims: readonly number[]): NdArray => ({
    dtype: "float32",
    shape: dims,
    data: Float32Array.from({ length: dims.reduce((n, size) => n * size, 1) }, () => rng.uniform(-1, 1)),
  });
  const w = random(result);
  b.output(b.op("Mul", [y, b.constant("w", Tensor.float32(w.shape, w.data as Float32Array))]), "weighted");
  const gradient = grad(model, { of: "weighted", wrt: ["x"] });
  const session = await openSession(gradient, { inProcess: true, threads: 1 });
  try {
    const fed = random(shape);
    const outputs = await session.run({ x: fed });
    const terms = Array.from(outputs["weighted"]?.data as Float32Array);
    const back = outputs[gradientName("x")]?.data as Float32Array;
    const forward = terms.reduce((sum, term) => sum + term, 0);
    const backward = back.reduce((sum, g, i) => sum + (1 + corrupt) * g * ((fed.data as Float32Array)[i] ?? 0), 0);
    return Math.abs(forward - backward) / Math.max(1e-3, Math.hypot(...terms));
  } finally {
    await session.close();
  }
}

describe("the gradient of Resize is the engine's own map transposed", () => {
  for (const mode of ["nearest", "linear", "cubic"])
    test(mode, async () => {
      const rng = new Rng(7).fork(mode);
      for (let i = 0; i < CASES; i++) {
        const drawn = draw(rng, mode);
        expect(await asymmetry(drawn, rng), JSON.stringify(drawn)).toBeLessThan(TOLERANCE);
      }
    });

  test("a gradient off by a thousandth is seen", async () => {
    const rng = new Rng(8);
    expect(await asymmetry(draw(rng, "nearest"), rng, 1e-3)).toBeGreaterThan(5 * TOLERANCE);
  });
});
