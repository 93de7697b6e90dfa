/** Which execution providers really work here: found by opening and running a model on each, not by reading lists. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { PareError, messageOf } from "../base/error.ts";
import { Builder } from "../ir/builder.ts";
import { Model } from "../ir/model.ts";
import { openSession } from "./open-session.node.ts";
import type { Provider } from "./session.ts";

export interface ProviderState {
  readonly provider: Provider;
  readonly works: boolean;
  /** Why not. */
  readonly why?: string;
}

const PROVIDERS: readonly Provider[] = ["cpu", "webgpu", "cuda"];

/** Tries every provider. */
export async function listProviders(): Promise<ProviderState[]> {
  const states: ProviderState[] = [];
  for (const provider of PROVIDERS) states.push(await tryProvider(provider));
  return states;
}

/** Opens and runs one addition on the provider. */
export async function tryProvider(provider: Provider): Promise<ProviderState> {
  if (provider === "cuda" && !hasCudaLibrary())
    return { provider, works: false, why: "the CUDA library of onnxruntime-node is not installed" };
  try {
    const session = await openSession(probe(), { provider });
    try {
      const x = { dtype: "float32" as const, shape: [2], data: Float32Array.of(1, 2) };
      const { y } = await session.run({ x });
      const works = y !== undefined && Array.from(y.data as Float32Array).join() === "2,4";
      return works ? { provider, works } : { provider, works, why: "it computes wrong results" };
    } finally {
      await session.close();
    }
  } catch (error) {
    const why = error instanceof PareError ? (error.found ?? error.message) : messageOf(error);
    return { provider, works: false, why };
  }
}

function probe(): Model {
  const model = new Model();
  const builder = new Builder(model.graph);
  const x = builder.input("x", "float32", [2]);
  const y = builder.op("Add", [x, x], { name: "y" });
  y.dtype = "float32";
  y.shape = [2];
  builder.output(y);
  return model;
}

/** onnxruntime-node fetches CUDA in its install script, if it is let; without the file the engine would only print errors. */
function hasCudaLibrary(): boolean {
  try {
    const root = dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
    return ["linux", "win32"].some((platform) =>
      ["x64", "arm64"].some((arch) =>
        ["libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll"].some((file) =>
          existsSync(join(root, "bin", "napi-v6", platform, arch, file)),
        ),
      ),
    );
  } catch {
    return false;
  }
}
