/** The session that callers hold: checks what goes in, explains what the engine says, and refuses use after closing. */
import { PareError, throwIfAborted } from "../base/error.ts";
import { checkArray, checkFeeds, checkFetches } from "./check-feeds.ts";
import { checkLinks, freePorts } from "./check-state.ts";
import { engineError } from "./engine-error.ts";
import type { Feeds, NdArray, Port, Resident, RunOptions, Session } from "./session.ts";

/** An engine somewhere: in this thread or behind a worker's port. Throws raw engine errors. */
export interface EngineLink {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  run(feeds: Feeds, fetches: readonly string[], transfer: boolean): Promise<Record<string, NdArray>>;
  time(feeds: Feeds, times: number): Promise<Float64Array>;
  bind(state: Feeds, links: Readonly<Record<string, string>>): Promise<void>;
  step(feeds: Feeds, fetches: readonly string[], transfer: boolean): Promise<Record<string, NdArray>>;
  readState(names: readonly string[]): Promise<Record<string, NdArray>>;
  writeState(values: Feeds): Promise<void>;
  close(): Promise<void>;
}

/** A {@link Session} over an engine. `name` is what errors call the model; `onClose` runs once, after closing. */
export class SessionFront implements Session {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly #link: EngineLink;
  readonly #name: string | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #onClose: () => void | Promise<void>;
  #closing: Promise<void> | undefined;

  constructor(
    link: EngineLink,
    parts: {
      readonly name?: string | undefined;
      readonly signal?: AbortSignal | undefined;
      readonly onClose?: () => void | Promise<void>;
    } = {},
  ) {
    this.#link = link;
    this.inputs = link.inputs;
    this.outputs = link.outputs;
    this.#name = parts.name;
    this.#signal = parts.signal;
    this.#onClose = parts.onClose ?? (() => undefined);
  }

  async run(feeds: Feeds, fetches?: readonly string[], options?: RunOptions): Promise<Record<string, NdArray>> {
    checkFeeds(this.inputs, feeds);
    const wanted = checkFetches(this.outputs, fetches);
    return this.#ask(() => this.#link.run(feeds, wanted, options?.transfer ?? false));
  }

  async time(feeds: Feeds, times: number): Promise<Float64Array> {
    checkFeeds(this.inputs, feeds);
    return this.#ask(() => this.#link.time(feeds, times));
  }

  async resident(state: Feeds, links: Readonly<Record<string, string>>): Promise<Resident> {
    checkLinks(this.inputs, this.outputs, state, links);
    const free = freePorts(this.inputs, this.outputs, state, links);
    const ports = this.inputs.filter((port) => state[port.name] !== undefined);
    const shapes = Object.fromEntries(Object.entries(state).map(([name, array]) => [name, [...array.shape]]));
    await this.#ask(() => this.#link.bind(state, links));
    return {
      step: async (feeds, fetches, options) => {
        checkFeeds(free.inputs, feeds);
        const wanted = checkFetches(free.outputs, fetches);
        return this.#ask(() => this.#link.step(feeds, wanted, options?.transfer ?? false));
      },
      read: async (names) => {
        const known = ports.map((port) => port.name);
        for (const name of names ?? [])
          if (!known.includes(name)) throw new PareError("bad-option", `'${name}' is not state of this session`);
        return this.#ask(() => this.#link.readState(names ?? known));
      },
      write: async (values) => {
        for (const [name, array] of Object.entries(values)) {
          const port = ports.find((candidate) => candidate.name === name);
          if (!port) throw new PareError("bad-option", `'${name}' is not state of this session`);
          checkArray({ ...port, shape: shapes[name] ?? port.shape }, array);
        }
        await this.#ask(() => this.#link.writeState(values));
      },
    };
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#link.close();
      await this.#onClose();
    })();
    return this.#closing;
  }

  async #ask<T>(work: () => Promise<T>): Promise<T> {
    throwIfAborted(this.#signal);
    if (this.#closing) throw new PareError("internal", "The session is closed");
    try {
      return await work();
    } catch (error) {
      throwIfAborted(this.#signal);
      throw engineError(error, "run", this.#name);
    }
  }
}
