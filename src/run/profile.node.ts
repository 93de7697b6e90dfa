/** Where the time of a model goes: the engine's own profile, added up by node. */
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PareError } from "../base/error.ts";
import type { Model } from "../ir/model.ts";
import { openSession } from "./open-session.node.ts";
import type { Feeds, SessionOptions } from "./session.ts";

/** One node as the engine ran it, fused and renamed as it saw fit. */
export interface NodeTime {
  readonly name: string;
  readonly op: string;
  readonly provider: string;
  /** Seconds of one run, the mean over all of them. */
  readonly seconds: number;
  readonly share: number;
}

export interface Profile {
  /** Runs that were averaged; the first, in which memory is planned, is left out. */
  readonly runs: number;
  /** Seconds of one run, all nodes together. */
  readonly seconds: number;
  /** Slowest first. */
  readonly nodes: readonly NodeTime[];
}

/** Runs the model on the same feeds `runs` times under the engine's profiler. */
export async function profile(
  model: Model | Uint8Array | string,
  feeds: Feeds,
  options: SessionOptions & { readonly runs?: number | undefined } = {},
): Promise<Profile> {
  const { runs = 20, ...sessionOptions } = options;
  const folder = await mkdtemp(join(tmpdir(), "pare-profile-"));
  try {
    const session = await openSession(model, { ...sessionOptions, profilePrefix: join(folder, "run") });
    try {
      await session.time(feeds, runs + 1);
    } finally {
      await session.close();
    }
    const [file] = await readdir(folder);
    if (file === undefined) throw new PareError("engine", "ONNX Runtime wrote no profile");
    return parseProfile(await readFile(join(folder, file), "utf8"));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface TraceEvent {
  readonly cat?: string;
  readonly name?: string;
  /** Microseconds. */
  readonly dur?: number;
  readonly args?: { readonly op_name?: string; readonly provider?: string; readonly node_index?: string };
}

/** Adds up a profile in the trace-event format that the engine writes. */
export function parseProfile(text: string): Profile {
  const events = JSON.parse(text) as readonly TraceEvent[];
  const runs = events.filter((event) => event.cat === "Session" && event.name === "model_run").length;
  const nodes = new Map<string, { name: string; op: string; provider: string; times: number[] }>();
  for (const event of events) {
    const { op_name: op, provider, node_index: index } = event.args ?? {};
    if (event.cat !== "Node" || op === undefined || !event.name?.endsWith("_kernel_time")) continue;
    const name = event.name.slice(0, -"_kernel_time".length);
    const key = `${index ?? ""}:${name}`;
    const node = nodes.get(key) ?? { name, op, provider: provider ?? "", times: [] };
    node.times.push((event.dur ?? 0) / 1e6);
    nodes.set(key, node);
  }
  const counted = Math.max(1, runs - 1);
  const entries = [...nodes.values()].map(({ times, ...node }) => {
    const perRun = Math.max(1, Math.round(times.length / Math.max(1, runs))); // inside loops a node runs several times
    const kept = times.length > perRun ? times.slice(perRun) : times;
    return { ...node, seconds: kept.reduce((sum, time) => sum + time, 0) / counted };
  });
  const seconds = entries.reduce((sum, node) => sum + node.seconds, 0);
  return {
    runs: counted,
    seconds,
    nodes: entries
      .map((node) => ({ ...node, share: seconds > 0 ? node.seconds / seconds : 0 }))
      .sort((a, b) => b.seconds - a.seconds),
  };
}
