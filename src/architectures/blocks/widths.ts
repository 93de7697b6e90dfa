/** Sizes of scaled networks: rounded channels, repeated blocks, and fewer strides for small images. */

/**
 * A number of channels near `channels` that is a multiple of `divisor` and at least 90 % of what was asked
 * (the rule of the MobileNets' published code).
 */
export function roundChannels(channels: number, divisor = 8): number {
  const rounded = Math.max(divisor, Math.floor((channels + divisor / 2) / divisor) * divisor);
  return rounded < 0.9 * channels ? rounded + divisor : rounded;
}

/** So many blocks of a stage at a depth factor: rounded up, so that no stage is empty. */
export function scaleDepth(blocks: number, depth: number): number {
  return Math.ceil(blocks * depth);
}

/** Smallest side of the last feature map where strides are left out for small images. */
const SMALLEST_MAP = 4;

/**
 * The strides of a network's stages for images of this size. They are halved from the front until the last feature map is
 * at least 4 pixels wide, as is customary on 32×32 images.
 */
export function stridesFor(strides: readonly number[], size: number): number[] {
  const result = [...strides];
  let total = result.reduce((product, stride) => product * stride, 1);
  for (const [i, stride] of strides.entries())
    for (let left = stride; left > 1 && size / total < SMALLEST_MAP; left /= 2) {
      result[i] = left / 2;
      total /= 2;
    }
  return result;
}
