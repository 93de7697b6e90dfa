/** Operator cases as data: `tests/ops/<Op>.json` holds a list of calls of one operator; here they become models. */
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type * as ort from "onnxruntime-node";
import { type DType, type TypedData, arrayTypeOf, byteLengthOf, dtypeBits } from "../../src/base/dtype.ts";
import { Rng } from "../../src/base/rng.ts";
import { elementCount } from "../../src/base/shape.ts";
import { type Attribute, toAttribute } from "../../src/ir/attribute.ts";
import { Graph, Node, Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { engineTensor, randomData } from "./engine.ts";

/** One input of a case. */
export interface CaseInput {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Elements; random without. */
  readonly values?: readonly number[];
  /** Random floats in [low, high), or integers; default [-1, 1) and [0, limit). */
  readonly range?: readonly [number, number];
  /** Random integers are below it; default 2. */
  readonly limit?: number;
  /** An initializer instead of an input that is fed. */
  readonly constant?: boolean;
}

type CaseTensor = { readonly tensor: Pick<CaseInput, "dtype" | "shape" | "values"> };
type CaseAttribute =
  | number
  | string
  | readonly number[]
  | { readonly float: number }
  | { readonly floats: readonly number[] }
  | { readonly strings: readonly string[] }
  | CaseTensor;

/** One call of an operator. Numbers without fraction are `int` attributes: `{ "float": 1 }` says otherwise. */
export interface OpCase {
  readonly op: string;
  readonly domain?: string;
  /** Of the standard domain. */
  readonly opset: number;
  readonly attributes?: Readonly<Record<string, CaseAttribute>>;
  /** null: an optional input that is absent. */
  readonly inputs: readonly (CaseInput | null)[];
  /** Default 1. */
  readonly outputs?: number;
  readonly note: string;
}

export interface BuiltCase {
  readonly model: Model;
  readonly node: Node;
  readonly feeds: Readonly<Record<string, ort.Tensor>>;
}

const folder = join(dirname(fileURLToPath(import.meta.url)), "..", "ops");

/** Every case of every file, files in alphabetical order. */
export function allCases(): OpCase[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith(".json"))
    .sort()
    .flatMap((name) => JSON.parse(readFileSync(join(folder, name), "utf8")) as OpCase[]);
}

/** The case as a model of one node, with what to feed it. Every random element follows from the seed. */
export function buildCase(opCase: OpCase, seed = 1): BuiltCase {
  const graph = new Graph("case");
  const rng = new Rng(seed);
  const feeds: Record<string, ort.Tensor> = {};
  const inputs = opCase.inputs.map((input, i): Value | undefined => {
    if (!input) return undefined;
    const name = `x${i}`;
    const data = input.dtype === "string" ? randomData("string", input.shape, rng) : elementsOf(input, rng.fork(name));
    if (input.constant && !Array.isArray(data))
      return graph.addInitializer(name, Tensor.of(input.dtype, input.shape, data));
    const value = new Value(graph.uniqueName(name), input.dtype, input.shape);
    graph.inputs.push(value);
    feeds[value.name] = engineTensor(input.dtype, input.shape, data);
    return value;
  });
  const outputs = Array.from({ length: opCase.outputs ?? 1 }, (_, i) => new Value(`y${i}`));
  const attributes = Object.entries(opCase.attributes ?? {}).map(
    ([name, value]) => [name, attributeOf(value)] as const,
  );
  const node = new Node({ opType: opCase.op, domain: opCase.domain ?? "", name: "node", inputs, outputs, attributes });
  graph.add(node);
  graph.outputs.push(...outputs);
  const model = new Model(graph, opCase.opset, 10);
  if (opCase.domain) model.opsets.set(opCase.domain, 1);
  return { model, node, feeds };
}

function elementsOf(input: Pick<CaseInput, "dtype" | "shape" | "values" | "range" | "limit">, rng: Rng): TypedData {
  const count = elementCount(input.shape);
  const { dtype, values, range } = input;
  if (dtypeBits(dtype) < 8) return Uint8Array.from({ length: byteLengthOf(dtype, count) }, () => rng.below(256));
  const Type = arrayTypeOf(dtype);
  const fill = (at: (i: number) => number): TypedData => {
    const data = new Type(new ArrayBuffer(count * Type.BYTES_PER_ELEMENT), 0, count);
    const big = data instanceof BigInt64Array || data instanceof BigUint64Array;
    for (let i = 0; i < count; i++) data[i] = big ? clampBig(at(i)) : at(i);
    return data;
  };
  if (values) return fill((i) => values[i] ?? 0);
  if (!range) return randomData(dtype, input.shape, rng, input.limit ?? 2) as TypedData;
  return fill(() => (dtype.startsWith("float") ? rng.uniform(...range) : range[0] + rng.below(range[1] - range[0])));
}

/** The largest int64 does not survive JSON's doubles. */
function clampBig(value: number): bigint {
  if (value >= 2 ** 63) return 2n ** 63n - 1n;
  return value <= -(2 ** 63) ? -(2n ** 63n) + 1n : BigInt(value);
}

function attributeOf(value: CaseAttribute): Attribute {
  if (typeof value === "number" || typeof value === "string" || Array.isArray(value))
    return toAttribute(value as number | string | readonly number[]);
  const object = value as Exclude<CaseAttribute, number | string | readonly number[]>;
  if ("float" in object) return { type: "float", value: object.float };
  if ("floats" in object) return { type: "floats", value: object.floats };
  if ("strings" in object)
    return { type: "strings", value: object.strings.map((text) => new TextEncoder().encode(text)) };
  const { dtype, shape } = object.tensor;
  return { type: "tensor", value: Tensor.of(dtype, shape, elementsOf(object.tensor, new Rng(1))) };
}
