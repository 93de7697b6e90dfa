/** The layers of a compressed model that can be fitted: where their weights lie, what they should compute, how they are sampled. */
import { nameOf } from "../../analyse/keep.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { specOf } from "../../ops/registry.ts";
import { type WeightSite, weightSites } from "../../transform/weight-sites.ts";
import { layerDepths } from "./frontier.ts";
import { keptRows, type Original } from "./layer-targets.ts";

/** Positions of an image that are enough for its statistics; beyond, a regular grid of them is taken. */
const POSITIONS = 256;

/** A linear node with the stored weight that it alone reads, if it is such. */
export interface Candidate {
  readonly node: Node;
  readonly site: WeightSite | undefined;
  /** Linear layers on the longest way to it: layers of one level do not depend on each other. */
  readonly level: number;
}

export interface Layer {
  readonly node: Node;
  readonly site: WeightSite;
  /** True where a row of the stored weight makes one output. */
  readonly rowsFirst: boolean;
  readonly patches: boolean;
  readonly outputs: number;
  /** Inputs that each output sums over. */
  readonly k: number;
  readonly target: Value;
  readonly channels: readonly number[] | undefined;
  readonly level: number;
}

/** Linear nodes of the main graph in order, with their levels. */
export function candidates(model: Model): Candidate[] {
  const sites = new Map<Node, WeightSite>();
  for (const site of weightSites(model, { roles: ["kernel"] })) for (const { node } of site.uses) sites.set(node, site);
  const depths = layerDepths(model);
  const linear = model.graph.nodes.filter(
    (node) => specOf(node, model.opsets.get(node.domain) ?? 1)?.traits?.linear !== undefined,
  );
  return linear.map((node) => {
    node.name ||= nameOf(node); // sums are asked for by name
    const [output] = node.outputs;
    return { node, site: sites.get(node), level: (output && depths.get(output)) ?? 1 };
  });
}

/** What is to be solved for a linear node, or why it is left alone. */
export async function layerOf(
  model: Model,
  { node, site }: Candidate,
  original: Original,
): Promise<Omit<Layer, "level"> | string> {
  const kind = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits?.linear;
  if (!site) return "its weights are computed, not stored as numbers";
  const use = site.uses[0];
  if (!use || site.uses.length > 1 || site.otherUses.length > 0) return "its weight is shared with another layer";
  if (site.tensor.dtype !== "float32") return `its weight is ${site.tensor.dtype}, not float32`;
  const { channelAxis, reductionAxis } = use.weight;
  const patches = kind === "conv";
  if (!patches && kind !== "gemm" && kind !== "matmul") return "it is neither a convolution nor a matrix product";
  if (channelAxis === undefined || reductionAxis === undefined) return "its weight is a vector";
  const { shape } = site.tensor;
  if (!patches && (shape.length !== 2 || use.input !== 1)) return "its weight is not a matrix on the right";
  if (node.int("transA", 0) === 1 || node.float("alpha", 1) !== 1 || node.float("beta", 1) !== 1)
    return "it scales or transposes its inputs";
  const output = node.outputs[0];
  const target = output && original.counterpart(model, output);
  if (!output || !target) return "the original has nothing in its place";
  const rowsFirst = patches || channelAxis < reductionAxis !== (use.transpose !== undefined);
  const outputs = shape[rowsFirst ? 0 : 1] ?? 1;
  const wanted = target.shape?.at(patches ? 1 : -1);
  if (target.shape?.length !== output.shape?.length || typeof wanted !== "number")
    return "the shape of the original's output is not known, or another";
  const part = { node, site, rowsFirst, patches, outputs, k: site.tensor.elements / outputs, target };
  if (wanted === outputs) return { ...part, channels: undefined };
  const channels = await keptChannels(part, original.node(node));
  return channels
    ? { ...part, channels }
    : "its channels were not found among the original's: its weights have changed";
}

/** Which of the original's output channels a thinned layer has. */
async function keptChannels(
  layer: Pick<Layer, "site" | "rowsFirst" | "outputs" | "node">,
  node: Node | undefined,
): Promise<number[] | undefined> {
  const input = layer.site.uses[0]?.input ?? 1;
  const tensor = node?.inputs[input]?.tensor;
  if (!tensor || tensor.dtype !== "float32" || node.int("transB", 0) !== layer.node.int("transB", 0)) return undefined;
  const count = tensor.shape[layer.rowsFirst ? 0 : 1] ?? 1;
  const full = asRows((await tensor.data()) as Float32Array, count, layer.rowsFirst);
  const rows = asRows((await layer.site.tensor.data()) as Float32Array, layer.outputs, layer.rowsFirst);
  return keptRows({ data: rows, count: layer.outputs }, { data: full, count });
}

/** Weights with one row for each output; the same array where they lie so. */
export function asRows(data: Float32Array, outputs: number, rowsFirst: boolean): Float32Array {
  if (rowsFirst) return data;
  const k = data.length / outputs;
  const rows = new Float32Array(data.length);
  for (let i = 0; i < k; i++) for (let o = 0; o < outputs; o++) rows[o * k + i] = data[i * outputs + o] ?? 0;
  return rows;
}

/** Rows of X per sample. */
export function rowsOf({ node, patches }: Layer): number {
  const sizes = (node.outputs[0]?.shape ?? []).slice(1).map((dim) => (typeof dim === "number" ? dim : 1));
  const positions = (patches ? sizes.slice(1) : sizes.slice(0, -1)).reduce((n, size) => n * size, 1);
  return positions / gridStep(node) ** (patches ? sizes.length - 1 : 0);
}

/** Distance of the positions that are taken from an image. */
export function gridStep(node: Node): number {
  const spatial = (node.outputs[0]?.shape ?? []).slice(2);
  if ((node.string("auto_pad") ?? "NOTSET") !== "NOTSET" || spatial.some((dim) => typeof dim !== "number")) return 1;
  const positions = (spatial as number[]).reduce((n, size) => n * size, 1);
  return Math.max(1, Math.floor((positions / POSITIONS) ** (1 / Math.max(1, spatial.length))));
}
