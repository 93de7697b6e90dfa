/** Energy of one inference: from the processor's own counters where they can be read, else estimated from operation counts. */
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { costOf } from "../analyse/cost.ts";
import { throwIfAborted } from "../base/error.ts";
import type { Model } from "../ir/model.ts";
import type { Feeds, Session } from "../run/session.ts";
import { ENERGY_SOURCE, energyFromCounts } from "./energy-table.ts";

export interface Energy {
  /** Of one run of one batch, divided by the samples in it. */
  readonly joules: number;
  readonly estimated: boolean;
  /** The counter, or the table. */
  readonly source: string;
}

/** Linux's interface to Intel's and AMD's running average power limit counters. */
const POWERCAP = "/sys/class/powercap";
/** The counters tick about every millisecond; a second of runs makes that a thousandth. */
const MEASURE_SECONDS = 1;

interface Counter {
  readonly name: string;
  readonly path: string;
  /** Microjoules at which the counter begins again. */
  readonly wrap: number;
}

/** Package counters that this process may read; usually none without privileges. */
export async function energyCounters(root: string = POWERCAP): Promise<Counter[]> {
  const counters: Counter[] = [];
  for (const zone of await readdir(root).catch(() => [])) {
    if (!/^(intel|amd)-rapl:\d+$/.test(zone)) continue; // whole packages, not their parts
    try {
      const folder = join(root, zone);
      const name = (await readFile(join(folder, "name"), "utf8")).trim();
      const wrap = Number(await readFile(join(folder, "max_energy_range_uj"), "utf8"));
      const path = join(folder, "energy_uj");
      await readFile(path, "utf8");
      if (name.startsWith("package")) counters.push({ name, path, wrap });
    } catch {
      // Not readable for this user: the caller falls back to the estimate and says so.
    }
  }
  return counters;
}

/**
 * Joules per sample. Counters measure the whole processor, idle power and other programs included; without counters the
 * estimate of `model` is returned, marked as one.
 */
export async function energyOf(
  model: Model,
  session: Session,
  feeds: Feeds,
  options: {
    readonly batch?: number | undefined;
    readonly dims?: Readonly<Record<string, number>> | undefined;
    readonly root?: string | undefined;
    readonly signal?: AbortSignal | undefined;
  } = {},
): Promise<Energy> {
  const counters = await energyCounters(options.root);
  const batch = options.batch ?? 1;
  if (counters.length === 0) return estimateEnergy(model, options.dims);
  const [time = 0] = await session.time(feeds, 1);
  const runs = Math.max(1, Math.ceil(MEASURE_SECONDS / Math.max(time, 1e-6)));
  throwIfAborted(options.signal);
  const before = await readAll(counters);
  await session.time(feeds, runs);
  const after = await readAll(counters);
  const microjoules = counters.reduce((sum, { wrap }, i) => sum + difference(before[i] ?? 0, after[i] ?? 0, wrap), 0);
  return {
    joules: microjoules / 1e6 / runs / batch,
    estimated: false,
    source: `RAPL counter ${counters.map(({ name }) => name).join(", ")}, the whole processor`,
  };
}

/** The estimate for one sample. */
export function estimateEnergy(model: Model, dims?: Readonly<Record<string, number>>): Energy {
  return { joules: energyFromCounts(costOf(model, dims ?? {})).joules, estimated: true, source: ENERGY_SOURCE };
}

function readAll(counters: readonly Counter[]): Promise<number[]> {
  return Promise.all(counters.map(async ({ path }) => Number(await readFile(path, "utf8"))));
}

/** Microjoules between two readings of a counter that begins again at `wrap`. */
export function difference(before: number, after: number, wrap: number): number {
  return after >= before ? after - before : after + wrap - before;
}
