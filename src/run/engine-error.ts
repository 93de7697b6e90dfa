/** Turns what ONNX Runtime says when it refuses or fails into a PareError that names the operator and the node. */
import { dtypeFromCode } from "../base/dtype.ts";
import { PareError, messageOf } from "../base/error.ts";

/** What the engine was doing. */
export type EnginePhase = "load" | "run";

/** Ways in which the engine names the node at fault; groups: operator, node name. */
const NODE_PATTERNS: readonly RegExp[] = [
  /while running (?<op>\w+) node\. Name:\s?'(?<node>[^']*)'/,
  /Node \((?<node>[^)]*)\) Op \((?<op>[^)]*)\)/,
  /Node:\s?(?<node>\S*) Op:\s?(?<op>\w+)/,
  /Could not find an implementation for (?<op>[\w.]+)\(\d+\) node with name '(?<node>[^']*)'/,
  /operator (?<op>\w+) in (?:the )?node \((?<node>[^)]*)\)/i,
  /In Node, \("(?<node>[^"]*)", (?<op>\w+),/,
  /No Op registered for (?<op>\w+)/,
  /Fatal error: (?:[\w.]*:)?(?<op>\w+)\(-?\d*\) is not a registered function\/op/,
  /initializer '?(?<node>[^' ]+)'?/i,
];

/** Which operator and node an engine message speaks of, as far as it says. */
export function nodeOfMessage(text: string): { readonly op?: string; readonly node?: string } {
  for (const pattern of NODE_PATTERNS) {
    const groups = pattern.exec(text)?.groups;
    if (!groups) continue;
    return {
      ...(groups["op"] ? { op: groups["op"] } : {}),
      ...(groups["node"] ? { node: groups["node"] } : {}),
    };
  }
  return {};
}

/** The engine's message without source paths, function signatures and the status prefix. */
export function cleanMessage(text: string): string {
  return text
    .replace(/\s+/g, " ")
    .replace(/\[ONNXRuntimeError\] : -?\d+ : \w+ : /g, "")
    .replace(/(?:Error|Exception) in (?:Napi|session)\S*: /g, "")
    .replace(/\/\S*onnxruntime\S*\.(?:cc|h|cpp):\d+ .*? was false\. ?/, "")
    .replace(/\/\S*onnxruntime\S*\.(?:cc|h|cpp):\d+ .*?\)(?: const)? (?=[A-Z'"])/, "")
    .replace(/Non-zero status code returned while running \w+ node\. Name:\s?'[^']*' Status Message: /, "")
    .replace(/^Load model from \S+ failed: ?/, "")
    .replace(/^Load model failed: ?/, "")
    .replace(/^Error: /, "")
    .trim()
    .replace(/\.$/, "");
}

/** A PareError for an engine failure. `what` names the model or input, as the user knows it. */
export function engineError(error: unknown, phase: EnginePhase, what?: string): PareError {
  if (error instanceof PareError) return error;
  const raw = messageOf(error);
  const absent = /no available backend found|Failed to load shared library|Failed to get a WebGPU adapter/.exec(raw);
  if (absent)
    return new PareError("provider-absent", "ONNX Runtime cannot use this execution provider here", {
      found: cleanMessage(raw).slice(0, 200),
      help: "Use --provider cpu, or install what the provider needs; 'pare doctor' lists what is here",
      cause: error,
    });
  if (/File doesn't exist|No such file/.test(raw) && phase === "load")
    return new PareError("missing-file", "There is no such file", { ...(what ? { where: what } : {}), cause: error });
  const type = /^Unsupported data type: (?<type>\S+)/.exec(raw)?.groups?.["type"];
  if (type !== undefined)
    return new PareError(
      "unsupported",
      `onnxruntime-node cannot pass ${dtypeFromCode(Number(type)) ?? type} arrays in or out of a model`,
      { ...(what ? { where: what } : {}), help: "Load it as a Model: pare then casts at its inputs and outputs" },
    );
  const { op, node } = nodeOfMessage(raw);
  const at = op && node ? `${op} node '${node}'` : op ? `operator ${op}` : node ? `'${node}'` : undefined;
  const where = [what, at].filter((part) => part !== undefined).join(", ");
  const detail = cleanMessage(raw).slice(0, 400);
  if (/bad_alloc|Failed to allocate|out of memory/i.test(raw))
    return new PareError("engine", "ONNX Runtime ran out of memory", {
      ...(where ? { where } : {}),
      help: "Use smaller batches or inputs",
      cause: error,
    });
  const said = detail === "" ? "no reason given" : detail;
  return new PareError(
    "engine",
    `ONNX Runtime ${phase === "load" ? "refused the model" : "failed while running"}: ${said}`,
    { ...(where ? { where } : {}), cause: error },
  );
}
