/** One ONNX Runtime session in this thread: what the worker and the in-process session both are inside. Raw engine errors. */
import ort from "onnxruntime-node";
import { type TypedData, bytesOf } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { copyOf, fromEngineTensor, isEngineDtype, portsOf, toEngineTensor } from "./engine-tensor.node.ts";
import type { EngineOptions, Feeds, NdArray, Port } from "./session.ts";

const LEVELS = { none: "disabled", basic: "basic", extended: "extended", all: "all" } as const;
/** Only fatal messages are logged: everything else reaches the caller as an exception, not as noise on stderr. */
const LOG_FATAL = 4;

type Tensors = Record<string, ort.Tensor>;

/** Two sets of buffers that take turns; `links`: state input to the output that replaces it. */
interface ResidentState {
  current: Tensors;
  next: Tensors;
  readonly links: Readonly<Record<string, string>>;
}

export class Engine {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly #session: ort.InferenceSession;
  readonly #profiled: boolean;
  #state: ResidentState | undefined;

  private constructor(session: ort.InferenceSession, profiled: boolean) {
    this.#session = session;
    this.#profiled = profiled;
    this.inputs = portsOf(session.inputMetadata);
    this.outputs = portsOf(session.outputMetadata);
  }

  /** Loads a model from its bytes or its file. */
  static async open(source: Uint8Array | string, options: EngineOptions): Promise<Engine> {
    ort.env.logLevel = "fatal";
    const session = await create(source, {
      executionProviders: [options.provider ?? "cpu"],
      graphOptimizationLevel: LEVELS[options.optimize ?? "all"],
      logSeverityLevel: LOG_FATAL,
      ...(options.threads ? { intraOpNumThreads: options.threads, interOpNumThreads: 1 } : {}),
      ...(options.optimizedPath === undefined ? {} : { optimizedModelFilePath: options.optimizedPath }),
      ...(options.profilePrefix === undefined
        ? {}
        : { enableProfiling: true, profileFilePrefix: options.profilePrefix }),
    });
    const engine = new Engine(session, options.profilePrefix !== undefined);
    for (const port of [...engine.inputs, ...engine.outputs])
      if (port.dtype !== "undefined" && !isEngineDtype(port.dtype)) await engine.#refuse(port);
    return engine;
  }

  async #refuse(port: Port): Promise<never> {
    await this.close();
    throw new Error(`Unsupported data type: ${port.dtype}`);
  }

  async run(feeds: Feeds, fetches: readonly string[]): Promise<Record<string, NdArray>> {
    return arrays(await this.#session.run(tensors(feeds), [...fetches]));
  }

  /** Runs and lets the engine write into the given arrays, whose dtypes and shapes must be the outputs'. */
  async runInto(feeds: Feeds, outputs: Feeds): Promise<void> {
    await this.#session.run(tensors(feeds), tensors(outputs));
  }

  /** Seconds of each of `times` runs; ends early when `stop` says so. */
  async time(feeds: Feeds, times: number, stop: () => boolean): Promise<Float64Array> {
    const fed = tensors(feeds);
    const fetches = this.outputs.filter((port) => port.dtype !== "undefined").map((port) => port.name);
    const seconds = new Float64Array(times);
    for (let i = 0; i < times && !stop(); i++) {
      const start = performance.now();
      await this.#session.run(fed, fetches);
      seconds[i] = (performance.now() - start) / 1000;
    }
    return seconds;
  }

  /** Takes the first state over; linked inputs get a second set of buffers, and the two sets take turns. */
  bind(state: Feeds, links: Readonly<Record<string, string>>): void {
    const current = tensors(state);
    const next: Tensors = {};
    for (const name of Object.keys(links)) {
      const array = state[name];
      if (array) next[name] = toEngineTensor(emptyLike(array));
    }
    this.#state = { current, next, links };
  }

  async step(feeds: Feeds, fetches: readonly string[]): Promise<Record<string, NdArray>> {
    const state = this.#bound();
    const targets: Record<string, ort.Tensor | null> = {};
    for (const name of fetches) targets[name] = null;
    for (const [input, output] of Object.entries(state.links)) targets[output] = state.next[input] as ort.Tensor;
    const results = await this.#session.run(
      { ...state.current, ...tensors(feeds) },
      targets as ort.InferenceSession.OnnxValueMapType,
    );
    const old: Tensors = {};
    for (const input of Object.keys(state.links)) old[input] = state.current[input] as ort.Tensor;
    state.current = { ...state.current, ...state.next };
    state.next = old;
    const wanted: Record<string, NdArray> = {};
    for (const name of fetches) wanted[name] = fromEngineTensor(results[name] as ort.Tensor);
    return wanted;
  }

  readState(names: readonly string[]): Record<string, NdArray> {
    const state = this.#bound();
    const read: Record<string, NdArray> = {};
    for (const name of names) {
      const array = fromEngineTensor(state.current[name] as ort.Tensor);
      read[name] = { ...array, data: copyOf(array.data as TypedData) };
    }
    return read;
  }

  writeState(values: Feeds): void {
    const state = this.#bound();
    for (const [name, array] of Object.entries(values)) {
      const target = fromEngineTensor(state.current[name] as ort.Tensor).data as TypedData;
      bytesOf(target).set(bytesOf(array.data as TypedData));
    }
  }

  /** Ends the profile, if there is one, and frees the engine's memory. */
  async close(): Promise<void> {
    if (this.#profiled) this.#session.endProfiling();
    this.#state = undefined;
    await this.#session.release();
  }

  #bound(): ResidentState {
    if (!this.#state) throw new PareError("internal", "The session has no resident state");
    return this.#state;
  }
}

function create(
  source: Uint8Array | string,
  options: ort.InferenceSession.SessionOptions,
): Promise<ort.InferenceSession> {
  return typeof source === "string"
    ? ort.InferenceSession.create(source, options)
    : ort.InferenceSession.create(source, options);
}

function tensors(feeds: Feeds): Tensors {
  const fed: Tensors = {};
  for (const [name, array] of Object.entries(feeds)) fed[name] = toEngineTensor(array);
  return fed;
}

function arrays(results: ort.InferenceSession.OnnxValueMapType): Record<string, NdArray> {
  const fetched: Record<string, NdArray> = {};
  for (const [name, tensor] of Object.entries(results)) fetched[name] = fromEngineTensor(tensor as ort.Tensor);
  return fetched;
}

function emptyLike(array: NdArray): NdArray {
  if (array.dtype === "string") throw new PareError("unsupported", "String tensors cannot stay with the engine");
  const data = array.data as TypedData;
  const Type = data.constructor as new (length: number) => TypedData;
  return { ...array, data: new Type(data.length) };
}
