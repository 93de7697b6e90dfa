/**
 * A simulation for study, not a compression: products read weights and activations as a narrower float would hold them.
 *
 * Helps: knowing what TF32, bfloat16, 8-, 6- or 4-bit floats would cost in accuracy before there is hardware for them.
 * Hurts: everything else. Nothing becomes smaller or faster: weights stay float32, activations are rounded by extra operators, and
 * the file is marked (`metadata_props` "pare.simulation").
 * Needs: nothing.
 * Cost: one pass over the weights; some elementwise operators in front of each product at run time.
 * Maths: x̂ = s·round_{e,m}(x/s) with e exponent and m mantissa bits, half to even (TF32 activations: either neighbour at a tie);
 * s = max|x| / largest of each tensor for formats of 8 bits and fewer, else 1.
 * Products and sums are those of float32, as tensor cores add them up.
 * Paper: Micikevicius et al. 2022, "FP8 Formats for Deep Learning" (arXiv 2209.05433); Rouhani et al. 2023 (arXiv 2310.10537).
 */
import { z } from "zod";
import { nameOf } from "../../analyse/keep.ts";
import { dtypeCode } from "../../base/dtype.ts";
import { PareError, throwIfAborted } from "../../base/error.ts";
import { SMALL_FLOATS } from "../../base/float8.ts";
import {
  BFLOAT16,
  FLOAT16,
  type Minifloat,
  decodeMinifloat,
  encodeMinifloat,
  largestFinite,
} from "../../base/minifloat.ts";
import { Builder } from "../../ir/builder.ts";
import type { Graph, Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { specOf } from "../../ops/registry.ts";
import { weightSites } from "../../transform/weight-sites.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { type TechniqueFunction, defineTechnique } from "../technique.ts";

/** The mark of a simulated model in its metadata. */
export const SIMULATION_KEY = "pare.simulation";

interface Simulated {
  readonly float: Minifloat;
  /** Element type that a Cast rounds to, and the opset of that Cast. */
  readonly native?: { readonly dtype: "float16" | "bfloat16" | "float8e4m3fn" | "float8e5m2"; readonly opset: number };
  /** Values are divided by a scale that brings the largest to the end of the range. */
  readonly scaled: boolean;
}

/** NVIDIA's TF32 has float32's exponents and float16's mantissa; the rest is OCP 8-bit Floating Point and Microscaling 1.0. */
const FLOATS = {
  tf32: { float: { exponentBits: 8, mantissaBits: 10, bias: 127, special: "ieee" }, scaled: false },
  bf16: { float: BFLOAT16, native: { dtype: "bfloat16", opset: 13 }, scaled: false },
  fp16: { float: FLOAT16, native: { dtype: "float16", opset: 9 }, scaled: false },
  "fp8-e4m3": { float: SMALL_FLOATS.float8e4m3fn, native: { dtype: "float8e4m3fn", opset: 19 }, scaled: true },
  "fp8-e5m2": { float: SMALL_FLOATS.float8e5m2, native: { dtype: "float8e5m2", opset: 19 }, scaled: true },
  "fp6-e3m2": { float: { exponentBits: 3, mantissaBits: 2, bias: 3, special: "finite" }, scaled: true },
  "fp6-e2m3": { float: { exponentBits: 2, mantissaBits: 3, bias: 1, special: "finite" }, scaled: true },
  "fp4-e2m1": { float: SMALL_FLOATS.float4e2m1, scaled: true },
} as const satisfies Readonly<Record<string, Simulated>>;

const NAMES = Object.keys(FLOATS) as (keyof typeof FLOATS)[];

export const simulate: TechniqueFunction = defineTechnique({
  name: "simulate",
  family: "quantize",
  summary: "Simulate narrow floats for study; nothing gets smaller.",
  needs: [],
  options: z.object({
    as: z.enum(NAMES).default("tf32").describe("the float that products read"),
    weights: z.boolean().default(true).describe("round weights"),
    activations: z.boolean().default(true).describe("round what weights are multiplied with, at run time"),
    keep: keepOption,
  }),
  async run(model, options, context) {
    const { journal } = context;
    const simulated: Simulated = FLOATS[options.as];
    const { native } = simulated;
    if (options.activations && native && model.opset < native.opset)
      throw new PareError("unsupported", `Rounding activations to ${options.as} needs opset ${native.opset}`, {
        found: `opset ${model.opset}`,
        help: "Raise it with 'pare convert --opset', or use --activations false",
      });
    prepareConstants(model, journal);
    const keep = keepOf(options.keep, model, journal);
    const inputs = new Map<Value, Node[]>();
    for (const { value, tensor, uses } of weightSites(model)) {
      throwIfAborted(context.signal);
      const layers = uses.map(({ node }) => nameOf(node)).join(", ");
      const why =
        keep.value(value) || uses.some(({ node }) => keep.node(node))
          ? "kept"
          : tensor.dtype === "float32"
            ? undefined
            : `its elements are ${tensor.dtype}`;
      if (why) {
        journal.skip(value.name, why);
        continue;
      }
      if (options.weights) {
        const { rounded, error } = await roundWeight(tensor, simulated);
        value.tensor = rounded;
        journal.change({
          what: value.name,
          how: `weights of ${layers} rounded to ${options.as}, stored as float32`,
          error,
        });
      }
      for (const { node, input, spec } of uses)
        if (spec.traits?.linear !== undefined)
          for (const [index, other] of node.inputs.entries())
            if (index !== input && index < 2 && other && !other.tensor)
              inputs.set(other, [...(inputs.get(other) ?? []), node]);
    }
    if (options.activations) {
      for (const node of dynamicProducts(model))
        if (!keep.node(node))
          for (const input of node.inputs.slice(0, 2))
            if (input && !input.tensor) inputs.set(input, [...(inputs.get(input) ?? []), node]);
      for (const [value, readers] of inputs) {
        const own = [...new Set(readers)];
        roundValue(value, own, simulated);
        journal.change({ what: value.name, how: `rounded to ${options.as} for ${own.map(nameOf).join(", ")}` });
      }
    }
    const parts = [options.weights ? "weights" : "", options.activations ? "activations" : ""].filter(Boolean);
    model.metadata.set(SIMULATION_KEY, `${options.as} of ${parts.join(" and ")}`);
    journal.note(`A simulation of ${options.as} for study: the model is neither smaller nor faster.`);
    return model;
  },
});

/** Products of two computed values: attention's, mostly. */
function* dynamicProducts(model: Model): Generator<Node> {
  for (const node of model.graph.allNodes()) {
    const linear = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits?.linear;
    if (linear === "matmul" && node.inputs.slice(0, 2).every((input) => input && !input.tensor)) yield node;
  }
}

/** The weight as the format holds it. */
async function roundWeight(tensor: Tensor, { float, scaled }: Simulated): Promise<{ rounded: Tensor; error: number }> {
  const w = (await tensor.data()) as Float32Array;
  const peak = scaled ? w.reduce((most, x) => Math.max(most, Math.abs(x)), 0) : 0;
  const s = Math.fround(peak / largestFinite(float)) || 1;
  const rounded = w.map((x) => decodeMinifloat(float, encodeMinifloat(float, Math.fround(x / s), true)) * s);
  let [squaredError, squaredNorm] = [0, 0];
  for (const [i, x] of w.entries()) {
    squaredError += ((rounded[i] as number) - x) ** 2;
    squaredNorm += x * x;
  }
  const error = squaredNorm > 0 ? Math.sqrt(squaredError / squaredNorm) : 0;
  return { rounded: Tensor.float32(tensor.shape, rounded), error };
}

/** Puts the rounding of a value in front of those that read it as a factor. */
function roundValue(value: Value, readers: readonly Node[], simulated: Simulated): void {
  const first = readers[0] as Node;
  const b = new Builder(first.graph as Graph, { prefix: `${value.name}.rounded.`, before: first });
  const number = (name: string, x: number): Value => b.constant(name, Tensor.float32([], [x]));
  const { float, scaled } = simulated;
  let x = value;
  let scale: Value | undefined;
  if (scaled) {
    const largest = b.op("ReduceMax", [b.op("Abs", [value])], { attributes: { keepdims: 0 } });
    const ratio = b.op("Div", [largest, number("largest", largestFinite(float))]);
    scale = b.op("Max", [ratio, number("tiny", 2 ** -126)]);
    x = b.op("Div", [value, scale]);
  }
  let y = simulated.native
    ? throughCast(b, x, simulated.native.dtype)
    : float.exponentBits > 3
      ? split(b, x, float)
      : onGrid(b, x, float);
  if (scale) y = b.op("Mul", [y, scale]);
  [y.dtype, y.shape] = [value.dtype, value.shape];
  for (const reader of readers)
    for (const [index, input] of reader.inputs.slice(0, 2).entries()) if (input === value) reader.setInput(index, y);
  first.graph?.sort();
}

function throughCast(b: Builder, x: Value, dtype: NonNullable<Simulated["native"]>["dtype"]): Value {
  const narrow = b.op("Cast", [x], { attributes: { to: dtypeCode(dtype) }, name: "narrow" });
  return b.op("Cast", [narrow], { attributes: { to: dtypeCode("float32") }, name: "wide" });
}

/** c − (c − x) with c = (2^k + 1)·x keeps 24 − k bits of x (Veltkamp 1968; Dekker 1971): for formats with all of float32's exponents. */
function split(b: Builder, x: Value, { mantissaBits }: Minifloat): Value {
  const factor = b.constant("split", Tensor.float32([], [2 ** (23 - mantissaBits) + 1]));
  const c = b.op("Mul", [x, factor]);
  return b.op("Sub", [c, b.op("Sub", [c, x])]);
}

/**
 * Formats of few exponents: (x + C) − C with C = 1.5·2^23·step rounds to multiples of the step, half to even; the step doubles at
 * every power of two, and what is beyond the largest value becomes it.
 */
function onGrid(b: Builder, x: Value, float: Minifloat): Value {
  const { mantissaBits, bias } = float;
  const number = (value: number): Value => b.constant("number", Tensor.float32([], [value]));
  const anchor = (exponent: number): Value => number(1.5 * 2 ** (23 + exponent - mantissaBits));
  const largest = largestFinite(float);
  const clipped = b.op("Clip", [x, number(-largest), number(largest)]);
  const size = b.op("Abs", [clipped]);
  let c = anchor(1 - bias);
  for (let exponent = 2 - bias; 2 ** exponent <= largest; exponent++)
    c = b.op("Where", [b.op("Less", [size, number(2 ** exponent)]), c, anchor(exponent)]);
  return b.op("Sub", [b.op("Add", [clipped, c]), c]);
}
