/** Whether the engine has a blocked image layout, and how many channels one block holds. */
import { PareError } from "../../base/error.ts";
import { Builder } from "../../ir/builder.ts";
import { Model } from "../../ir/model.ts";
import type { Session, SessionOptions } from "../../run/session.ts";
import type { OpenSession } from "../evaluator.ts";
import { ENGINE_DOMAIN } from "./words.ts";

const known = new WeakMap<OpenSession, Promise<number | undefined>>();

/**
 * Channels per block: 16 or 8 on processors whose vectors are so wide, undefined where the engine has no such layout (other
 * processors, WebAssembly, other providers than the CPU's). Found out once per engine by running one operator.
 */
export function imageBlock(
  open: OpenSession,
  provider: SessionOptions["provider"] = "cpu",
): Promise<number | undefined> {
  if (provider !== "cpu") return Promise.resolve(undefined);
  let block = known.get(open);
  if (!block) known.set(open, (block = probe(open)));
  return block;
}

async function probe(open: OpenSession): Promise<number | undefined> {
  const model = new Model(undefined, 21, 10);
  model.opsets.set(ENGINE_DOMAIN, 1);
  const b = new Builder(model.graph);
  const image = b.op("ReorderInput", [b.input("x", "float32", [1, 4, 1, 1])], { domain: ENGINE_DOMAIN });
  [image.dtype, image.shape] = ["float32", [1, "channels", 1, 1]];
  b.output(image, "y");
  let session: Session;
  try {
    session = await open(model, { inProcess: true });
  } catch (error) {
    if (error instanceof PareError && error.code === "engine") return undefined; // the operator is unknown to it
    throw error;
  }
  try {
    const outputs = await session.run({ x: { dtype: "float32", shape: [1, 4, 1, 1], data: new Float32Array(4) } });
    return outputs["y"]?.shape[1];
  } finally {
    await session.close();
  }
}
