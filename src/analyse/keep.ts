/** The one vocabulary of exclusions: which nodes and weights a list of `--keep` patterns names. */
import picomatch from "picomatch";
import { PareError, nearest } from "../base/error.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";

/** What one pattern matched. */
export interface KeepReport {
  readonly pattern: string;
  /** Names of the matched nodes (a nameless node goes by its first output). */
  readonly nodes: readonly string[];
  /** Names of the matched initializers. */
  readonly weights: readonly string[];
}

export interface Keep {
  /** True if a pattern names the node or its operator. */
  node(node: Node): boolean;
  /** True if a pattern names the value. Operators and names of nodes are asked with {@link node}. */
  value(value: Value): boolean;
  /** What each pattern matches, in the order of the patterns. */
  readonly matches: readonly KeepReport[];
  /** One line for each pattern that matches nothing, with the nearest name. */
  readonly warnings: readonly string[];
}

interface Matcher {
  readonly pattern: string;
  name(name: string): boolean;
  operator(opType: string): boolean;
}

/** A node's name for people: its own, or that of its first output. */
export function nameOf(node: Node): string {
  return node.name || node.outputs[0]?.name || node.opType;
}

/** The pattern that names just this, whatever characters the name has, and that options can hold in lists of texts. */
export function exactPattern(name: string): string {
  if (/^(?!op:)\w[\w./:-]*$/.test(name)) return name;
  const escaped = (character: string): string => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
  return `/^${name.replace(/[^\w./:-]/gu, escaped).replaceAll(".", "\\.")}$/`;
}

/**
 * Patterns: an exact name of a node or weight; a glob (`*` also crosses `/`); `/regular expression/`; `op:Type`, where
 * Type may be a glob (`op:Reduce*`). Throws `bad-option` for a regular expression that does not parse.
 */
export function matchKeep(patterns: readonly string[], model: Model): Keep {
  const matchers = patterns.map(matcherOf);
  const matches = matchers.map((matcher) => reportOf(matcher, model));
  return {
    node: (node) => matchers.some((matcher) => matcher.name(nameOf(node)) || matcher.operator(node.opType)),
    value: (value) => matchers.some((matcher) => matcher.name(value.name)),
    matches,
    warnings: matches.flatMap(({ pattern, nodes, weights }) =>
      nodes.length + weights.length > 0 ? [] : [warningOf(pattern, model)],
    ),
  };
}

function matcherOf(pattern: string): Matcher {
  const never = (): boolean => false;
  if (pattern.startsWith("op:")) {
    const matches = globOf(pattern.slice(3));
    return { pattern, name: never, operator: matches };
  }
  if (pattern.length > 2 && pattern.startsWith("/") && pattern.endsWith("/")) {
    const expression = expressionOf(pattern);
    // A node may really be called "/layer/": its own name always matches.
    return { pattern, name: (name) => name === pattern || expression.test(name), operator: never };
  }
  return { pattern, name: globOf(pattern), operator: never };
}

function expressionOf(pattern: string): RegExp {
  try {
    return new RegExp(pattern.slice(1, -1), "u");
  } catch (cause) {
    throw new PareError("bad-option", "The regular expression does not parse", {
      where: `keep '${pattern}'`,
      help: "Write a glob such as *conv* for a plain search",
      cause,
    });
  }
}

/** Names contain `/`, `[`, `(` and so on: an exact match always counts, and a star crosses slashes. */
function globOf(pattern: string): (name: string) => boolean {
  const glob = /[*?{[]/.test(pattern) ? picomatch(pattern, { bash: true, dot: true, noextglob: true }) : undefined;
  return (name) => name === pattern || (glob?.(name) ?? false);
}

function reportOf(matcher: Matcher, model: Model): KeepReport {
  const nodes: string[] = [];
  const weights = new Set<string>();
  for (const node of model.graph.allNodes())
    if (matcher.name(nameOf(node)) || matcher.operator(node.opType)) nodes.push(nameOf(node));
  for (const graph of model.graph.allGraphs())
    for (const value of graph.initializers.values()) if (matcher.name(value.name)) weights.add(value.name);
  return { pattern: matcher.pattern, nodes, weights: [...weights] };
}

function warningOf(pattern: string, model: Model): string {
  const isOperator = pattern.startsWith("op:");
  const candidates = new Set<string>();
  for (const node of model.graph.allNodes()) candidates.add(isOperator ? node.opType : nameOf(node));
  if (!isOperator)
    for (const graph of model.graph.allGraphs()) for (const name of graph.initializers.keys()) candidates.add(name);
  const near = nearest(isOperator ? pattern.slice(3) : pattern, candidates);
  const hint = near === undefined ? "" : `; did you mean '${isOperator ? "op:" : ""}${near}'?`;
  return `keep '${pattern}' matches nothing in this model${hint}`;
}
