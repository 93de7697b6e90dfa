/** The engine that techniques compute with: ONNX Runtime for Node by default; a page installs its own. */
import type { LineStore } from "../base/line-store.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";
import type { FeedStream, Reducer, TapOptions } from "../run/taps.node.ts";
import type { Session, SessionOptions } from "../run/session.ts";

/** The part of `run/` that techniques need. */
export interface TechniqueEngine {
  openSession(model: Model, options?: SessionOptions): Promise<Session>;
  /** Outputs of a model without inputs. */
  evaluateConstants(model: Model): Promise<ReadonlyMap<string, Tensor>>;
  /** Streams samples through a model and reduces values inside it. */
  tap<T>(
    model: Model,
    names: readonly string[],
    stream: FeedStream,
    reducerFor: (name: string) => Reducer<T>,
    options?: TapOptions,
  ): Promise<Map<string, T>>;
  /** Lines kept between runs; absent where nothing can be kept. */
  openLines?(name: string): LineStore;
}

let installed: TechniqueEngine | undefined;

/** Installs another engine, for example ONNX Runtime Web in a page. */
export function installEngine(engine: TechniqueEngine): void {
  installed = engine;
}

/** The installed engine, or Node's. */
export async function engine(): Promise<TechniqueEngine> {
  if (installed) return installed;
  const [{ openSession }, { evaluateConstants }, { tap }, { openLines }] = await Promise.all([
    import("../run/open-session.node.ts"),
    import("../run/fold.node.ts"),
    import("../run/taps.node.ts"),
    import("../base/line-store.node.ts"),
  ]);
  installed = { openSession, evaluateConstants, tap, openLines };
  return installed;
}
