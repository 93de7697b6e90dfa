/** Convolution and average pooling in plain double-precision loops: the engine has no float64 kernels for them. */

export interface Sliding {
  readonly strides?: readonly number[];
  readonly dilations?: readonly number[];
  readonly pads?: readonly number[];
  readonly group?: number;
}

const product = (sizes: readonly number[]): number => sizes.reduce((n, size) => n * size, 1);

/** Calls `visit` with every coordinate of a shape, in row-major order. */
function each(shape: readonly number[], visit: (at: readonly number[], flat: number) => void): void {
  for (let flat = 0; flat < product(shape); flat++) {
    let rest = flat;
    const at = shape.map(() => 0);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at[axis] = rest % (shape[axis] ?? 1);
      rest = Math.floor(rest / (shape[axis] ?? 1));
    }
    visit(at, flat);
  }
}

/** y[n,o,p] = b[o] + Σ_{c,k} w[o,c,k]·x[n,g·C+c,p·s + k·d − pad], channels within the group of o. */
export function convolution(
  [x, w, bias]: readonly Float64Array[],
  xShape: readonly number[],
  wShape: readonly number[],
  options: Sliding = {},
): Float64Array {
  const [n = 1, channels = 1, ...inside] = xShape;
  const [outputs = 1, perGroup = 1, ...kernel] = wShape;
  const ones = kernel.map(() => 1);
  const { strides = ones, dilations = ones, pads = [...ones, ...ones].map(() => 0), group = 1 } = options;
  const outside = kernel.map((k, i) => {
    const padded = (inside[i] ?? 0) + (pads[i] ?? 0) + (pads[i + kernel.length] ?? 0);
    return Math.floor((padded - (k - 1) * (dilations[i] ?? 1) - 1) / (strides[i] ?? 1)) + 1;
  });
  const y = new Float64Array(n * outputs * product(outside));
  each([n, outputs, ...outside], ([sample = 0, o = 0, ...p], at) => {
    let sum = bias?.[o] ?? 0;
    const first = Math.floor(o / (outputs / group)) * perGroup;
    each([perGroup, ...kernel], ([c = 0, ...k], tap) => {
      let flat = sample * channels + first + c;
      for (let i = 0; i < kernel.length; i++) {
        const position = (p[i] ?? 0) * (strides[i] ?? 1) + (k[i] ?? 0) * (dilations[i] ?? 1) - (pads[i] ?? 0);
        if (position < 0 || position >= (inside[i] ?? 0)) return;
        flat = flat * (inside[i] ?? 1) + position;
      }
      sum += (x?.[flat] ?? 0) * (w?.[o * product([perGroup, ...kernel]) + tap] ?? 0);
    });
    y[at] = sum;
  });
  return y;
}

/** Mean over square windows of each channel; borders count as zeros. */
export function averagePool(
  x: Float64Array,
  shape: readonly number[],
  size: number,
  options: Sliding = {},
): Float64Array {
  const channels = shape[1] ?? 1;
  const kernel = new Float64Array(channels * size * size).fill(1 / (size * size));
  return convolution([x, kernel], shape, [channels, 1, size, size], { ...options, group: channels });
}

/** Puts `stride − 1` zeros after every pixel of (n, c, h, w), then cuts to the positions that count: transposed convolution's input. */
export function spreadPixels(x: Float64Array, shape: readonly number[], stride: number): Float64Array {
  const [n = 1, c = 1, h = 1, w = 1] = shape;
  const y = new Float64Array(n * c * h * stride * w * stride);
  each(shape, ([i = 0, j = 0, row = 0, column = 0], at) => {
    y[((i * c + j) * h * stride + row * stride) * w * stride + column * stride] = x[at] ?? 0;
  });
  return y;
}

/** w (i, o, kh, kw) to (o, i, kh, kw) with both spatial axes reversed. */
export function flipKernel(w: Float64Array, shape: readonly number[]): Float64Array {
  const [inputs = 1, , kh = 1, kw = 1] = shape;
  const y = new Float64Array(w.length);
  each(shape, ([i = 0, o = 0, a = 0, b = 0], at) => {
    y[((o * inputs + i) * kh + (kh - 1 - a)) * kw + (kw - 1 - b)] = w[at] ?? 0;
  });
  return y;
}
