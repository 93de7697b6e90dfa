/** The fresh process of a memory measurement: loads a model, runs it, prints how much memory that took at its peak. */
import { readFileSync } from "node:fs";
import { openLocalSession } from "../run/local-session.node.ts";
import { type SyntheticOptions, syntheticFeeds } from "../run/synthetic.ts";
import type { SessionOptions } from "../run/session.ts";

/** What the parent passes as JSON. */
export interface MemoryJob {
  readonly path: string;
  readonly session: SessionOptions;
  readonly synthetic: SyntheticOptions;
  readonly runs: number;
}

/** What the child prints as JSON. */
export interface MemoryFigures {
  /** Peak resident bytes before the model was loaded: Node and the engine's library. */
  readonly baselineBytes: number;
  readonly loadedBytes: number;
  readonly peakBytes: number;
}

/**
 * Peak resident bytes of this process so far. On Linux from its own address space: `maxRSS` begins with what the parent
 * process had when it forked.
 */
function peak(): number {
  try {
    const kilobytes = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    if (kilobytes !== undefined) return Number(kilobytes) * 1024;
  } catch {
    // Not Linux: a process that was not forked has its own figure.
  }
  return process.resourceUsage().maxRSS * 1024;
}

const job = JSON.parse(process.argv[2] ?? "{}") as MemoryJob;
const baselineBytes = peak();
try {
  const session = await openLocalSession(job.path, job.session);
  const loadedBytes = peak();
  const feeds = syntheticFeeds(session.inputs, job.synthetic);
  const fetches = session.outputs.filter((port) => port.dtype !== "undefined").map((port) => port.name);
  for (let run = 0; run < job.runs; run++) await session.run(feeds, fetches);
  const figures: MemoryFigures = { baselineBytes, loadedBytes, peakBytes: peak() };
  process.stdout.write(JSON.stringify(figures));
} catch (error) {
  process.stderr.write(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
