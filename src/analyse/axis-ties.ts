/** Which axes of a model's values are one axis: names of the operators' terms joined over the whole graph, with what freezes them. */
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { type Axis, type AxesTerms, axesOf, partsOfMerge } from "../ops/axes.ts";
import { specOf } from "../ops/registry.ts";
import type { Carried, OpSpec } from "../ops/spec.ts";
import type { Dim } from "../base/shape.ts";
import { nameOf } from "./keep.ts";
import { inferShapes } from "./shapes.ts";

/** An axis that is made of others: one after the other, or one inside the other (outermost first). */
export interface Compound {
  readonly kind: "concat" | "merge";
  readonly whole: number;
  /** An id, or the size of a part that is tied to nothing. */
  readonly parts: readonly (number | { readonly size: number })[];
  readonly where: string;
}

/** Ids of axes, joined. Ids are those of a value's axis, or of a name within one operator that no value has by itself. */
export class AxisTies {
  readonly #parent: number[] = [];
  readonly #size: (number | undefined)[] = [];
  readonly #base = new Map<Value, number>();
  readonly #members = new Map<number, { value: Value; axis: number }>();
  readonly compounds: Compound[] = [];
  /** By id, why no position may go. */
  readonly #frozen = new Map<number, string>();
  /** By id, the model's input or output that has it. */
  readonly #ports = new Map<number, string>();
  /** By id, what computes its positions together. */
  readonly #mixed = new Map<number, string>();
  /** Axes along which a product of two computed values runs side by side: heads of attention. */
  readonly #heads = new Set<number>();

  /** The id of a value's axis. */
  of(value: Value, axis: number): number {
    let base = this.#base.get(value);
    if (base === undefined) {
      base = this.#parent.length;
      this.#base.set(value, base);
      for (const [i, dim] of (value.shape ?? []).entries()) {
        const id = this.#add(dim);
        this.#members.set(id, { value, axis: i });
        if (typeof dim !== "number") this.freeze(id, `its size is not fixed (${dim ?? "unknown"})`);
      }
    }
    return base + axis;
  }

  #add(dim: Dim | undefined): number {
    this.#parent.push(this.#parent.length);
    this.#size.push(typeof dim === "number" ? dim : undefined);
    return this.#parent.length - 1;
  }

  /** A name that one operator uses, of known size or none. */
  virtual(size: number | undefined): number {
    return this.#add(size);
  }

  root(id: number): number {
    let at = id;
    while (this.#parent[at] !== at) {
      this.#parent[at] = this.#parent[this.#parent[at] as number] as number;
      at = this.#parent[at] as number;
    }
    return at;
  }

  /** Joins two axes of equal size; axes of other sizes are frozen instead, which keeps what follows true. */
  join(a: number, b: number, where: string): void {
    const [x, y] = [this.root(a), this.root(b)];
    if (x === y) return;
    const [p, q] = [this.#size[x], this.#size[y]];
    if (p !== undefined && q !== undefined && p !== q) {
      for (const id of [x, y]) this.freeze(id, `${where} ties sizes ${p} and ${q}`);
      return;
    }
    const [low, high] = x < y ? [x, y] : [y, x];
    this.#parent[high] = low;
    this.#size[low] = p ?? q;
  }

  freeze(id: number, reason: string): void {
    if (!this.#frozen.has(id)) this.#frozen.set(id, reason);
  }

  /** An axis of the model's inputs or outputs, which callers know. */
  freezePort(id: number, reason: string): void {
    if (!this.#ports.has(id)) this.#ports.set(id, reason);
  }

  mix(id: number, reason: string): void {
    if (!this.#mixed.has(id)) this.#mixed.set(id, reason);
  }

  head(id: number): void {
    this.#heads.add(id);
  }

  /** An axis of heads that is made of others (queries that share keys, heads of a batch) makes heads of them. */
  spreadHeads(): void {
    const merges = this.compounds.filter(({ kind }) => kind === "merge");
    for (let before = -1; before !== this.#heads.size; ) {
      before = this.#heads.size;
      const roots = new Set([...this.#heads].map((id) => this.root(id)));
      for (const { whole, parts } of merges)
        if (roots.has(this.root(whole)))
          for (const part of parts) if (typeof part === "number" && !roots.has(this.root(part))) this.head(part);
    }
  }

  size(id: number): number | undefined {
    return this.#size[this.root(id)];
  }

  /**
   * Facts of each class, by its root: call it when all is joined. With `caches` heads that inputs and outputs of the model have
   * (keys and values that a caller keeps) are not frozen by that.
   */
  classes(options: { readonly caches?: boolean | undefined } = {}): Map<number, AxisClass> {
    const classes = new Map<number, AxisClass>();
    const heads = new Set([...this.#heads].map((id) => this.root(id)));
    for (let id = 0; id < this.#parent.length; id++) {
      const root = this.root(id);
      let found = classes.get(root);
      if (!found) {
        found = {
          root,
          size: this.#size[root],
          members: [],
          frozen: undefined,
          mixed: undefined,
          isHeads: heads.has(root),
        };
        classes.set(root, found);
      }
      const member = this.#members.get(id);
      if (member) found.members.push(member);
      if (!options.caches || !heads.has(root)) found.frozen ??= this.#ports.get(id);
      found.frozen ??= this.#frozen.get(id);
      found.mixed ??= this.#mixed.get(id);
    }
    return classes;
  }

  /** The id of a value's axis, if the value was seen. */
  find(value: Value, axis: number): number | undefined {
    const base = this.#base.get(value);
    return base === undefined ? undefined : base + axis;
  }
}

/** Axes that are one axis. */
export interface AxisClass {
  readonly root: number;
  readonly size: number | undefined;
  readonly members: { readonly value: Value; readonly axis: number }[];
  frozen: string | undefined;
  mixed: string | undefined;
  readonly isHeads: boolean;
}

/** Joins the axes of all values of the model and its subgraphs. Writes inferred shapes on the model's values. */
export function tieAxes(model: Model): AxisTies {
  inferShapes(model);
  const ties = new AxisTies();
  const freezePorts = (values: readonly Value[], what: string): void => {
    for (const value of values)
      for (const axis of value.shape?.keys() ?? []) ties.freezePort(ties.of(value, axis), `'${value.name}': ${what}`);
  };
  freezePorts(
    model.graph.inputs.filter((input) => input.tensor === undefined),
    "the model's input",
  );
  freezePorts(model.graph.outputs, "the model's output");
  const walk = (graph: Graph): void => {
    for (const node of graph.nodes) {
      tieNode(ties, node, model);
      for (const body of node.subgraphs()) walk(body);
    }
  };
  walk(model.graph);
  ties.spreadHeads();
  return ties;
}

function freezeAll(ties: AxisTies, values: Iterable<Value | undefined>, reason: string): void {
  for (const value of values)
    for (const axis of value?.shape?.keys() ?? [])
      ties.freeze(ties.of(value as Value, axis), `'${value?.name}': ${reason}`);
}

function tieNode(ties: AxisTies, node: Node, model: Model): void {
  const where = `${node.opType} '${nameOf(node)}'`;
  const bodies = [...node.subgraphs()];
  if (bodies.length > 0) {
    tieBodies(ties, node, bodies, where, specOf(node, model.opsets.get(node.domain) ?? 1)?.carries);
    return;
  }
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  const terms = spec && axesOf(node, spec);
  if (!terms) {
    const isLocal = model.functions.some(({ name, domain }) => name === node.opType && domain === node.domain);
    const why = spec
      ? "does not say which of its axes are tied"
      : isLocal
        ? "is a function of the model, whose inside is not followed"
        : "is not an operator that pare knows";
    freezeAll(ties, [...node.inputs, ...node.outputs], `${where} ${why}`);
    return;
  }
  tieTerms(ties, node, terms, where, spec.traits?.linear !== undefined);
}

/**
 * Results of branches are those of the condition; what a loop carries is one value before, in and behind it. Values that bodies
 * capture stay as free as they were.
 */
function tieBodies(
  ties: AxisTies,
  node: Node,
  bodies: readonly Graph[],
  where: string,
  carries: OpSpec["carries"],
): void {
  const isCondition = bodies.every((body) => body.inputs.length === 0);
  if (!isCondition || carries) {
    const [body] = bodies;
    const carried = body && bodies.length === 1 ? (carries?.(node) ?? []) : [];
    const tied = new Set(carried.flatMap((each) => tieCarried(ties, node, body as Graph, each, where)));
    const all = [...node.inputs, ...node.outputs, ...bodies.flatMap(({ inputs, outputs }) => [...inputs, ...outputs])];
    freezeAll(
      ties,
      all.filter((value) => value && !tied.has(value)),
      `${where} carries it from turn to turn`,
    );
    return;
  }
  freezeAll(ties, node.inputs, `${where} decides by it`);
  for (const [i, output] of node.outputs.entries())
    for (const body of bodies) {
      const result = body.outputs[i];
      if (result?.shape && result.shape.length === output.shape?.length)
        for (const axis of result.shape.keys()) ties.join(ties.of(output, axis), ties.of(result, axis), where);
      else freezeAll(ties, [output, result], `the branches of ${where} differ`);
    }
}

/** Joins the axes of one value on its way through a loop; returns the values that were joined, none where ranks differ. */
function tieCarried(ties: AxisTies, node: Node, body: Graph, way: Carried, where: string): Value[] {
  const at = (list: readonly (Value | undefined)[], index: number | undefined): Value | undefined =>
    index === undefined ? undefined : list[index];
  const outer = [at(node.inputs, way.input), at(node.outputs, way.output)];
  const inner = [at(body.inputs, way.bodyInput), at(body.outputs, way.bodyOutput)];
  const extra = way.axis === undefined ? 0 : 1;
  const values = [...outer, ...inner].filter((value): value is Value => value !== undefined && value.name !== "");
  const rank = (value: Value): number => (value.shape?.length ?? Number.NaN) - (outer.includes(value) ? extra : 0);
  const [first] = values;
  if (!first || values.some((value) => rank(value) !== rank(first))) return [];
  const placeIn = (value: Value, axis: number): number =>
    outer.includes(value) && way.axis !== undefined && axis >= way.axis ? axis + 1 : axis;
  for (const value of values) {
    for (let axis = 0; axis < rank(first); axis++)
      ties.join(ties.of(first, placeIn(first, axis)), ties.of(value, placeIn(value, axis)), where);
    if (outer.includes(value) && way.axis !== undefined)
      ties.freeze(ties.of(value, way.axis), `${where} goes along it`);
  }
  return values;
}

/** One occurrence of an axis in a term. */
interface Place {
  readonly value: Value;
  readonly axis: number;
  readonly term: Axis;
  readonly side: "input" | "output";
  readonly index: number;
}

function tieTerms(ties: AxisTies, node: Node, terms: AxesTerms, where: string, isLinear: boolean): void {
  const places: Place[] = [];
  const collect = (values: readonly (Value | undefined)[], side: "input" | "output"): void => {
    for (const [index, value] of values.entries()) {
      if (!value?.shape || (value.name === "" && side === "output")) continue;
      const term = (side === "input" ? terms.inputs : terms.outputs)[index];
      if (value.shape.length > 0 && term?.length !== value.shape.length) {
        // Sizes and other settings that the notation does not cover.
        freezeAll(ties, [value], `${where} reads it as a whole`);
        continue;
      }
      for (const axis of value.shape.keys()) places.push({ value, axis, term: term?.[axis] as Axis, side, index });
    }
  };
  collect(node.inputs, "input");
  collect(node.outputs, "output");
  const sizes = solveSizes(places, terms.sizes);
  const ids = new Map<string, number>();
  const idOf = (name: string): number => {
    const known = ids.get(name);
    if (known !== undefined) return known;
    const merged = partsOfMerge(name);
    const size = merged?.map((part) => sizes.get(part) ?? Number.NaN).reduce((a, b) => a * b, 1) ?? sizes.get(name);
    const id = ties.virtual(Number.isNaN(size) ? undefined : size);
    ids.set(name, id);
    if (merged) ties.compounds.push({ kind: "merge", whole: id, parts: merged.map(idOf), where });
    return id;
  };
  const uses = new Map<string, Place[]>();
  for (const place of places) {
    const { term } = place;
    const id = ties.of(place.value, place.axis);
    if (term.kind === "free" && place.value.shape?.[place.axis] !== 1) ties.freeze(id, `${where} does not follow it`);
    const names =
      term.kind === "name"
        ? [term.name]
        : "parts" in term
          ? term.parts.flatMap((part) => partsOfMerge(part) ?? part)
          : [];
    for (const name of new Set(names.filter((each) => !isNumber(each))))
      uses.set(name, [...(uses.get(name) ?? []), place]);
    if (term.kind === "name") ties.join(idOf(term.name), id, where);
    else if (term.kind === "merge" || term.kind === "concat") {
      const parts = term.parts.map((part) => (isNumber(part) ? { size: Number(part) } : idOf(part)));
      ties.compounds.push({ kind: term.kind, whole: id, parts, where });
    }
  }
  for (const [name, all] of uses) {
    const mark = terms.marks.get(name);
    if (mark === "heads") ties.head(idOf(name));
    if (mark === "fixed") ties.freeze(idOf(name), `${where} needs all of it`);
    else if (mark === "mixed") ties.mix(idOf(name), `${where} computes with all of it`);
    else if (mark === undefined && all.length === 1 && all[0]?.term.kind === "name")
      ties.freeze(idOf(name), `${where} ${all[0].side === "input" ? "takes it in as a whole" : "makes it as a whole"}`);
  }
  if (isLinear) markHeads(ties, uses, idOf);
}

function isNumber(part: string): boolean {
  return /^\d+$/.test(part);
}

/** Of a product of two computed values, the axes that both and the result have, where another is summed over: side by side. */
function markHeads(ties: AxisTies, uses: ReadonlyMap<string, readonly Place[]>, idOf: (name: string) => number): void {
  const isComputed = ({ side, value }: Place): boolean => side === "input" && value.tensor === undefined;
  const both = (all: readonly Place[]): boolean => new Set(all.filter(isComputed).map(({ index }) => index)).size > 1;
  const comesOut = (all: readonly Place[]): boolean => all.some(({ side }) => side === "output");
  const entries = [...uses];
  if (!entries.some(([, all]) => both(all) && !comesOut(all))) return;
  for (const [name, all] of entries) if (both(all) && comesOut(all)) ties.head(idOf(name));
}

/** Sizes of names: those of axes, those given, and the ones that are left of a compound when all its other parts are known. */
function solveSizes(places: readonly Place[], given: ReadonlyMap<string, number>): Map<string, number> {
  const sizes = new Map(given);
  for (const { term, value, axis } of places) {
    const size = value.shape?.[axis];
    if (term.kind === "name" && typeof size === "number") sizes.set(term.name, size);
  }
  for (let before = -1; before !== sizes.size; ) {
    before = sizes.size;
    for (const { term, value, axis } of places) {
      const total = value.shape?.[axis];
      if ((term.kind !== "merge" && term.kind !== "concat") || typeof total !== "number") continue;
      const unknown = term.parts.filter((part) => !isNumber(part) && !sizes.has(part));
      const [only] = unknown;
      if (unknown.length !== 1 || only === undefined) continue;
      const known = term.parts.filter((part) => part !== only).map((part) => sizes.get(part) ?? Number(part));
      const rest =
        term.kind === "merge" ? total / known.reduce((a, b) => a * b, 1) : total - known.reduce((a, b) => a + b, 0);
      if (Number.isInteger(rest) && rest >= 0) sizes.set(only, rest);
    }
  }
  return sizes;
}
