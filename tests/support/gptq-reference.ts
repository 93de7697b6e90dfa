/** GPTQ as the paper writes it, in double precision and plain loops: the oracle of the blocked form. */

/** Codes (k, n) for weights (k, n), the second moments (k, k), and a grid given as functions of input and output. */
export function gptqReference(
  weights: ArrayLike<number>,
  n: number,
  gram: ArrayLike<number>,
  options: {
    readonly damping: number;
    readonly order: readonly number[];
    readonly top: number;
    scale(input: number, output: number): number;
    zeroPoint(input: number, output: number): number;
  },
): { codes: Uint8Array; dense: Float64Array } {
  const { order } = options;
  const k = order.length;
  let trace = 0;
  for (let i = 0; i < k; i++) trace += gram[i * k + i] ?? 0;
  const h = order.map((a, i) =>
    order.map((b, j) => ((gram[a * k + b] ?? 0) * k) / trace + (i === j ? options.damping : 0)),
  );
  const u = transposed(cholesky(inverse(h))); // H⁻¹ = UᵀU
  const w = order.map((input) => Array.from({ length: n }, (_, o) => weights[input * n + o] ?? 0));
  const codes = new Uint8Array(k * n);
  const dense = new Float64Array(k * n);
  for (let i = 0; i < k; i++)
    for (let o = 0; o < n; o++) {
      const input = order[i] ?? 0;
      const [s, z] = [options.scale(input, o), options.zeroPoint(input, o)];
      const x = w[i]?.[o] ?? 0;
      const q = Math.min(options.top, Math.max(0, Math.round(x / s) + z));
      codes[input * n + o] = q;
      dense[input * n + o] = (q - z) * s;
      const error = (x - (q - z) * s) / (u[i]?.[i] ?? 1);
      for (let j = i; j < k; j++) (w[j] as number[])[o] = (w[j]?.[o] ?? 0) - error * (u[i]?.[j] ?? 0);
    }
  return { codes, dense };
}

/** L with LLᵀ = a. */
function cholesky(a: readonly (readonly number[])[]): number[][] {
  const l = a.map((row) => row.map(() => 0));
  for (const [i, row] of a.entries())
    for (let j = 0; j <= i; j++) {
      let sum = row[j] ?? 0;
      for (let r = 0; r < j; r++) sum -= (l[i]?.[r] ?? 0) * (l[j]?.[r] ?? 0);
      (l[i] as number[])[j] = i === j ? Math.sqrt(sum) : sum / (l[j]?.[j] ?? 1);
    }
  return l;
}

/** By Gauss-Jordan elimination. */
function inverse(a: readonly (readonly number[])[]): number[][] {
  const k = a.length;
  const m = a.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))]);
  for (let col = 0; col < k; col++) {
    const pivot = m[col] as number[];
    const value = pivot[col] ?? 1;
    for (let j = 0; j < 2 * k; j++) pivot[j] = (pivot[j] ?? 0) / value;
    for (const [i, row] of m.entries()) {
      const factor = row[col] ?? 0;
      if (i !== col) for (let j = 0; j < 2 * k; j++) row[j] = (row[j] ?? 0) - factor * (pivot[j] ?? 0);
    }
  }
  return m.map((row) => row.slice(k));
}

function transposed(a: readonly (readonly number[])[]): number[][] {
  return a.map((_, i) => a.map((row) => row[i] ?? 0));
}
