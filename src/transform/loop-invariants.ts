/** Constants that a loop carries unchanged: read inside of it directly, as exporters that pass weights in would have done better. */
import type { Attribute } from "../ir/attribute.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { constantTensor } from "./constants.ts";

/**
 * Takes constants out of what a Loop carries where its body hands them on as they are: the body then captures them, and what
 * reads them after the loop reads the constant. Inner loops first, so that a constant leaves all that are nested. Returns their
 * names.
 */
export function captureInvariants(model: Model): string[] {
  const names = new Set<string>();
  const loops = [...model.graph.allNodes()].filter(({ opType, domain }) => opType === "Loop" && domain === "");
  for (const loop of loops.reverse()) {
    const attribute: Attribute | undefined = loop.attributes.get("body");
    if (attribute?.type !== "graph") continue;
    for (let i = loop.inputs.length - 3; i >= 0; i--) {
      const name = capture(model, loop, attribute.value, i);
      if (name !== undefined) names.add(name);
    }
  }
  return [...names];
}

/** Inputs are (trips, condition, carried…), those of the body (iteration, condition, carried…), its outputs (condition, carried…, scanned…). */
function capture(model: Model, loop: Node, body: Graph, i: number): string | undefined {
  const [first, inside, after] = [loop.inputs[i + 2], body.inputs[i + 2], loop.outputs[i]];
  if (!first || !inside || body.outputs[i + 1] !== inside || !constantTensor(model, first)) return undefined;
  const returned = [...body.allGraphs()].flatMap(({ outputs }) => outputs).filter((value) => value === inside);
  if (returned.length > 1 || (after && loop.graph && leaves(loop.graph, after))) return undefined;
  inside.replaceUses(first);
  after?.replaceUses(first);
  body.inputs.splice(i + 2, 1);
  body.outputs.splice(i + 1, 1);
  if (after) loop.outputs.splice(i, 1);
  const rest = loop.inputs.toSpliced(i + 2, 1);
  loop.detach();
  for (const [index, value] of rest.entries()) loop.setInput(index, value);
  return first.name;
}

/** True if the graph, or one inside of it that captures the value, returns it. */
function leaves(graph: Graph, value: Value): boolean {
  return [...graph.allGraphs()].some((each) => each.isOutput(value));
}
