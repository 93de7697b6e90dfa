/** Short-time Fourier transforms, and columns added to images, in double precision. */
import { windowOf } from "../../../src/ops/gradients/conv.ts";
import { type Nd, type Reference, each, product } from "./arrays.ts";

/** y[b, f, k] = Σ_t window[t]·x[b, f·step + t]·e^(−2πi·kt/length) */
const stft: Reference = (node, [signal, stepInput, window, lengthInput]) => {
  const x = signal as Nd;
  const [batch = 1, size = 0, parts = 1] = x.shape;
  const step = stepInput?.data[0] ?? 1;
  const length = lengthInput?.data[0] ?? window?.shape[0] ?? 0;
  const bins = node.int("onesided", 1) ? Math.floor(length / 2) + 1 : length;
  const shape = [batch, Math.floor((size - length) / step) + 1, bins, 2];
  const data = new Float64Array(product(shape));
  each(shape.slice(0, 3), (at, flat) => {
    const [b = 0, frame = 0, k = 0] = at;
    for (let t = 0; t < length; t++) {
      const from = (b * size + frame * step + t) * parts;
      const weight = window?.data[t] ?? 1;
      const [re, im] = [weight * (x.data[from] ?? 0), parts === 2 ? weight * (x.data[from + 1] ?? 0) : 0];
      const angle = (-2 * Math.PI * k * t) / length;
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      data[2 * flat] = (data[2 * flat] ?? 0) + re * cos - im * sin;
      data[2 * flat + 1] = (data[2 * flat + 1] ?? 0) + re * sin + im * cos;
    }
  });
  return [{ shape, data }];
};

/** y[n, c, p·stride + k·dilation − begin] += x[n, c·taps + k, p] */
const col2Im: Reference = (node, [columns, image, block]) => {
  const x = columns as Nd;
  const [sizes, kernel] = [[...(image as Nd).data], [...(block as Nd).data]];
  const { strides, dilations, begins, ends } = windowOf(node, kernel, sizes, []);
  const blocks = sizes.map((size, i) => {
    const room = size + (begins[i] ?? 0) + (ends[i] ?? 0) - ((kernel[i] ?? 1) - 1) * (dilations[i] ?? 1) - 1;
    return Math.floor(room / (strides[i] ?? 1)) + 1;
  });
  const channels = (x.shape[1] ?? 0) / product(kernel);
  const shape = [x.shape[0] ?? 1, channels, ...sizes];
  const data = new Float64Array(product(shape));
  const rank = sizes.length;
  each([shape[0] ?? 1, channels, ...kernel, ...blocks], (at, flat) => {
    let to = (at[0] ?? 0) * channels + (at[1] ?? 0);
    for (const [i, size] of sizes.entries()) {
      const place =
        (at[2 + rank + i] ?? 0) * (strides[i] ?? 1) + (at[2 + i] ?? 0) * (dilations[i] ?? 1) - (begins[i] ?? 0);
      if (place < 0 || place >= size) return;
      to = to * size + place;
    }
    data[to] = (data[to] ?? 0) + (x.data[flat] ?? 0);
  });
  return [{ shape, data }];
};

export const SIGNAL_REFERENCES: Readonly<Record<string, Reference>> = { STFT: stft, Col2Im: col2Im };
