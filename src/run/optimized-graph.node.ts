/** What the engine really runs: the graph after its own optimizations, read back. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadFile } from "../ir/load.node.ts";
import type { Model } from "../ir/model.ts";
import { openSession } from "./open-session.node.ts";
import type { SessionOptions } from "./session.ts";

export interface OptimizedGraph {
  /** Nodes by operator, `domain::Op` outside the standard domain: fusions and layouts are visible here. */
  readonly operators: Readonly<Record<string, number>>;
  readonly nodes: readonly { readonly name: string; readonly op: string }[];
  /** The graph itself, for its structure: weights above 1 KiB cannot be read any more. */
  readonly model: Model;
}

/** Opens the model with the given optimizations and reads the graph that the engine made of it. */
export async function optimizedGraph(
  model: Model | Uint8Array | string,
  options: SessionOptions = {},
): Promise<OptimizedGraph> {
  const folder = await mkdtemp(join(tmpdir(), "pare-optimized-"));
  try {
    const optimizedPath = join(folder, "optimized.onnx");
    const session = await openSession(model, { ...options, optimizedPath });
    await session.close();
    const optimized = await loadFile(optimizedPath);
    const operators: Record<string, number> = {};
    const nodes: { name: string; op: string }[] = [];
    for (const node of optimized.graph.allNodes()) {
      const op = node.domain === "" ? node.opType : `${node.domain}::${node.opType}`;
      operators[op] = (operators[op] ?? 0) + 1;
      nodes.push({ name: node.name, op });
    }
    return { operators, nodes, model: optimized };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
