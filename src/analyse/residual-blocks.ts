/** Residual blocks of a graph: branches with weights that are added to what they were computed from, and the layers that they make up. */
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";
import type { Traits } from "../ops/spec.ts";
import { isStored } from "./group-kinds.ts";
import { nameOf } from "./keep.ts";
import { inferShapes } from "./shapes.ts";

/** y = x + f(x): without its branch f, y is x. */
export interface ResidualBlock {
  /** The first layer of the branch. */
  readonly name: string;
  /** attention: its branch multiplies computed values with each other; convolution and dense: by its layers with weights. */
  readonly kind: "attention" | "convolution" | "dense";
  /** Where the branch is added, and which of its inputs are x and f(x). */
  readonly sum: Node;
  readonly skip: number;
  readonly branch: number;
  /** Nodes of the branch that depend on x. */
  readonly nodes: ReadonlySet<Node>;
  /** Weights that only these nodes read. */
  readonly weights: readonly Value[];
  /** Why the branch cannot go; undefined where it can. */
  readonly reason: string | undefined;
}

/** Blocks that go together: one, or those of a transformer layer. */
export interface ResidualUnit {
  readonly name: string;
  readonly blocks: readonly ResidualBlock[];
}

/** Every residual block of the main graph, in order. Infers shapes; constants must be initializers. */
export function residualBlocks(model: Model): ResidualBlock[] {
  inferShapes(model);
  const { graph } = model;
  const traitsOf = (node: Node): Traits => specOf(node, model.opsets.get(node.domain) ?? 1)?.traits ?? {};
  const place = new Map(graph.nodes.map((node, i) => [node, i]));
  return graph.nodes.flatMap((sum) => {
    const terms = sum.inputs.slice(0, Math.min(traitsOf(sum).sum?.terms ?? 0, sum.inputs.length));
    for (const [skip, x] of terms.entries())
      for (const [branch, f] of terms.entries()) {
        if (!x || !f || skip === branch || isStored(x) || isStored(f)) continue;
        const nodes = nodesBetween(x, f, place);
        const block = nodes && blockOf(graph, sum, skip, branch, nodes, traitsOf);
        if (block) return [block];
      }
    return [];
  });
}

/** Nodes on the ways from what makes `x` to `f`; undefined if there is none. */
function nodesBetween(x: Value, f: Value, place: ReadonlyMap<Node, number>): Set<Node> | undefined {
  const start = x.producer;
  const first = start ? (place.get(start) ?? -1) : -1;
  const depends = new Map<Node, boolean>();
  // Depth first, without recursion: deep networks have deep branches.
  const stack = f.producer ? [f.producer] : [];
  for (let node = stack.at(-1); node; node = stack.at(-1)) {
    if (depends.has(node)) {
      stack.pop();
      continue;
    }
    const makers = inputsOf(node).flatMap(({ producer }) =>
      producer && producer !== start && (place.get(producer) ?? -1) > first ? [producer] : [],
    );
    const open = makers.filter((maker) => !depends.has(maker));
    if (open.length > 0) {
      stack.push(...open);
      continue;
    }
    const reads = inputsOf(node).some((input) => input === x || (start !== undefined && input.producer === start));
    depends.set(node, reads || makers.some((maker) => depends.get(maker)));
    stack.pop();
  }
  const nodes = new Set([...depends].flatMap(([node, does]) => (does ? [node] : [])));
  return f.producer && nodes.has(f.producer) ? nodes : undefined;
}

/** What a node reads, its subgraphs' captures included. */
function inputsOf(node: Node): Value[] {
  const own = node.inputs.filter((input): input is Value => input !== undefined);
  const inner = [...node.subgraphs()].flatMap((body) => [...body.allNodes()].flatMap(({ inputs }) => inputs));
  return [...own, ...inner.filter((input): input is Value => input !== undefined)];
}

function blockOf(
  graph: Graph,
  sum: Node,
  skip: number,
  branch: number,
  nodes: ReadonlySet<Node>,
  traitsOf: (node: Node) => Traits,
): ResidualBlock | undefined {
  const layers = [...nodes].filter((node) => traitsOf(node).linear !== undefined);
  const learned = layers.filter(({ inputs }) => inputs.some((input) => input && isStored(input)));
  const first = graph.nodes.find((node) => learned.includes(node));
  // A mask, say, is stretched to the shape of the scores.
  if (!first || isStretched(sum.inputs[skip], sum.outputs[0])) return undefined;
  const isProduct = (node: Node): boolean =>
    traitsOf(node).linear === "attention" || node.inputs.slice(0, 2).every((input) => input && !isStored(input));
  const isAttention = layers.some(isProduct) || [...nodes].some((node) => attends(node, traitsOf));
  const isConvolution = learned.some((node) => traitsOf(node).linear?.startsWith("conv"));
  const weights = new Set(
    [...nodes].flatMap(({ inputs }) => inputs.filter((input): input is Value => input?.tensor !== undefined)),
  );
  return {
    name: nameOf(first),
    kind: isAttention ? "attention" : isConvolution ? "convolution" : "dense",
    sum,
    skip,
    branch,
    nodes,
    weights: [...weights].filter(({ uses }) => uses.every(({ node }) => nodes.has(node) || node === sum)),
    reason: reasonToStay(graph, sum, skip, nodes),
  };
}

/** Fused attention without weights of its own: it says that its heads are side by side. */
function attends(node: Node, traitsOf: (node: Node) => Traits): boolean {
  return traitsOf(node).attention === true;
}

/** True if the value is known to be broadcast in the sum. */
function isStretched(from: Value | undefined, to: Value | undefined): boolean {
  const [a, b] = [from?.shape, to?.shape];
  return !!a && !!b && (a.length !== b.length || a.some((dim, i) => typeof dim === "number" && dim !== b[i]));
}

function reasonToStay(graph: Graph, sum: Node, skip: number, nodes: ReadonlySet<Node>): string | undefined {
  const [from, to] = [sum.inputs[skip]?.shape, sum.outputs[0]?.shape];
  if (!from || !to || from.length !== to.length || from.some((dim, i) => dim === null || dim !== to[i]))
    return "what it is added to is not known to have the shape of the sum";
  const shown = graph.outputs.find(({ producer }) => producer && nodes.has(producer));
  return shown ? `it makes the model's output '${shown.name}'` : undefined;
}

/**
 * Blocks by themselves, or layers: an attention block with the blocks that follow it directly up to the next one. Blocks that
 * cannot go are in neither.
 */
export function residualUnits(blocks: readonly ResidualBlock[], by: "block" | "layer"): ResidualUnit[] {
  if (by === "block")
    return blocks.flatMap((block) => (block.reason === undefined ? [{ name: block.name, blocks: [block] }] : []));
  const layers: ResidualBlock[][] = [];
  for (const block of blocks) {
    const layer = layers.at(-1);
    const last = layer?.at(-1);
    if (layer?.[0]?.kind === "attention" && last && block.kind !== "attention" && follows(block, last))
      layer.push(block);
    else layers.push([block]);
  }
  return layers.flatMap((list) => {
    const [first] = list;
    return first && list.every(({ reason }) => reason === undefined) ? [{ name: first.name, blocks: list }] : [];
  });
}

/** True if the block adds to what the other one made, as it is or normalized. */
function follows(block: ResidualBlock, before: ResidualBlock): boolean {
  let node = block.sum.inputs[block.skip]?.producer;
  for (let steps = 0; node && steps < 12; steps++) {
    if (node === before.sum) return true;
    if (block.nodes.has(node)) return false;
    node = node.inputs.find((input) => input && !isStored(input))?.producer;
  }
  return false;
}
