/** Feeds and outputs of a model beside one whose tokens or outputs were cut: what both can be asked, and what both answer. */
import { type KeptAxis, keptPorts } from "../ir/kept-ports.ts";
import type { Model } from "../ir/model.ts";
import { arrayOf, asNumbers, convertArray, tensorOf } from "../run/arrays.ts";
import type { Feeds, NdArray } from "../run/session.ts";
import { sliceTensor } from "../transform/slice-tensor.ts";

export interface PortTranslation {
  /** Tokens that the cut model lacks become ones that it has. */
  reference(feeds: Feeds): Feeds;
  /** The same tokens by their new numbers, and what is left of other inputs. */
  candidate(feeds: Feeds): Promise<Feeds>;
  /** The part of the reference's output that the candidate still has. */
  output(name: string, expected: NdArray): Promise<NdArray>;
}

/** The translation between two models by their metadata; undefined where the ports are the same. */
export function portTranslation(reference: Model, candidate: Model): PortTranslation | undefined {
  const [before, now] = [keptPorts(reference), keptPorts(candidate)];
  if (!now) return undefined;
  // Both speak of the first model's numbers.
  const relative = (first: readonly number[] | undefined, then: readonly number[]): readonly number[] => {
    if (!first) return then;
    const places = new Map(first.map((number, i) => [number, i]));
    return then.flatMap((number) => places.get(number) ?? []);
  };
  const tokens = new Map(
    Object.entries(now.tokens).map(([name, kept]) => [name, relative(before?.tokens[name], kept)] as const),
  );
  type Axes = Readonly<Record<string, KeptAxis>>;
  const axesOf = (first: Axes | undefined, then: Axes): Map<string, KeptAxis> =>
    new Map(
      Object.entries(then).map(([name, { axis, kept }]) => [name, { axis, kept: relative(first?.[name]?.kept, kept) }]),
    );
  const [inputs, outputs] = [axesOf(before?.inputs, now.inputs), axesOf(before?.outputs, now.outputs)];
  const part = (cut: KeptAxis | undefined, array: NdArray): Promise<NdArray> => {
    if (!cut) return Promise.resolve(array);
    const axis = cut.axis < 0 ? cut.axis + array.shape.length : cut.axis;
    return arrayOf(sliceTensor(tensorOf(array), new Map([[axis, cut.kept]])));
  };
  const numbers = new Map([...tokens].map(([name, kept]) => [name, new Map(kept.map((id, i) => [id, i]))]));
  const mapped = (feeds: Feeds, change: (id: number, name: string) => number): Feeds =>
    Object.fromEntries(
      Object.entries(feeds).map(([name, array]) => {
        if (!tokens.has(name)) return [name, array];
        const data = Float64Array.from(asNumbers(array), (id) => change(id, name));
        return [name, convertArray({ dtype: "float64", shape: array.shape, data }, array.dtype)];
      }),
    );
  return {
    reference: (feeds) =>
      mapped(feeds, (id, name) => {
        const kept = tokens.get(name) ?? [];
        return numbers.get(name)?.has(id) ? id : (kept[Math.abs(id) % kept.length] ?? 0);
      }),
    async candidate(feeds) {
      const renumbered = mapped(feeds, (id, name) => numbers.get(name)?.get(id) ?? 0);
      const own: Record<string, NdArray> = {};
      for (const [name, array] of Object.entries(renumbered)) own[name] = await part(inputs.get(name), array);
      return own;
    },
    output: (name, expected) => part(outputs.get(name), expected),
  };
}
