/** The loop of a sweep, free of engines and files: jobs in, entries out, resumable, every failure kept, the front kept up to date. */
import { PareError, messageOf, nearest, throwIfAborted } from "../base/error.ts";
import { hypervolumeRecord } from "./hypervolume.ts";
import { paretoFront } from "./pareto.ts";
import { quantitiesOf, quantityOf, rankValue } from "./quantities.ts";
import { type Entry, type Objective, type RecipeStep, RESULTS_VERSION, type Results } from "./results.ts";

/** What a job's work adds to its entry. */
export type Measured = Omit<
  Entry,
  "id" | "label" | "family" | "recipe" | "command" | "error" | "seconds" | "key" | "metrics" | "steps" | "layers"
> &
  Partial<Pick<Entry, "metrics" | "steps" | "layers">>;

/** One model to make and measure. */
export interface SweepJob {
  readonly id: string;
  readonly label: string;
  readonly family: string;
  readonly recipe: readonly RecipeStep[];
  readonly command?: string | undefined;
  /** Hash of everything that decides the outcome; an entry with the same key and no error is not made again. */
  readonly key: string;
  /** True if what an earlier run left (the saved model) is still there. */
  readonly present?: (entry: Entry) => Promise<boolean>;
  readonly run: (onStage: (stage: string, share: number) => void) => Promise<Measured>;
}

/** Progress of a sweep: recipes done, what is being done now, and the time left from the recipes done so far. */
export interface SweepProgress {
  readonly done: number;
  readonly total: number;
  readonly label: string;
  readonly stage: string;
  /** Share of the whole sweep that is done, 0..1. */
  readonly share: number;
  /** undefined until one recipe was measured. */
  readonly secondsLeft: number | undefined;
}

/** Where results are kept between runs. */
export interface ResultsStore {
  read(): Promise<Results | undefined>;
  /** Atomic: a reader sees the old document or the new one. */
  write(results: Results): Promise<void>;
}

export interface SweepPlan {
  /** Everything of the document but its entries and what follows from them. */
  readonly header: Omit<Results, "format" | "version" | "entries" | "front" | "hypervolume" | "objectives">;
  /** Job 0 is the baseline; if it fails the sweep fails. */
  readonly jobs: readonly SweepJob[];
  /** Default: accuracy (or the first metric, or agreement) against Brotli bytes and, where measured, the latency ratio. */
  readonly objectives?: readonly Objective[] | undefined;
  /** Reference point of the hypervolume, one number per objective. */
  readonly reference?: readonly number[] | undefined;
  readonly store: ResultsStore;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: SweepProgress) => void) | undefined;
  /** Called with each entry as it is ready, those taken over from an earlier run included. */
  readonly onEntry?: ((entry: Entry, resumed: boolean) => void) | undefined;
}

/**
 * Runs the jobs in order and returns the document; it is written after each. A job that fails becomes an entry with its error and
 * is tried again by the next run. An abort stops between (or inside) jobs; what was done stays written.
 */
export async function runSweep(plan: SweepPlan): Promise<Results> {
  const ids = new Set(plan.jobs.map((job) => job.id));
  if (ids.size < plan.jobs.length)
    throw new PareError("bad-option", "Two recipes have the same id", {
      found: plan.jobs.map((job) => job.id).join(", "),
      help: "Give each recipe its own id",
    });
  const earlier = new Map((await plan.store.read())?.entries.map((entry) => [entry.key, entry]));
  const entries: Entry[] = [];
  let results = conclude(plan, entries);
  let fresh = 0;
  let freshSeconds = 0;
  for (const [index, job] of plan.jobs.entries()) {
    throwIfAborted(plan.signal);
    const kept = earlier.get(job.key);
    const resumed = kept !== undefined && !kept.error && ((await job.present?.(kept)) ?? true);
    const report = (stage: string, share: number): void => {
      const left = plan.jobs.length - index - share;
      plan.onProgress?.({
        done: index,
        total: plan.jobs.length,
        label: job.label,
        stage,
        share: (index + share) / plan.jobs.length,
        secondsLeft: fresh > 0 ? (freshSeconds / fresh) * left : undefined,
      });
    };
    let entry: Entry;
    if (resumed) {
      entry = { ...kept, id: job.id, label: job.label, family: job.family, command: job.command };
    } else {
      report("starting", 0);
      entry = await runJob(job, index === 0, report, plan.signal);
      fresh++;
      freshSeconds += entry.seconds;
    }
    entries.push(entry);
    if (index === 0) checkObjectives(plan.objectives ?? [], entry);
    results = conclude(plan, entries);
    await plan.store.write(results);
    plan.onEntry?.(entry, resumed);
    report("done", 1);
  }
  return results;
}

/** An objective that not even the baseline has would leave the front empty without a word. */
function checkObjectives(objectives: readonly Objective[], baseline: Entry): void {
  const measured = quantitiesOf([baseline]).map(({ name }) => name);
  for (const { name } of objectives) {
    if (measured.includes(name)) continue;
    const near = nearest(name, measured);
    throw new PareError("bad-option", `The objective '${name}' is not measured here`, {
      expected: `one of ${measured.join(", ")}`,
      ...(near ? { help: `Did you mean '${near}'?` } : {}),
    });
  }
}

async function runJob(
  job: SweepJob,
  baseline: boolean,
  onStage: (stage: string, share: number) => void,
  signal: AbortSignal | undefined,
): Promise<Entry> {
  const { id, label, family, recipe, command, key } = job;
  const base = { id, label, family, recipe, command, key, metrics: {}, steps: [], layers: [] };
  const start = performance.now();
  const seconds = (): number => (performance.now() - start) / 1000;
  try {
    const measured = await job.run((stage, share) => onStage(stage, Math.max(0, Math.min(0.99, share))));
    return { ...base, ...measured, seconds: seconds() };
  } catch (error) {
    if (baseline || signal?.aborted || (error instanceof PareError && error.code === "aborted")) throw error;
    const code = error instanceof PareError ? error.code : "internal";
    return { ...base, error: { code, message: messageOf(error) }, seconds: seconds() };
  }
}

/** The document for the entries so far: objectives, front and hypervolume follow from them. */
function conclude(plan: SweepPlan, entries: readonly Entry[]): Results {
  const objectives = plan.objectives ?? defaultObjectives(entries);
  return {
    format: "pare-results",
    version: RESULTS_VERSION,
    ...plan.header,
    objectives,
    entries: [...entries],
    ...frontOf(entries, objectives, plan.reference),
  };
}

/** Quality first: the first task metric (accuracy where there is one), else agreement, else SQNR; then Brotli bytes; then the latency ratio. */
export function defaultObjectives(entries: readonly Entry[]): Objective[] {
  const metrics = new Set(entries.flatMap((entry) => Object.keys(entry.metrics)));
  const candidates = [...(metrics.has("accuracy") ? ["accuracy"] : []), ...metrics, "agreement", "sqnr"];
  const measured = (name: string): boolean => {
    const done = entries.filter((entry) => !entry.error);
    return done.some((entry) => quantityOf(name).of(entry) !== undefined);
  };
  const quality = candidates.find(measured);
  const size = ["brotli", "gzip", "file"].find(measured);
  const speed = ["latency-ratio", "latency"].find(measured);
  return [quality, size, speed].flatMap((name) =>
    name === undefined ? [] : [{ name, direction: quantityOf(name).direction }],
  );
}

/** Front (ids, best first by the first objective) and hypervolume of the entries that were measured in every objective. */
export function frontOf(
  entries: readonly Entry[],
  objectives: readonly Objective[],
  reference?: readonly number[],
): Pick<Results, "front" | "hypervolume"> {
  if (objectives.length === 0) return { front: [] };
  const points = entries.map((entry) => objectives.map((objective) => rankValue(quantityOf(objective.name), entry)));
  const { front, ranks } = paretoFront(points, objectives);
  const valueOf = (index: number): number => points[index]?.[0] ?? 0;
  const sign = objectives[0]?.direction === "maximize" ? -1 : 1;
  const ordered = [...front].sort((a, b) => sign * (valueOf(a) - valueOf(b)) || a - b);
  const finite = points.filter(
    (point, index): point is number[] => (ranks[index] ?? -1) >= 0 && point.every(Number.isFinite),
  );
  return {
    front: ordered.flatMap((index) => entries[index]?.id ?? []),
    hypervolume: hypervolumeRecord(finite, objectives, reference),
  };
}
