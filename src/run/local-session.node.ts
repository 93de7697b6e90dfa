/** A session in the calling thread: no hop between threads, for code that runs in a worker, tests and training loops. */
import { setMaxListeners } from "node:events";
import { throwIfAborted } from "../base/error.ts";
import { Engine } from "./engine.node.ts";
import { engineError } from "./engine-error.ts";
import { copyOf } from "./engine-tensor.node.ts";
import { checkArray, checkFeeds } from "./check-feeds.ts";
import { type EngineLink, SessionFront } from "./session-front.ts";
import type { Feeds, Session, SessionOptions } from "./session.ts";
import type { TypedData } from "../base/dtype.ts";

/** An in-process session can also write its outputs into arrays that the caller owns. */
export interface LocalSession extends Session {
  /** Runs once and writes the named outputs into these arrays, whose dtypes and shapes must be the outputs'. */
  runInto(feeds: Feeds, outputs: Feeds): Promise<void>;
}

class LocalFront extends SessionFront implements LocalSession {
  readonly #engine: Engine;

  constructor(engine: Engine, link: EngineLink, parts: ConstructorParameters<typeof SessionFront>[1]) {
    super(link, parts);
    this.#engine = engine;
  }

  async runInto(feeds: Feeds, outputs: Feeds): Promise<void> {
    checkFeeds(this.inputs, feeds);
    for (const port of this.outputs) {
      const array = outputs[port.name];
      if (array) checkArray(port, array);
    }
    try {
      await this.#engine.runInto(feeds, outputs);
    } catch (error) {
      throw engineError(error, "run");
    }
  }
}

/** Opens a model's bytes or file in this thread. `name` is what errors call it. */
export async function openLocalSession(
  source: Uint8Array | string,
  options: SessionOptions = {},
  parts: { readonly name?: string | undefined; readonly onClose?: () => void | Promise<void> } = {},
): Promise<LocalSession> {
  const { signal } = options;
  throwIfAborted(signal);
  let engine: Engine;
  try {
    engine = await Engine.open(source, options);
  } catch (error) {
    throw engineError(error, "load", parts.name ?? (typeof source === "string" ? source : undefined));
  }
  const onAbort = (): void => void session.close();
  const onClose = async (): Promise<void> => {
    signal?.removeEventListener("abort", onAbort);
    await parts.onClose?.();
  };
  const session = new LocalFront(engine, linkTo(engine, signal), { name: parts.name, signal, onClose });
  if (signal) setMaxListeners(0, signal); // many sessions may listen to one signal
  signal?.addEventListener("abort", onAbort, { once: true });
  return session;
}

function linkTo(engine: Engine, signal: AbortSignal | undefined): EngineLink {
  // Steps replace the state, so each must see the one before it finished: what touches the state runs in turn
  let last: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(work: () => T | Promise<T>): Promise<T> => {
    const turn = last.then(() => {
      throwIfAborted(signal);
      return work();
    });
    last = turn.catch(() => undefined);
    return turn;
  };
  return {
    inputs: engine.inputs,
    outputs: engine.outputs,
    run: (feeds, fetches) => engine.run(feeds, fetches),
    async time(feeds, times) {
      const seconds = await engine.time(feeds, times, () => signal?.aborted ?? false);
      throwIfAborted(signal);
      return seconds;
    },
    bind(state, links) {
      const own = copies(state);
      return inTurn(() => engine.bind(own, links));
    },
    step: (feeds, fetches) => inTurn(() => engine.step(feeds, fetches)),
    readState: (names) => inTurn(() => engine.readState(names)),
    writeState(values) {
      const own = copies(values);
      return inTurn(() => engine.writeState(own));
    },
    async close() {
      await last;
      await engine.close();
    },
  };
}

/** Arrays of our own, since the caller's may change before their turn comes. */
function copies(arrays: Feeds): Feeds {
  return Object.fromEntries(
    Object.entries(arrays).map(([name, array]) => [name, { ...array, data: copyOf(array.data as TypedData) }]),
  );
}
