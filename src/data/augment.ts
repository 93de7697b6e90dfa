/** Random changes of training images: flips, shifts (a random crop of the padded image), noise. Seeded, sample by sample. */
import { PareError } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import { formatShape } from "../base/shape.ts";
import type { NdArray } from "../run/session.ts";
import type { Batch } from "./dataset.ts";

export interface Augmentation {
  /** Mirror left and right with probability 1/2. */
  readonly flip?: boolean;
  /** Shift by up to so many pixels in both directions; what comes in from outside has the value `fill`. */
  readonly shift?: number;
  /** Deviation of normal noise added to every value, in the units of the field. */
  readonly noise?: number;
  /** Value outside the image: what 0 is after preprocessing, such as −mean/std; default 0. One number or one per channel. */
  readonly fill?: number | readonly number[];
  /** Default "nchw". */
  readonly layout?: "nchw" | "nhwc";
}

/**
 * The batch with one field changed; labels and other fields are shared, the given batch stays as it is. The draws for
 * sample k of a batch depend on `seed` and k alone: pass another seed for every step (`seed + step`), so that an
 * interrupted run that resumes at a step draws the same.
 */
export function augment(batch: Batch, how: Augmentation, seed: number, field?: string): Batch {
  const name = field ?? Object.keys(batch.fields)[0] ?? "";
  const array = batch.fields[name];
  if (array?.dtype !== "float32" || array.shape.length !== 4)
    throw new PareError("bad-data", `Field '${name}' cannot be augmented`, {
      found: array ? `${array.dtype} ${formatShape(array.shape)}` : "no such field",
      expected: "float32 images of rank 4",
      help: "Open the data with layout=nchw or layout=nhwc",
    });
  return { ...batch, fields: { ...batch.fields, [name]: augmentArray(array, how, seed) } };
}

function augmentArray(array: NdArray, how: Augmentation, seed: number): NdArray {
  const nhwc = how.layout === "nhwc";
  const [count = 0, a = 0, b = 0, c = 0] = array.shape;
  const [channels, height, width] = nhwc ? [c, a, b] : [a, b, c];
  // Strides of a value (channel, y, x) within one image.
  const [sc, sy, sx] = nhwc ? [1, width * channels, channels] : [height * width, width, 1];
  const from = array.data as Float32Array;
  const to = new Float32Array(from.length);
  const shift = how.shift ?? 0;
  const noise = how.noise ?? 0;
  const fills = typeof how.fill === "object" ? how.fill : undefined;
  const fill = typeof how.fill === "number" ? how.fill : 0;
  const root = new Rng(seed).fork("augment");
  for (let k = 0; k < count; k++) {
    const rng = root.fork(k);
    const flipped = how.flip === true && rng.below(2) === 1;
    const dy = shift > 0 ? rng.below(2 * shift + 1) - shift : 0;
    const dx = shift > 0 ? rng.below(2 * shift + 1) - shift : 0;
    const start = k * channels * height * width;
    for (let channel = 0; channel < channels; channel++) {
      const outside = fills?.[channel] ?? fill;
      for (let y = 0; y < height; y++) {
        const fromY = y + dy;
        for (let x = 0; x < width; x++) {
          const shifted = x + dx;
          const inside = fromY >= 0 && fromY < height && shifted >= 0 && shifted < width;
          const fromX = flipped ? width - 1 - shifted : shifted;
          const value = inside ? (from[start + channel * sc + fromY * sy + fromX * sx] as number) : outside;
          to[start + channel * sc + y * sy + x * sx] = noise > 0 ? value + rng.normal(0, noise) : value;
        }
      }
    }
  }
  return { ...array, data: to };
}
