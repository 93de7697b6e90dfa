/** Parts of tensors along their axes, computed when they are read. */
import { dtypeBits } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { packBits, unpackUnsigned } from "../base/packed.ts";
import { elementCount } from "../base/shape.ts";
import { Tensor } from "../ir/tensor.ts";

/** Positions that stay, by axis; an axis that is not named stays whole. */
export type Kept = ReadonlyMap<number, readonly number[]>;

/**
 * The elements at these positions, in a tensor that reads them when asked. A tensor that is cut along its first axis alone
 * reads the rows that stay, and nothing else; packed elements of less than a byte are unpacked and packed again. Throws `internal`
 * for texts.
 */
export function sliceTensor(tensor: Tensor, kept: Kept): Tensor {
  const bits = dtypeBits(tensor.dtype);
  if (tensor.strings) throw new PareError("internal", "Tensors of texts are not sliced");
  const shape = tensor.shape.map((size, axis) => kept.get(axis)?.length ?? size);
  if (bits === 2 || bits === 4)
    return Tensor.lazy(tensor.dtype, shape, async () => {
      const elements = unpackUnsigned(await tensor.bytes(), bits, tensor.elements);
      return packBits(sliceBytes(elements, tensor.shape, kept, 1), bits);
    });
  const width = bits / 8;
  return Tensor.lazy(tensor.dtype, shape, async () => {
    const rows = kept.get(0);
    const rest = new Map([...kept].filter(([axis]) => axis !== 0));
    const { source } = tensor;
    if (!rows || !source.readInto) return sliceBytes(await tensor.bytes(), tensor.shape, kept, width);
    const rowBytes = elementCount(tensor.shape.slice(1)) * width;
    const picked = new Uint8Array(rows.length * rowBytes);
    for (const { start, length, at } of runsOf(rows))
      await source.readInto(picked.subarray(at * rowBytes, (at + length) * rowBytes), start * rowBytes);
    return rest.size === 0 ? picked : sliceBytes(picked, [rows.length, ...tensor.shape.slice(1)], rest, width);
  });
}

/** Neighbours in a list of positions: `length` from `start`, of which the first is number `at` of the list. */
function runsOf(positions: readonly number[]): { start: number; length: number; at: number }[] {
  const runs: { start: number; length: number; at: number }[] = [];
  for (const [at, position] of positions.entries()) {
    const last = runs.at(-1);
    if (last && last.start + last.length === position) last.length++;
    else runs.push({ start: position, length: 1, at });
  }
  return runs;
}

/** Copies runs of the innermost axis that is cut, for every choice of the outer ones. */
function sliceBytes(bytes: Uint8Array, shape: readonly number[], kept: Kept, width: number): Uint8Array {
  const last = Math.max(-1, ...kept.keys());
  if (last < 0) return bytes;
  const inner = elementCount(shape.slice(last + 1)) * width;
  const runs = runsOf(kept.get(last) ?? []);
  const result = new Uint8Array(elementCount(shape.map((size, axis) => kept.get(axis)?.length ?? size)) * width);
  let to = 0;
  const copy = (axis: number, block: number): void => {
    if (axis === last) {
      for (const { start, length } of runs) {
        const from = (block * (shape[axis] as number) + start) * inner;
        result.set(bytes.subarray(from, from + length * inner), to);
        to += length * inner;
      }
      return;
    }
    const size = shape[axis] as number;
    const stay = kept.get(axis);
    for (let i = 0; i < (stay?.length ?? size); i++) copy(axis + 1, block * size + (stay?.[i] ?? i));
  };
  copy(0, 0);
  return result;
}
