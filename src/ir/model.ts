/** A model: a graph with its opset imports, local functions and metadata. */
import type { Attribute } from "./attribute.ts";
import { Graph } from "./graph.ts";

/** A model-local function; its body's inputs and outputs are the formal parameters. */
export interface FunctionBody {
  readonly name: string;
  readonly domain: string;
  readonly overload: string;
  readonly opsets: Map<string, number>;
  /** Attributes that a call must give. */
  readonly attributes: readonly string[];
  /** Attributes that a call may give, with their defaults. */
  readonly defaults?: ReadonlyMap<string, Attribute>;
  readonly body: Graph;
  readonly original?: unknown;
}

export class Model {
  graph: Graph;
  irVersion: number;
  /** Opset version by domain; "" is the standard domain. */
  readonly opsets: Map<string, number>;
  readonly functions: FunctionBody[] = [];
  producerName = "";
  producerVersion = "";
  domain = "";
  modelVersion = 0n;
  docString = "";
  /** `metadata_props`, in file order. */
  readonly metadata: Map<string, string> = new Map();
  /** Unknown fields of the file, kept for saving. */
  original: unknown;
  /** Where it was read from, for messages and for resolving external data; undefined when built in memory. */
  path: string | undefined;

  constructor(graph: Graph = new Graph(), opset = 21, irVersion = 10) {
    this.graph = graph;
    this.irVersion = irVersion;
    this.opsets = new Map([["", opset]]);
  }

  /** Version of the standard operator set. */
  get opset(): number {
    return this.opsets.get("") ?? 1;
  }

  /** Bytes of all initializers, those of subgraphs included. */
  get initializerBytes(): number {
    let bytes = 0;
    for (const graph of this.graph.allGraphs())
      for (const { tensor } of graph.initializers.values()) bytes += tensor?.byteLength ?? 0;
    return bytes;
  }
}
