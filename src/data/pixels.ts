/** Pixels to network inputs: y = (x / scale − mean_c) / std_c, in the layout that the name asks for. */
import type { NameOptions } from "./options.ts";

/** Options of every reader of images. Without them values stay as they lie in the file, 0..255. */
export const PIXEL_OPTIONS: Readonly<Record<string, string>> = {
  scale: "pixels are divided by this, such as 255 (default 1: values stay 0..255)",
  mean: "subtracted after scale, one number or one per channel (default 0)",
  std: "divides after mean, one number or one per channel (default 1)",
  layout: "nchw (default), nhwc or flat (one row of values in nchw order)",
};

export type Layout = "nchw" | "nhwc" | "flat";

/** How to turn 8-bit pixels into float32 values. */
export interface PixelTransform {
  readonly layout: Layout;
  /** y = table[256 c + x] */
  readonly table: Float32Array;
}

export function pixelTransform(options: NameOptions, channels: number): PixelTransform {
  const scale = options.nonzero("scale") ?? 1;
  const mean = perChannel(options, "mean", channels, 0);
  const std = perChannel(options, "std", channels, 1);
  if (std.includes(0))
    options.fail("std", options.text("std") ?? "", "numbers other than 0: values are divided by them");
  const table = new Float32Array(channels * 256);
  for (let c = 0; c < channels; c++)
    for (let x = 0; x < 256; x++) table[256 * c + x] = (x / scale - (mean[c] ?? 0)) / (std[c] ?? 1);
  return { layout: options.choice("layout", ["nchw", "nhwc", "flat"]) ?? "nchw", table };
}

function perChannel(options: NameOptions, option: string, channels: number, fallback: number): number[] {
  const values = options.numbers(option) ?? [fallback];
  if (values.length !== 1 && values.length !== channels)
    options.fail(option, `${values.length} numbers`, channels === 1 ? "one number" : `one number or ${channels}`);
  return Array.from({ length: channels }, (_, c) => values[values.length === 1 ? 0 : c] ?? fallback);
}

/** Shape of one sample. */
export function pixelShape(layout: Layout, channels: number, height: number, width: number): number[] {
  if (layout === "nchw") return [channels, height, width];
  return layout === "nhwc" ? [height, width, channels] : [channels * height * width];
}

/**
 * Writes one image to `out` at `offset`. `order` says how the bytes lie: `chw` planes or `hwc` interleaved;
 * `start` is the first byte of the image.
 */
export function writePixels(
  bytes: Uint8Array,
  start: number,
  order: "chw" | "hwc",
  channels: number,
  area: number,
  transform: PixelTransform,
  out: Float32Array,
  offset: number,
): void {
  const { table, layout } = transform;
  const sourceStep = order === "hwc" ? channels : 1;
  const targetStep = layout === "nhwc" ? channels : 1;
  for (let c = 0; c < channels; c++) {
    let from = start + (order === "hwc" ? c : c * area);
    let to = offset + (layout === "nhwc" ? c : c * area);
    const row = 256 * c;
    for (let i = 0; i < area; i++, from += sourceStep, to += targetStep)
      out[to] = table[row + (bytes[from] as number)] as number;
  }
}
