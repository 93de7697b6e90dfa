/** Opens a model on ONNX Runtime: a Model, its bytes or its file; in a worker thread unless asked otherwise. */
import { copyOf } from "./engine-tensor.node.ts";
import type { Model } from "../ir/model.ts";
import { AdaptedSession, adaptPorts } from "./adapt-ports.ts";
import { modelSource } from "./model-source.node.ts";
import { openLocalSession } from "./local-session.node.ts";
import type { Session, SessionOptions } from "./session.ts";
import { portGrids, withRealPorts } from "./port-grids.ts";
import { openWorkerSession } from "./worker-session.node.ts";

/**
 * Opens a session. Of a Model whose inputs or outputs are codes by its metadata, it takes and gives the numbers that they stand for,
 * unless `ports` says otherwise. A {@link Model} is encoded first (through a temporary file beyond 1 GiB); bytes are copied; a path is
 * opened by the engine itself, which finds external data beside it. Errors: `engine` (the engine refused the model),
 * `provider-absent`, `aborted`. Close the session when done.
 */
export async function openSession(model: Model | Uint8Array | string, options: SessionOptions = {}): Promise<Session> {
  const open = options.inProcess ? openLocalSession : openWorkerSession;
  if (typeof model === "string") return open(model, options, { name: model });
  if (model instanceof Uint8Array) return open(options.inProcess ? model : copyOf(model), options);
  const adapted = adaptPorts(model);
  const { source, dispose } = await modelSource(adapted?.model ?? model);
  try {
    const session = await open(source, options, { name: model.path, onClose: dispose });
    const typed = adapted ? new AdaptedSession(session, adapted.types) : session;
    return options.ports === "stored" ? typed : withRealPorts(typed, portGrids(model));
  } catch (error) {
    await dispose();
    throw error;
  }
}
