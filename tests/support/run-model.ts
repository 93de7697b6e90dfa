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
