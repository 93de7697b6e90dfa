/** Rewinding: weights set back to what they were, while what has been pruned since stays zero. */
import type { Model } from "../../../ir/model.ts";
import { Tensor } from "../../../ir/tensor.ts";
import { trainableParameters } from "../../../train/parameters.ts";
import { weightSites } from "../../../transform/weight-sites.ts";
import { packPart, unpackPart } from "../../finished.ts";

/** Tensors by the names of their initializers. */
export type WeightSnapshot = ReadonlyMap<string, Tensor>;

/** What training changes in the model, as it is now: learned float32 weights and running statistics. */
export function snapshotWeights(model: Model): Map<string, Tensor> {
  const statistics = weightSites(model, { roles: ["statistic"], dtypes: ["float32"] }).map(({ value }) => value);
  const taken = new Map<string, Tensor>();
  for (const value of [...trainableParameters(model), ...statistics])
    if (value.tensor && model.graph.initializers.has(value.name)) taken.set(value.name, value.tensor);
  return taken;
}

/**
 * Sets the weights back to the snapshot. Elements of matrices and kernels that are zero now are zero afterwards: they were
 * pruned. Names that the model no longer has are passed over.
 */
export async function rewindWeights(model: Model, snapshot: WeightSnapshot): Promise<void> {
  for (const [name, first] of snapshot) {
    const value = model.graph.initializers.get(name);
    const now = value?.tensor;
    if (!value || !now) continue;
    if (now.shape.length < 2) {
      value.tensor = first;
      continue;
    }
    const [current, data] = [(await now.data()) as Float32Array, (await first.data()) as Float32Array];
    value.tensor = Tensor.float32(
      first.shape,
      data.map((w, i) => (current[i] === 0 ? 0 : w)),
    );
  }
}

/** A snapshot as bytes, to be kept. */
export async function packSnapshot(snapshot: WeightSnapshot): Promise<Uint8Array> {
  const header = [...snapshot].map(([name, { shape }]) => ({ name, shape }));
  return packPart(header, await Promise.all([...snapshot.values()].map((tensor) => tensor.bytes())));
}

export function unpackSnapshot(bytes: Uint8Array): Map<string, Tensor> {
  const { header, arrays } = unpackPart(bytes);
  return new Map(
    (header as { name: string; shape: readonly number[] }[]).map(({ name, shape }, i) => {
      const data = new Float32Array((arrays[i] as Uint8Array).buffer as ArrayBuffer);
      return [name, Tensor.float32(shape, data)];
    }),
  );
}
