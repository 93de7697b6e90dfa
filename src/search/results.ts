/** The types of results.json: what a sweep or a search measured, versioned, so that reports and other programs can rely on them. */

/** A number with its 95 % interval. */
export interface Interval {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** A task metric: fractions are 0..1, losses in nats. */
export interface Metric extends Interval {
  /** Samples it was measured on. */
  readonly samples: number;
}

/** One axis of the trade-off. `name` is a key of {@link quantityOf}: a metric's name or a measured quantity ("brotli", "latency-ratio"). */
export interface Objective {
  readonly name: string;
  readonly direction: "minimize" | "maximize";
}

/** One step of a recipe as data. */
export interface RecipeStep {
  readonly technique: string;
  /** Every option, defaults included. */
  readonly options: Readonly<Record<string, unknown>>;
  /** The step as people write it, options at their defaults left out: "quantize-weights:bits=4". */
  readonly text?: string | undefined;
}

/** What one step did: the journal. */
export interface StepRecord extends RecipeStep {
  readonly seconds: number;
  readonly changed: readonly {
    readonly what: string;
    readonly how: string;
    readonly error?: number | undefined;
    readonly bytesBefore?: number | undefined;
    readonly bytesAfter?: number | undefined;
  }[];
  readonly skipped: readonly { readonly what: string; readonly why: string }[];
  readonly notes?: readonly string[] | undefined;
}

/** One layer (a node, or a fused group of them), before and after. */
export interface LayerRecord {
  readonly name: string;
  readonly op: string;
  /** Bytes of its weights in this entry and in the baseline. */
  readonly bytes: number;
  readonly bytesBefore: number;
  /** Relative error of its output against the baseline's, ‖ŷ − y‖/‖y‖, everything before it compressed too. */
  readonly error?: number | undefined;
  /** The part of it that this layer adds when it is fed the baseline's input. */
  readonly localError?: number | undefined;
}

/** Seconds of one run after warm-up; `ratio` is this model's time over the baseline's, both measured in turns in one run. */
export interface LatencyRecord {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly mean: number;
  readonly ratio?: Interval | undefined;
}

export interface EnergyRecord {
  /** Joules of one inference of one sample. */
  readonly joules: number;
  /** True when computed from operation counts rather than read from a counter. */
  readonly estimated: boolean;
  /** The counter, or the published energy table. */
  readonly source: string;
}

/** How far the outputs are from the baseline's, without labels. */
export interface FidelityRecord {
  readonly sqnrDb?: number | undefined;
  readonly cosine?: number | undefined;
  /** Share of samples with the same best class. */
  readonly agreement?: number | undefined;
  /** KL divergence of the output distributions in nats. */
  readonly kl?: number | undefined;
  readonly samples?: number | undefined;
}

/** The runner's proof that the model works. */
export interface VerifiedRecord {
  readonly session: boolean;
  readonly provider: string;
  readonly maxAbsError?: number | undefined;
  readonly sqnrDb?: number | undefined;
  readonly cosine?: number | undefined;
  readonly samples?: number | undefined;
}

export interface BytesRecord {
  readonly file: number;
  readonly gzip?: number | undefined;
  readonly brotli?: number | undefined;
  readonly brotliQuality?: number | undefined;
  /** True when the compressed sizes are extrapolated from samples of a large file. */
  readonly estimated?: boolean | undefined;
}

/** One model: the baseline, a compressed one, or a recipe that failed (`error`, and no measurements). */
export interface Entry {
  /** Unique, safe in file names; the baseline's is "baseline". */
  readonly id: string;
  readonly label: string;
  /** Groups entries by colour and shape: "baseline", a family of techniques, or "combined". */
  readonly family: string;
  readonly recipe: readonly RecipeStep[];
  /** The command that makes this model again. */
  readonly command?: string | undefined;
  readonly error?: { readonly code: string; readonly message: string } | undefined;
  readonly metrics: Readonly<Record<string, Metric>>;
  /**
   * Difference of a metric from the baseline's on the same samples, with the 95 % interval of the paired difference: narrower than what
   * the two intervals suggest.
   */
  readonly differences?: Readonly<Record<string, Interval>> | undefined;
  readonly bytes?: BytesRecord | undefined;
  readonly parameters?: number | undefined;
  readonly nonzero?: number | undefined;
  /** Multiply-accumulates of one sample. */
  readonly macs?: number | undefined;
  /** Bit operations of one sample: Σ macs × bits of weights × bits of activations. */
  readonly bops?: number | undefined;
  readonly latency?: LatencyRecord | undefined;
  /** Samples per second. */
  readonly throughput?: number | undefined;
  readonly peakMemoryBytes?: number | undefined;
  readonly energy?: EnergyRecord | undefined;
  readonly fidelity?: FidelityRecord | undefined;
  readonly steps: readonly StepRecord[];
  readonly layers: readonly LayerRecord[];
  readonly verified?: VerifiedRecord | undefined;
  /** What a reader should know of the numbers: why a quantized model is slower than the original. */
  readonly notes?: readonly string[] | undefined;
  /** Path of the model, relative to results.json. */
  readonly output?: string | undefined;
  /** Seconds to build and measure it. */
  readonly seconds: number;
  /** Hash of model, recipe, data, seed and version: a rerun with the same key is skipped. */
  readonly key?: string | undefined;
}

export interface MachineRecord {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly platform: string;
  readonly versions: Readonly<Record<string, string>>;
}

/** Rules of {@link hypervolume}: the reference point in the objectives' own units, and the volume as a share of its box. */
export interface HypervolumeRecord {
  readonly value: number;
  /** Volume over the box between the best values seen and the reference point, 0..1: free of units. */
  readonly share: number;
  readonly reference: readonly number[];
}

export const RESULTS_VERSION = 1;

/** The document results.json. */
export interface Results {
  readonly format: "pare-results";
  readonly version: typeof RESULTS_VERSION;
  /** What was compressed, for the title. */
  readonly title: string;
  /** ISO 8601. */
  readonly created: string;
  readonly machine: MachineRecord;
  readonly model: { readonly name: string; readonly bytes: number; readonly sha256?: string | undefined };
  /** Names that open the data sets again; undefined where none was used. */
  readonly data: {
    readonly calibration?: string | undefined;
    readonly evaluation?: string | undefined;
  };
  readonly seed: number;
  /** The command that made this file. */
  readonly command?: string | undefined;
  /** How the numbers were measured, in the run's own figures: threads, batch, rounds of the benchmark. */
  readonly measured?: {
    readonly provider?: string | undefined;
    readonly threads?: number | undefined;
    readonly batch?: number | undefined;
    readonly rounds?: number | undefined;
  };
  readonly objectives: readonly Objective[];
  /** Entry 0 is the baseline. */
  readonly entries: readonly Entry[];
  /** Ids of the non-dominated entries, best first by the first objective. */
  readonly front: readonly string[];
  readonly hypervolume?: HypervolumeRecord | undefined;
}
