/**
 * What was cut from a model's inputs and outputs, written into its metadata: which token numbers are left of an input's, and which
 * positions of an axis. Whoever feeds such a model beside its original translates by it.
 */
import { z } from "zod";
import type { Model } from "./model.ts";

const KEY = "pare.kept";

/** Positions that stay, ascending: the new number i was number `kept[i]` of the first model. */
export interface KeptAxis {
  readonly axis: number;
  readonly kept: readonly number[];
}

export interface KeptPorts {
  /** By input: numbers of tokens that stay. */
  readonly tokens: Readonly<Record<string, readonly number[]>>;
  /** By input and by output: positions of an axis that stay. */
  readonly inputs: Readonly<Record<string, KeptAxis>>;
  readonly outputs: Readonly<Record<string, KeptAxis>>;
}

const ranges = z.string().regex(/^\d+(-\d+)?(,\d+(-\d+)?)*$/);
const schema = z.object({
  tokens: z.record(z.string(), ranges),
  inputs: z.record(z.string(), z.object({ axis: z.int(), kept: ranges })),
  outputs: z.record(z.string(), z.object({ axis: z.int(), kept: ranges })),
});

/** What the model's metadata say was kept; undefined where nothing was cut, or the text is not pare's. */
export function keptPorts(model: Model): KeptPorts | undefined {
  const text = model.metadata.get(KEY);
  if (text === undefined) return undefined;
  const parsed = schema.safeParse(parseJson(text));
  if (!parsed.success) return undefined;
  const { tokens, inputs, outputs } = parsed.data;
  return {
    tokens: mapped(tokens, fromRanges),
    inputs: mapped(inputs, ({ axis, kept }) => ({ axis, kept: fromRanges(kept) })),
    outputs: mapped(outputs, ({ axis, kept }) => ({ axis, kept: fromRanges(kept) })),
  };
}

/** Notes a cut of the model at hand, on top of what was cut before. */
export function noteKeptPorts(model: Model, now: Partial<KeptPorts>): void {
  const before = keptPorts(model);
  const compose = (first: readonly number[] | undefined, then: readonly number[]): number[] =>
    then.flatMap((index) => (first ? (first[index] ?? []) : index));
  const axes = (side: "inputs" | "outputs"): Record<string, { axis: number; kept: string }> => {
    const composed = mapped(now[side] ?? {}, ({ axis, kept }, name) => ({
      axis,
      kept: compose(before?.[side][name]?.kept, kept),
    }));
    return mapped({ ...before?.[side], ...composed }, ({ axis, kept }) => ({ axis, kept: toRanges(kept) }));
  };
  const composed = mapped(now.tokens ?? {}, (kept, name) => compose(before?.tokens[name], kept));
  const tokens = mapped({ ...before?.tokens, ...composed }, toRanges);
  model.metadata.set(KEY, JSON.stringify({ tokens, inputs: axes("inputs"), outputs: axes("outputs") }));
}

function mapped<A, B>(record: Readonly<Record<string, A>>, change: (value: A, name: string) => B): Record<string, B> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, change(value, name)]));
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** "0-3,7": runs of ascending numbers. */
export function toRanges(numbers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const number of numbers) {
    const last = runs.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([from, to]) => (from === to ? String(from) : `${from}-${to}`)).join(",");
}

/** The numbers of "0-3,7"; a run that ends before it starts is empty. */
export function fromRanges(text: string): number[] {
  return text.split(",").flatMap((run) => {
    const [from = 0, to = from] = run.split("-").map(Number);
    return Array.from({ length: Math.max(0, Math.min(to - from + 1, MAX_RUN)) }, (_, i) => from + i);
  });
}

/** No vocabulary is longer; a hostile file may claim any run. */
const MAX_RUN = 1 << 22;
