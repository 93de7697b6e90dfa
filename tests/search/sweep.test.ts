/** The sweep's loop: failures stay, finished work is taken over, an abort keeps what was done, the front follows. */
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { PareError } from "../../src/base/error.ts";
import { folderStore } from "../../src/search/results-store.node.ts";
import type { Results } from "../../src/search/results.ts";
import { parseResults, resultsJson } from "../../src/search/results-json.ts";
import {
  type Measured,
  type ResultsStore,
  type SweepJob,
  type SweepProgress,
  runSweep,
} from "../../src/search/sweep.ts";

const HEADER = {
  title: "t",
  created: "2026-01-01T00:00:00Z",
  machine: { cpu: "c", cores: 1, memoryBytes: 1, platform: "p", versions: {} },
  model: { name: "m", bytes: 1 },
  data: {},
  seed: 1,
};
const metric = (value: number) => ({ accuracy: { value, low: value - 0.01, high: value + 0.01, samples: 100 } });
const measured = (accuracy: number, brotli: number, ratio = 1): Measured => ({
  metrics: metric(accuracy),
  bytes: { file: brotli * 2, brotli },
  latency: { p50: 1, p90: 1, p99: 1, mean: 1, ratio: { value: ratio, low: ratio - 0.01, high: ratio + 0.01 } },
});

interface Log {
  readonly ran: string[];
}
const job = (log: Log, id: string, result: Measured | Error, key = id): SweepJob => ({
  id,
  label: id,
  family: id === "baseline" ? "baseline" : "quantize",
  recipe: [],
  key,
  run: async (onStage) => {
    log.ran.push(id);
    onStage("working", 0.5);
    if (result instanceof Error) throw result;
    return result;
  },
});
const memoryStore = (): ResultsStore & { last: Results | undefined } => ({
  last: undefined,
  async read() {
    return this.last;
  },
  async write(results) {
    this.last = parseResults(resultsJson(results));
  },
});

describe("runSweep", () => {
  const jobs = (log: Log): SweepJob[] => [
    job(log, "baseline", measured(0.9, 100)),
    job(log, "small", measured(0.89, 25, 0.5)),
    job(log, "worse", measured(0.88, 30, 0.6)),
    job(log, "broken", new PareError("verification", "It answers NaN")),
    job(log, "noise", measured(0.9, 100, 0.995)),
  ];

  it("measures in order, keeps a failure as an entry, and finds the front and its volume", async () => {
    const log = { ran: [] };
    const store = memoryStore();
    const results = await runSweep({ header: HEADER, jobs: jobs(log), store });
    expect(results.entries.map(({ id }) => id)).toEqual(["baseline", "small", "worse", "broken", "noise"]);
    expect(results.entries[3]?.error).toEqual({ code: "verification", message: "It answers NaN" });
    expect(results.objectives.map(({ name }) => name)).toEqual(["accuracy", "brotli", "latency-ratio"]);
    // "noise" is faster by less than anyone can tell: it ties with the baseline, and both stay.
    expect(results.front).toEqual(["baseline", "noise", "small"]);
    expect(results.hypervolume?.share).toBeGreaterThan(0);
    expect(store.last).toEqual(results);
  });

  it("takes finished work over and tries failures again", async () => {
    const store = memoryStore();
    await runSweep({ header: HEADER, jobs: jobs({ ran: [] }), store });
    const log = { ran: [] as string[] };
    const resumed: string[] = [];
    const again = jobs(log);
    again[2] = job(log, "worse", measured(0.95, 10), "another key");
    const results = await runSweep({
      header: HEADER,
      jobs: again,
      store,
      onEntry: (entry, old) => old && resumed.push(entry.id),
    });
    expect(log.ran).toEqual(["worse", "broken"]);
    expect(resumed).toEqual(["baseline", "small", "noise"]);
    expect(results.front).toContain("worse");
  });

  it("measures again when the model that was saved is gone", async () => {
    const store = memoryStore();
    await runSweep({ header: HEADER, jobs: jobs({ ran: [] }), store });
    const log = { ran: [] as string[] };
    const again = jobs(log)
      .slice(0, 2)
      .map((one) => ({ ...one, present: async () => one.id !== "small" }));
    await runSweep({ header: HEADER, jobs: again, store });
    expect(log.ran).toEqual(["small"]);
  });

  it("stops when asked and keeps what was done", async () => {
    const store = memoryStore();
    const controller = new AbortController();
    const log = { ran: [] as string[] };
    const all = jobs(log);
    const stopping: SweepJob = {
      ...(all[1] as SweepJob),
      run: async () => {
        controller.abort();
        throw new PareError("aborted", "Stopped");
      },
    };
    await expect(
      runSweep({ header: HEADER, jobs: [all[0] as SweepJob, stopping], store, signal: controller.signal }),
    ).rejects.toMatchObject({ code: "aborted" });
    expect(store.last?.entries.map(({ id }) => id)).toEqual(["baseline"]);
  });

  it("fails when the baseline cannot be measured, or two recipes have one id", async () => {
    const log = { ran: [] };
    const broken = [job(log, "baseline", new PareError("engine", "refused"))];
    await expect(runSweep({ header: HEADER, jobs: broken, store: memoryStore() })).rejects.toMatchObject({
      code: "engine",
    });
    const twice = [...jobs(log), job(log, "small", measured(1, 1), "k")];
    await expect(runSweep({ header: HEADER, jobs: twice, store: memoryStore() })).rejects.toThrow(/same id/);
  });

  it("refuses an objective that is not measured, naming those that are", async () => {
    const objectives = [{ name: "acuracy", direction: "maximize" as const }];
    await expect(
      runSweep({ header: HEADER, jobs: jobs({ ran: [] }), store: memoryStore(), objectives }),
    ).rejects.toThrow(/'acuracy' is not measured.*expected one of accuracy, brotli.*Did you mean 'accuracy'/);
  });

  it("reports progress that only grows, with the time left once one is measured", async () => {
    const seen: SweepProgress[] = [];
    await runSweep({ header: HEADER, jobs: jobs({ ran: [] }), store: memoryStore(), onProgress: (p) => seen.push(p) });
    expect(seen.every((p, i) => i === 0 || p.share >= (seen[i - 1]?.share ?? 0))).toBe(true);
    expect(seen[0]?.secondsLeft).toBeUndefined();
    expect(seen.at(-1)).toMatchObject({ share: 1, secondsLeft: 0 });
  });
});

describe("folderStore and results.json", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "pare-results-"));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  it("writes atomically and reads back, infinities included", async () => {
    const store = folderStore(join(folder, "deep"));
    expect(await store.read()).toBeUndefined();
    const entry = { ...measured(0.5, 5), fidelity: { sqnrDb: Number.POSITIVE_INFINITY } };
    const results = await runSweep({ header: HEADER, jobs: [job({ ran: [] }, "baseline", entry)], store });
    expect((await store.read())?.entries[0]?.fidelity?.sqnrDb).toBe(Number.POSITIVE_INFINITY);
    expect(await store.read()).toEqual(results);
    expect(await readdir(join(folder, "deep"))).toEqual(["results.json"]);
    expect(await folderStore(join(folder, "deep"), { fresh: true }).read()).toBeUndefined();
  });

  it("refuses what is not its own document, naming the file and the way out", async () => {
    const path = join(folder, "results.json");
    const store = folderStore(folder);
    for (const [text, message] of [
      ["not json", /results\.json: Not JSON/],
      ["[]", /Not a results document/],
      ['{"format":"pare-results","version":99}', /found version 99; expected version 1/],
      ['{"format":"pare-results","version":1,"entries":[{"id":"a"}],"objectives":[],"front":[]}', /entries\[0\]/],
    ] as const) {
      await writeFile(path, text);
      await expect(store.read()).rejects.toThrow(message);
    }
    expect(await readFile(path, "utf8")).toContain("pare-results");
  });

  it("says so when the folder cannot be written", async () => {
    await writeFile(join(folder, "file"), "");
    const store = folderStore(join(folder, "file"));
    await expect(
      runSweep({ header: HEADER, jobs: [job({ ran: [] }, "baseline", measured(1, 1))], store }),
    ).rejects.toMatchObject({
      code: "output",
    });
  });
});
