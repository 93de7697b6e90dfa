/** Widths and strides of scaled networks: rounding of channels, and fewer strides for small images. */

/**
 * A number of channels near `channels` that is a multiple of `divisor` and at least 90 % of what was asked
 * (the rule of the MobileNets' published code).
 */
export function roundChannels(channels: number, divisor = 8): number {
  const rounded = Math.max(divisor, Math.floor((channels + divisor / 2) / divisor) * divisor);
  return rounded < 0.9 * channels ? rounded + divisor : rounded;
}

/** Smallest side of the last feature map where strides are left out for small images. */
const SMALLEST_MAP = 4;

/**
 * The strides of a network's stages for images of this size. Strides of 2 are left out from the front until the last
 * feature map is at least 4 pixels wide, as is customary on 32×32 images.
 */
export function stridesFor(strides: readonly number[], size: number): number[] {
  const result = [...strides];
  const total = (): number => result.reduce((product, stride) => product * stride, 1);
  for (const [i, stride] of result.entries()) if (stride > 1 && size / total() < SMALLEST_MAP) result[i] = 1;
  return result;
}
