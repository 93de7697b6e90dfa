/** Small seeded data sets in memory, for tests of training. */
import { Rng } from "../../src/base/rng.ts";
import type { Batch, Dataset } from "../../src/data/dataset.ts";

export interface TinyOptions {
  readonly size?: number;
  readonly shape?: readonly number[];
  readonly classes?: number;
  readonly seed?: number;
  /** Distance between the classes' centres, in deviations; default 3. */
  readonly apart?: number;
  /** Replaces the labels. */
  readonly label?: (index: number, label: number) => number;
}

/** Normal clouds around one random centre per class. */
export function clouds(options: TinyOptions = {}): Dataset {
  const { size = 256, shape = [6], classes = 3, seed = 5, apart = 3 } = options;
  const width = shape.reduce((n, each) => n * each, 1);
  const rng = new Rng(seed);
  const centres = Array.from({ length: classes * width }, () => rng.normal(0, apart / Math.sqrt(2)));
  const labels = Int32Array.from({ length: size }, (_, i) => i % classes);
  const data = Float32Array.from({ length: size * width }, (_, i) => {
    const label = labels[Math.floor(i / width)] ?? 0;
    return (centres[label * width + (i % width)] ?? 0) + rng.normal();
  });
  const take = (indices: readonly number[]): Promise<Batch> => {
    const rows = new Float32Array(indices.length * width);
    for (const [row, index] of indices.entries())
      rows.set(data.subarray(index * width, (index + 1) * width), row * width);
    const own = Int32Array.from(indices, (index) => options.label?.(index, labels[index] ?? 0) ?? labels[index] ?? 0);
    return Promise.resolve({
      size: indices.length,
      fields: { x: { dtype: "float32" as const, shape: [indices.length, ...shape], data: rows } },
      labels: { dtype: "int32" as const, shape: [indices.length], data: own },
    });
  };
  return {
    name: `clouds:?seed=${seed}`,
    size,
    fields: [{ name: "x", dtype: "float32", shape }],
    labels: "classes",
    labelShape: [],
    async *batches({ size: batch = 32 } = {}) {
      for (let start = 0; start < size; start += batch)
        yield await take(Array.from({ length: Math.min(batch, size - start) }, (_, i) => start + i));
    },
    take,
    subset: () => clouds(options),
  };
}
