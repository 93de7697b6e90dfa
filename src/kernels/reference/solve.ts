/** Small dense linear algebra in plain TypeScript, in single precision and the kernels' order of additions: their oracle. */
import { roundClamped } from "../scalar.ts";
import type { FeedbackRounded, FeedbackRounding } from "../types.ts";

/** c + a·b, for a (m, p), b (p, n) and c (m, n). */
export function addProduct(
  c: Float32Array,
  a: Float32Array,
  b: Float32Array,
  { m, p, n }: { readonly m: number; readonly p: number; readonly n: number },
): Float32Array {
  const result = c.slice();
  for (let row = 0; row < m; row++)
    for (let col = 0; col < n; col++) {
      let sum = result[row * n + col] as number;
      for (let i = 0; i < p; i++)
        sum = Math.fround(sum + Math.fround((a[row * p + i] as number) * (b[i * n + col] as number)));
      result[row * n + col] = sum;
    }
  return result;
}

/** U with A = UᵀU; undefined where a pivot is not positive. */
export function choleskyUpper(a: Float32Array, n: number): Float32Array | undefined {
  const u = a.slice();
  for (let j = 0; j < n; j++) {
    const pivot = u[j * n + j] as number;
    if (!(pivot > 0) || pivot === Infinity) return undefined;
    const factor = Math.fround(1 / Math.fround(Math.sqrt(pivot)));
    for (let i = j; i < n; i++) u[j * n + i] = (u[j * n + i] as number) * factor;
    for (let i = j + 1; i < n; i++)
      for (let col = i; col < n; col++)
        u[i * n + col] =
          (u[i * n + col] as number) - Math.fround((u[j * n + i] as number) * (u[j * n + col] as number));
  }
  for (let i = 1; i < n; i++) u.fill(0, i * n, i * n + i);
  return u;
}

/** U⁻¹ of an upper triangle. */
export function invertUpper(u: Float32Array, n: number): Float32Array {
  const v = new Float32Array(n * n);
  for (let i = n - 1; i >= 0; i--) {
    v[i * n + i] = 1;
    for (let j = i + 1; j < n; j++)
      for (let col = j; col < n; col++)
        v[i * n + col] =
          (v[i * n + col] as number) - Math.fround((u[i * n + j] as number) * (v[j * n + col] as number));
    const factor = Math.fround(1 / (u[i * n + i] as number));
    for (let col = i; col < n; col++) v[i * n + col] = (v[i * n + col] as number) * factor;
  }
  return v;
}

/** See {@link FeedbackRounding}. */
export function roundWithFeedback({
  w,
  base,
  count,
  n,
  feedback,
  importance,
  groups,
  scales,
  zeroPoints,
  top,
  into,
}: FeedbackRounding): FeedbackRounded {
  const { codes, errors } = into ?? { codes: new Uint8Array(count * n), errors: new Float32Array(count * n) };
  let loss = 0;
  for (let j = count - 1; j >= 0; j--)
    for (let o = 0; o < n; o++) {
      let x = Math.fround((w[j * n + o] as number) + (base[j * n + o] as number));
      for (let i = j + 1; i < count; i++)
        x = Math.fround(x + Math.fround((feedback[j * count + i] as number) * (errors[i * n + o] as number)));
      const s = scales[(groups[j] as number) * n + o] as number;
      const z = zeroPoints[(groups[j] as number) * n + o] as number;
      const q = roundClamped(Math.fround(x / s), -z, top - z);
      const dense = Math.fround(q * s);
      codes[j * n + o] = q + z;
      errors[j * n + o] = (w[j * n + o] as number) - dense;
      loss += (importance[j] as number) * Math.fround(x - dense) ** 2;
    }
  return { codes, errors, loss };
}
