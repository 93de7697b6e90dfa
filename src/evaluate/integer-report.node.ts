/** What the engine makes of a quantized model: which operators run on integers, what stayed in floating point and why, and what costs the time. */
import { type EngineKernel, hasIntegerArithmetic, kernelsOf } from "../analyse/engine-kernels.ts";
import { costOf } from "../analyse/cost.ts";
import type { Interval } from "../base/statistics.ts";
import type { Model } from "../ir/model.ts";
import { openSession } from "../run/open-session.node.ts";
import { optimizedGraph } from "../run/optimized-graph.node.ts";
import { profile } from "../run/profile.node.ts";
import type { Feeds, SessionOptions } from "../run/session.ts";
import { latencyRatio } from "./latency.ts";

/** One reason for the time that a quantized model takes beyond the original's. */
export interface ExtraTime {
  /** A layer, or what the engine added: conversions, changes of layout. */
  readonly what: string;
  readonly why: string;
  /** Seconds of one run in the engine's profile, and those of the same layer of the original. */
  readonly seconds: number;
  readonly before: number;
}

export interface IntegerReport {
  /** Operators on integers. */
  readonly integer: number;
  /** Their share of all multiply-accumulates, 0..1; undefined where there are none. */
  readonly macShare: number | undefined;
  /** Operators in floating point, with the most arithmetic first. */
  readonly float: readonly { readonly name: string; readonly op: string; readonly why: string }[];
  /** QuantizeLinear and DequantizeLinear that run at every inference. */
  readonly conversions: number;
  /** Transposes and reorderings that the engine added. */
  readonly layouts: number;
  /** Time over the original's, where it was measured: below 1 is faster. */
  readonly time?: { readonly ratio: Interval; readonly batch: number };
  /** Where the model is less than {@link EXPECTED} times as fast as the original: what takes longer than there, the most first. */
  readonly longer?: readonly ExtraTime[];
}

export interface IntegerReportOptions extends SessionOptions {
  /** Time over the original's, if it was measured already on these feeds; default: it is measured. */
  readonly ratio?: Interval | undefined;
}

/** Integer arithmetic that gains less than this factor is asked what holds it up. */
const EXPECTED = 1.5;
/** Seconds of timing, and of profiling each model where it is slower. */
const TIMING_SECONDS = 0.8;
const PROFILE_SECONDS = 0.5;
/** Profiles, of which each operator's shortest mean counts. */
const PROFILES = 5;

/**
 * Reads the engine's own graph of `model`, times the model against `original` on `feeds`, and where that gains little takes both
 * profiles. undefined for models that do not compute with integers.
 */
export async function integerReport(
  original: Model,
  model: Model,
  feeds: Feeds,
  options: IntegerReportOptions = {},
): Promise<IntegerReport | undefined> {
  if (!hasIntegerArithmetic(model)) return undefined;
  const { ratio: given, ...session } = options;
  const optimized = await optimizedGraph(model, session);
  const kernels = kernelsOf(model, optimized.model);
  const macs = new Map(costOf(model).layers.map((layer) => [layer.name, layer.macs]));
  const ratio = given ?? (await timeRatio(original, model, feeds, session));
  const report: IntegerReport = {
    ...summaryOf(kernels, macs),
    time: { ratio, batch: Object.values(feeds)[0]?.shape[0] ?? 1 },
  };
  if (ratio.value <= 1 / EXPECTED) return report;
  const before = kernelsOf(original, (await optimizedGraph(original, session)).model);
  const [times, timesBefore] = [await timesOf(model, feeds, session), await timesOf(original, feeds, session)];
  return { ...report, longer: extraTimes({ kernels, times }, { kernels: before, times: timesBefore }, macs) };
}

/** Counts of a list of kernels; `macs` by layer. */
export function summaryOf(
  kernels: readonly EngineKernel[],
  macs: ReadonlyMap<string, number>,
): Omit<IntegerReport, "time" | "slower"> {
  const of = (kind: EngineKernel["kind"]): EngineKernel[] => kernels.filter((kernel) => kernel.kind === kind);
  const macsOf = ({ layer }: EngineKernel): number => (layer === undefined ? 0 : (macs.get(layer) ?? 0));
  const sum = (list: readonly EngineKernel[]): number => list.reduce((total, kernel) => total + macsOf(kernel), 0);
  const [integer, float] = [of("integer"), of("float")];
  const all = sum(integer) + sum(float);
  return {
    integer: integer.length,
    macShare: all > 0 ? sum(integer) / all : undefined,
    float: float
      .toSorted((a, b) => macsOf(b) - macsOf(a))
      .map(({ name, op, layer, layerOp, why }) => ({ name: layer ?? name, op: layerOp ?? op, why: why ?? "" })),
    conversions: of("conversion").length,
    layouts: of("layout").length,
  };
}

/** A model's kernels and the seconds of each by its name in the engine's graph. */
export interface TimedKernels {
  readonly kernels: readonly EngineKernel[];
  readonly times: ReadonlyMap<string, number>;
}

/** What takes more time than in the original, the most first. */
export function extraTimes(now: TimedKernels, original: TimedKernels, macs: ReadonlyMap<string, number>): ExtraTime[] {
  const before = new Map<string, number>();
  for (const { layer, name } of original.kernels)
    if (layer !== undefined) before.set(layer, (before.get(layer) ?? 0) + (original.times.get(name) ?? 0));
  const rows = new Map<string, ExtraTime>();
  for (const kernel of now.kernels) {
    const { kind, layer, name } = kernel;
    const what =
      kind === "conversion"
        ? "conversions between floats and integers"
        : kind === "layout"
          ? "changes of layout"
          : (layer ?? name);
    const seconds = (rows.get(what)?.seconds ?? 0) + (now.times.get(name) ?? 0);
    rows.set(what, { what, why: whyLong(kernel, macs), seconds, before: before.get(what) ?? 0 });
  }
  return [...rows.values()]
    .filter(({ seconds, before: then }) => seconds > then)
    .sort((a, b) => b.seconds - b.before - (a.seconds - a.before));
}

function whyLong({ kind, layer, op, why }: EngineKernel, macs: ReadonlyMap<string, number>): string {
  if (kind === "conversion") return "at the borders of what runs on integers";
  if (kind === "layout") return "integer kernels want the channels last";
  if (kind === "float") return why ?? "in floating point";
  const own = layer === undefined ? 0 : (macs.get(layer) ?? 0);
  return own > 0
    ? `${op.replace(/^.*::/, "")} on ${own.toLocaleString("en-US")} multiply-accumulates a sample`
    : `${op.replace(/^.*::/, "")}, which floats get for free from a neighbour or do faster`;
}

/** Lines for people: what runs on integers, and what makes it slow where it is. */
export function integerLines(report: IntegerReport): string[] {
  const { integer, macShare, float, conversions, layouts, time, longer } = report;
  const share = macShare === undefined ? "" : ` with ${(100 * macShare).toFixed(0)} % of the multiply-accumulates`;
  const lines = [
    `The engine runs ${count(integer, "operator")} on integers${share}, ${float.length === 0 ? "none" : float.length} in floating point${float.length > 0 ? ` (${byReason(float)})` : ""}; ${count(conversions, "conversion")} and ${count(layouts, "change")} of layout between them.`,
  ];
  if (!time || !longer) return lines;
  const { value, low, high } = time.ratio;
  const named = longer
    .slice(0, MOST_NAMED)
    .map(
      ({ what, why, seconds, before }) =>
        `${what} ${milliseconds(seconds)}${before > 0 ? ` instead of ${milliseconds(before)}` : ""} (${why})`,
    );
  const taken = named.length > 0 ? ` What takes longer: ${named.join("; ")}.` : "";
  const times = (factor: number): string => factor.toFixed(2);
  lines.push(
    low > 1
      ? `Slower than the original here: ${times(value)} times its time (${times(low)} to ${times(high)}) on batches of ${time.batch}.${taken}`
      : `No more than ${times(1 / value)} times as fast as the original here (${times(1 / high)} to ${times(1 / low)}), on batches of ${time.batch}.${taken}`,
  );
  return lines;
}

/** "Softmax probabilities, Conv a and 3 more: what it reads is not quantized; …" */
function byReason(float: IntegerReport["float"]): string {
  const reasons = new Map<string, string[]>();
  for (const { name, op, why } of float) reasons.set(why, [...(reasons.get(why) ?? []), `${op} ${name}`]);
  return [...reasons]
    .map(([why, named]) => {
      const more = named.length > MOST_NAMED ? ` and ${named.length - MOST_NAMED} more` : "";
      return `${named.slice(0, MOST_NAMED).join(", ")}${more}: ${why}`;
    })
    .join("; ");
}

/** Names in a line, beyond which only their number is said. */
const MOST_NAMED = 5;

function count(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

function milliseconds(seconds: number): string {
  return `${(1000 * seconds).toPrecision(2)} ms`;
}

async function timeRatio(original: Model, model: Model, feeds: Feeds, options: SessionOptions): Promise<Interval> {
  const a = await openSession(original, options);
  try {
    const b = await openSession(model, options);
    try {
      return (await latencyRatio(a, b, feeds, { rounds: 9, seconds: TIMING_SECONDS, signal: options.signal })).ratio;
    } finally {
      await b.close();
    }
  } finally {
    await a.close();
  }
}

/** Seconds of every operator of the engine's graph, by name; operators that share one share their sum. */
async function timesOf(model: Model, feeds: Feeds, options: SessionOptions): Promise<Map<string, number>> {
  const first = await profile(model, feeds, { ...options, runs: 1 });
  const each = PROFILE_SECONDS / PROFILES;
  const runs = Math.max(2, Math.min(100, Math.round(each / Math.max(first.seconds, 1e-6))));
  const times = new Map<string, number>();
  for (let i = 0; i < PROFILES; i++) {
    const own = new Map<string, number>();
    const { nodes } = await profile(model, feeds, { ...options, runs });
    for (const { name, seconds } of nodes) own.set(name, (own.get(name) ?? 0) + seconds);
    // What disturbs the machine makes some runs longer, none shorter.
    for (const [name, seconds] of own) times.set(name, Math.min(seconds, times.get(name) ?? seconds));
  }
  return times;
}
