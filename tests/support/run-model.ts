/** Runs a model in the engine on seeded synthetic inputs, for tests that compare outputs before and after. */
import type { Model } from "../../src/ir/model.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { NdArray } from "../../src/run/session.ts";
import { indexRanges, syntheticFeeds } from "../../src/run/synthetic.ts";

export type Outputs = Readonly<Record<string, NdArray>>;

/** Inputs of models in shared/data that only some values or shapes make sense for, by a name that no other model uses so. */
const SPECIAL: Readonly<Record<string, readonly NdArray[]>> = {
  // silero-vad: 64 samples of context and 512 new ones at 16 kHz.
  "input,state,sr": [
    { dtype: "float32", shape: [1, 576], data: Float32Array.from({ length: 576 }, (_, i) => Math.sin(i / 7)) },
    { dtype: "float32", shape: [2, 1, 128], data: new Float32Array(256) },
    { dtype: "int64", shape: [], data: BigInt64Array.of(16000n) },
  ],
};

export interface RunOptions {
  /** The model whose look-ups say how large integer inputs may be, when `model` is bytes or a path. */
  readonly like?: Model;
  readonly optimize?: "none" | "all";
}

/** Runs a model, its bytes or its file on inputs that depend only on its input names and shapes. */
export async function runOnSynthetic(model: Model | Uint8Array | string, options: RunOptions = {}): Promise<Outputs> {
  const session = await openSession(model, { inProcess: true, threads: 1, optimize: options.optimize ?? "all" });
  try {
    const special = SPECIAL[session.inputs.map(({ name }) => name).join()];
    const feeds = special
      ? Object.fromEntries(session.inputs.map(({ name }, i) => [name, special[i] as NdArray]))
      : syntheticFeeds(session.inputs, options.like ? { ranges: indexRanges(options.like) } : {});
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

/** The outputs as plain values that `toEqual` compares bit by bit. */
export function bits(outputs: Outputs): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(outputs).map(([name, { dtype, shape, data }]) => [
      name,
      {
        dtype,
        shape: [...shape],
        data: ArrayBuffer.isView(data)
          ? Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64")
          : [...data],
      },
    ]),
  );
}

/**
 * The worst distance between two runs: |a − b| / (1 + |a|) for floats (half floats in steps of 2⁻¹⁰), infinite where
 * anything else, a NaN or a shape differs.
 */
export function worstError(before: Outputs, after: Outputs): number {
  let worst = Object.keys(before).join() === Object.keys(after).join() ? 0 : Number.POSITIVE_INFINITY;
  for (const [name, a] of Object.entries(before)) {
    const b = after[name];
    if (!b || a.dtype !== b.dtype || a.shape.join() !== b.shape.join()) return Number.POSITIVE_INFINITY;
    for (let i = 0; i < a.data.length; i++) {
      if (Object.is(a.data[i], b.data[i])) continue;
      const [x, y] = [Number(a.data[i]), Number(b.data[i])];
      if (a.dtype === "float16") worst = Math.max(worst, Math.abs(x - y) * 2 ** -10);
      else if (a.dtype === "float32" || a.dtype === "float64")
        worst = Math.max(worst, Math.abs(x - y) / (1 + Math.abs(x)));
      else return Number.POSITIVE_INFINITY;
    }
  }
  return Number.isNaN(worst) ? Number.POSITIVE_INFINITY : worst;
}
