/** Mixed samples: every sample is blended with another of its batch, and so are their labels (mixup, cutmix). */
import { PareError } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import { elementCount, formatShape } from "../base/shape.ts";
import { asNumbers } from "../run/arrays.ts";
import type { NdArray } from "../run/session.ts";
import type { Batch } from "./dataset.ts";

export interface Mixing {
  /** α of mixup: x = λ·x_i + (1 − λ)·x_j, λ from Beta(α, α) (Zhang et al. 2018); 0: none. */
  readonly mixup?: number | undefined;
  /** α of cutmix: a rectangle of x_j replaces that of x_i, 1 − λ of the area (Yun et al. 2019); 0: none. With both, either has probability ½. */
  readonly cutmix?: number | undefined;
  /** Default "nchw". */
  readonly layout?: "nchw" | "nhwc" | undefined;
}

/** True if samples are mixed at all. */
export function mixes(how: Mixing): boolean {
  return (how.mixup ?? 0) > 0 || (how.cutmix ?? 0) > 0;
}

/**
 * The batch with every float field mixed (cutmix: the fields of rank 4), and its labels: distributions over `classes` where
 * they were class indices, blended values otherwise. The draws depend on the seed, the epoch and the step alone.
 */
export function mixSamples(
  batch: Batch,
  how: Mixing,
  draws: { readonly seed: number; readonly epoch: number; readonly step: number },
  classes: number | undefined,
): Batch {
  if (!batch.labels) throw new PareError("bad-data", "Samples without labels cannot be mixed");
  const rng = new Rng(draws.seed).fork("mix").fork(draws.epoch).fork(draws.step);
  const order = rng.shuffle(Uint32Array.from({ length: batch.size }, (_, k) => k));
  const cuts = (how.cutmix ?? 0) > 0 && ((how.mixup ?? 0) === 0 || rng.below(2) === 1);
  const shares = Float64Array.from({ length: batch.size }, () => beta(rng, (cuts ? how.cutmix : how.mixup) ?? 1));
  const boxes = cuts ? Float64Array.from({ length: 2 * batch.size }, () => rng.uniform()) : undefined;
  const fields: Record<string, NdArray> = { ...batch.fields };
  let cut = false;
  for (const [name, array] of Object.entries(batch.fields)) {
    if (array.dtype !== "float32") continue;
    if (!boxes) fields[name] = blended(array, order, shares);
    else if (array.shape.length === 4 && !cut) {
      fields[name] = pasted(array, how.layout ?? "nchw", order, shares, boxes);
      cut = true;
    }
  }
  if (boxes && !cut)
    throw new PareError("bad-data", "cutmix needs float32 images of rank 4", {
      found: Object.entries(batch.fields)
        .map(([name, { dtype, shape }]) => `${name} ${dtype} ${formatShape(shape)}`)
        .join(", "),
    });
  return { ...batch, fields, labels: blended(distributions(batch.labels, classes), order, shares) };
}

/** λ from Beta(α, α) as G₁/(G₁ + G₂) of two Gamma(α) draws. */
function beta(rng: Rng, alpha: number): number {
  const [a, b] = [gamma(rng, alpha), gamma(rng, alpha)];
  return a + b > 0 ? a / (a + b) : 0.5;
}

/** Gamma(α, 1) by Marsaglia and Tsang 2000; α below 1 through Gamma(α + 1)·u^(1/α). */
function gamma(rng: Rng, alpha: number): number {
  if (alpha < 1) return gamma(rng, alpha + 1) * (1 - rng.uniform()) ** (1 / alpha);
  const d = alpha - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = rng.normal();
    const v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(1 - rng.uniform()) < 0.5 * x * x + d * (1 - v + Math.log(v))) return d * v;
  }
}

/** Class indices as one-hot rows; anything else as float32 values. */
export function distributions(labels: NdArray, classes: number | undefined): NdArray {
  const values = asNumbers(labels);
  if (classes === undefined || labels.dtype === "float32")
    return { dtype: "float32", shape: labels.shape, data: Float32Array.from(values) };
  const data = new Float32Array(values.length * classes);
  for (let row = 0; row < values.length; row++) {
    const label = values[row] ?? -1;
    if (!(label >= 0 && label < classes))
      throw new PareError("bad-data", "A label is out of range", {
        found: `label ${label}`,
        expected: `0 to ${classes - 1}`,
      });
    data[row * classes + label] = 1;
  }
  return { dtype: "float32", shape: [...labels.shape, classes], data };
}

// λ·x_i + (1 − λ)·x_j
function blended(array: NdArray, order: Uint32Array, shares: Float64Array): NdArray {
  const from = array.data as Float32Array;
  const width = elementCount(array.shape.slice(1));
  const data = new Float32Array(from.length);
  for (const [k, other] of order.entries()) {
    const share = shares[k] ?? 1;
    for (let i = 0; i < width; i++)
      data[k * width + i] = share * (from[k * width + i] as number) + (1 - share) * (from[other * width + i] as number);
  }
  return { ...array, data };
}

/** Rectangles of sides √(1 − λ) of the image around a random centre, cut at the border; `shares` become what really stays. */
function pasted(
  array: NdArray,
  layout: "nchw" | "nhwc",
  order: Uint32Array,
  shares: Float64Array,
  boxes: Float64Array,
): NdArray {
  const [, a = 0, b = 0, c = 0] = array.shape;
  const [channels, height, width] = layout === "nhwc" ? [c, a, b] : [a, b, c];
  const [sc, sy, sx] = layout === "nhwc" ? [1, width * channels, channels] : [height * width, width, 1];
  const from = array.data as Float32Array;
  const data = from.slice();
  const size = channels * height * width;
  const span = (centre: number, side: number, whole: number): [number, number] => {
    const first = Math.floor(centre * whole - side / 2);
    return [Math.max(0, first), Math.min(whole, first + side)];
  };
  for (const [k, other] of order.entries()) {
    const side = Math.sqrt(1 - (shares[k] ?? 1));
    const [top, bottom] = span(boxes[2 * k] ?? 0, Math.round(side * height), height);
    const [left, right] = span(boxes[2 * k + 1] ?? 0, Math.round(side * width), width);
    for (let channel = 0; channel < channels; channel++)
      for (let y = top; y < bottom; y++)
        for (let x = left; x < right; x++) {
          const at = channel * sc + y * sy + x * sx;
          data[k * size + at] = from[other * size + at] as number;
        }
    shares[k] = 1 - ((bottom - top) * (right - left)) / (height * width);
  }
  return { ...array, data };
}
