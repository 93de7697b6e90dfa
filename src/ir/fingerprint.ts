/** A model's fingerprint: the same for the same graph and weights, however the file is laid out. */
import type { Attribute } from "./attribute.ts";
import type { Graph, Node } from "./graph.ts";
import type { Model } from "./model.ts";
import type { Tensor } from "./tensor.ts";

/** Tensors above this are sampled, so that a model larger than memory is fingerprinted in bounded time. */
const WHOLE_BYTES = 16 * 2 ** 20;
const SAMPLE_BYTES = 256 * 2 ** 10;
const SAMPLES = 8;

/**
 * SHA-256, as lower-case hex, over opsets, nodes, attributes and tensors (name, dtype, shape, contents). Of a tensor
 * above 16 MiB eight pieces of 256 KiB, evenly spread from first to last, stand for the contents.
 */
export async function fingerprint(model: Model): Promise<string> {
  const parts: string[] = [JSON.stringify([...model.opsets].sort())];
  for (const graph of [model.graph, ...model.functions.map((body) => body.body)]) await describeGraph(graph, parts);
  return sha256(new TextEncoder().encode(parts.join("\n")));
}

async function describeGraph(graph: Graph, parts: string[]): Promise<void> {
  parts.push(
    `graph(${graph.inputs.map((value) => value.name).join()}) -> (${graph.outputs.map((value) => value.name).join()})`,
  );
  for (const [name, value] of graph.initializers)
    if (value.tensor) parts.push(`${name} = ${await describeTensor(value.tensor)}`);
  for (const node of graph.nodes) await describeNode(node, parts);
}

async function describeNode(node: Node, parts: string[]): Promise<void> {
  const inputs = node.inputs.map((value) => value?.name ?? "").join();
  parts.push(`${node.outputs.map((value) => value.name).join()} = ${node.domain}.${node.opType}(${inputs})`);
  for (const [name, attribute] of node.attributes) await describeAttribute(name, attribute, parts);
}

async function describeAttribute(name: string, attribute: Attribute, parts: string[]): Promise<void> {
  switch (attribute.type) {
    case "graph":
      return describeGraph(attribute.value, parts);
    case "graphs":
      for (const graph of attribute.value) await describeGraph(graph, parts);
      return;
    case "tensor":
      parts.push(`${name}: ${await describeTensor(attribute.value)}`);
      return;
    case "tensors":
      for (const tensor of attribute.value) parts.push(`${name}: ${await describeTensor(tensor)}`);
      return;
    case "other":
      parts.push(`${name}: other`);
      return;
    default:
      parts.push(
        `${name}: ${JSON.stringify(attribute.value, (_, value: unknown) => (typeof value === "bigint" ? `${value}n` : value))}`,
      );
  }
}

async function describeTensor(tensor: Tensor): Promise<string> {
  const head = `${tensor.dtype}[${tensor.shape.join()}]`;
  if (tensor.strings) return `${head} ${(await Promise.all(tensor.strings.map(sha256))).join()}`;
  const { byteLength } = tensor.source;
  if (byteLength <= WHOLE_BYTES) return `${head} ${await sha256(await tensor.bytes())}`;
  const hashes: string[] = [];
  for (let i = 0; i < SAMPLES; i++) {
    const offset = Math.floor(((byteLength - SAMPLE_BYTES) * i) / (SAMPLES - 1));
    hashes.push(await sha256(await tensor.source.read(offset, SAMPLE_BYTES)));
  }
  return `${head} ~${hashes.join()}`;
}

async function sha256(bytes: Uint8Array): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
