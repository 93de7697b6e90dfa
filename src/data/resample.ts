/** Bilinear resampling and padding of small 8-bit images, for readers without an image library. */

export interface PixelSource {
  /** Height, width, channels interleaved, from `start`. */
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly height: number;
  readonly width: number;
  readonly channels: number;
}

/** Resizes to `size` (height, width) and writes it with `pad` zero pixels on every side into `out` (outHeight, outWidth, channels). */
export function placePixels(
  source: PixelSource,
  size: readonly [number, number],
  pad: number,
  out: Uint8Array,
  outHeight: number,
  outWidth: number,
): void {
  const { bytes, start, height, width, channels } = source;
  const [toHeight, toWidth] = size;
  if (pad > 0) out.fill(0, 0, outHeight * outWidth * channels);
  if (toHeight === height && toWidth === width) {
    const row = width * channels;
    for (let y = 0; y < height; y++)
      out.set(bytes.subarray(start + y * row, start + (y + 1) * row), ((y + pad) * outWidth + pad) * channels);
    return;
  }
  for (let y = 0; y < toHeight; y++) {
    // Pixel centres match: (y + 1/2) / toHeight = (sy + 1/2) / height.
    const sy = Math.min(height - 1, Math.max(0, ((y + 0.5) * height) / toHeight - 0.5));
    const y0 = Math.floor(sy);
    const y1 = Math.min(height - 1, y0 + 1);
    const fy = sy - y0;
    for (let x = 0; x < toWidth; x++) {
      const sx = Math.min(width - 1, Math.max(0, ((x + 0.5) * width) / toWidth - 0.5));
      const x0 = Math.floor(sx);
      const x1 = Math.min(width - 1, x0 + 1);
      const fx = sx - x0;
      const to = ((y + pad) * outWidth + x + pad) * channels;
      for (let c = 0; c < channels; c++) {
        const at = (row: number, column: number): number =>
          bytes[start + (row * width + column) * channels + c] as number;
        const top = at(y0, x0) * (1 - fx) + at(y0, x1) * fx;
        const bottom = at(y1, x0) * (1 - fx) + at(y1, x1) * fx;
        out[to + c] = Math.round(top * (1 - fy) + bottom * fy);
      }
    }
  }
}
