/** Random changes of training samples: mirroring, shifted crops, erased squares, noise. Seeded by run, epoch and sample. */
import { PareError } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import { elementCount, formatShape } from "../base/shape.ts";
import type { NdArray } from "../run/session.ts";
import type { Batch } from "./dataset.ts";

export interface Augmentation {
  /** Mirror left and right with probability ½. */
  readonly flip?: boolean | undefined;
  /** Pad by so many pixels on all sides and cut the old size back out at a random place. */
  readonly crop?: number | undefined;
  /** Side in pixels of a square at a random place (partly outside, perhaps) that is erased (DeVries and Taylor 2017). */
  readonly cutout?: number | undefined;
  /** Deviation of normal noise added to every value, in the units of the field. */
  readonly noise?: number | undefined;
  /** Value of padding and of erased squares: what 0 is after preprocessing, such as −mean/std; default 0. One number or one per channel. */
  readonly fill?: number | readonly number[] | undefined;
  /** Default "nchw". */
  readonly layout?: "nchw" | "nhwc" | undefined;
}

/** What the draws depend on, and nothing else: an interrupted run that resumes draws the same. */
export interface Draws {
  readonly seed: number;
  readonly epoch: number;
  /** Index in the data set of each sample of the batch. */
  readonly indices: ArrayLike<number>;
}

/** True if anything is changed at all. */
export function augments(how: Augmentation): boolean {
  return how.flip === true || (how.crop ?? 0) > 0 || (how.cutout ?? 0) > 0 || (how.noise ?? 0) > 0;
}

/** The batch with one field (default: the first) changed; labels and other fields are shared, the given batch stays as it is. */
export function augment(batch: Batch, how: Augmentation, draws: Draws, field?: string): Batch {
  const name = field ?? Object.keys(batch.fields)[0] ?? "";
  const array = batch.fields[name];
  const moves = how.flip === true || (how.crop ?? 0) > 0 || (how.cutout ?? 0) > 0;
  if (array?.dtype !== "float32" || (moves && array.shape.length !== 4))
    throw new PareError("bad-data", `Field '${name}' cannot be augmented`, {
      found: array ? `${array.dtype} ${formatShape(array.shape)}` : "no such field",
      expected: moves ? "float32 images of rank 4" : "float32 values",
      help: "Open images with layout=nchw or layout=nhwc; of other data, noise alone can be added",
    });
  const changed = { ...array, data: moves ? moved(array, how, draws) : (array.data as Float32Array).slice() };
  if ((how.noise ?? 0) > 0) addNoise(changed.data, how.noise ?? 0, draws, elementCount(array.shape.slice(1)));
  return { ...batch, fields: { ...batch.fields, [name]: changed } };
}

/** The stream of a sample in an epoch. */
function streamOf({ seed, epoch, indices }: Draws, purpose: string): (k: number) => Rng {
  const root = new Rng(seed).fork(purpose).fork(epoch);
  return (k) => root.fork(indices[k] ?? 0);
}

function moved(array: NdArray, how: Augmentation, draws: Draws): Float32Array {
  const nhwc = how.layout === "nhwc";
  const [count = 0, a = 0, b = 0, c = 0] = array.shape;
  const [channels, height, width] = nhwc ? [c, a, b] : [a, b, c];
  // Strides of a value (channel, y, x) within one image.
  const [sc, sy, sx] = nhwc ? [1, width * channels, channels] : [height * width, width, 1];
  const from = array.data as Float32Array;
  const to = new Float32Array(from.length);
  const { crop = 0, cutout = 0 } = how;
  const fills = typeof how.fill === "object" ? how.fill : undefined;
  const fill = typeof how.fill === "number" ? how.fill : 0;
  const stream = streamOf(draws, "augment");
  for (let k = 0; k < count; k++) {
    const rng = stream(k);
    const flipped = how.flip === true && rng.below(2) === 1;
    const dy = crop > 0 ? rng.below(2 * crop + 1) - crop : 0;
    const dx = crop > 0 ? rng.below(2 * crop + 1) - crop : 0;
    const top = cutout > 0 ? rng.below(height) - Math.floor(cutout / 2) : 0;
    const left = cutout > 0 ? rng.below(width) - Math.floor(cutout / 2) : 0;
    const start = k * channels * height * width;
    for (let channel = 0; channel < channels; channel++) {
      const outside = fills?.[channel] ?? fill;
      for (let y = 0; y < height; y++) {
        const fromY = y + dy;
        const erasedRow = y >= top && y < top + cutout;
        for (let x = 0; x < width; x++) {
          const shifted = x + dx;
          const inside = fromY >= 0 && fromY < height && shifted >= 0 && shifted < width;
          const erased = erasedRow && x >= left && x < left + cutout;
          const fromX = flipped ? width - 1 - shifted : shifted;
          to[start + channel * sc + y * sy + x * sx] =
            inside && !erased ? (from[start + channel * sc + fromY * sy + fromX * sx] as number) : outside;
        }
      }
    }
  }
  return to;
}

function addNoise(data: Float32Array, deviation: number, draws: Draws, width: number): void {
  const stream = streamOf(draws, "noise");
  for (let k = 0; k * width < data.length; k++) {
    const rng = stream(k);
    for (let i = k * width; i < (k + 1) * width; i++) data[i] = (data[i] as number) + rng.normal(0, deviation);
  }
}
