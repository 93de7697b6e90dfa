/**
 * Halves the floats: 16 bits per weight, and float16 arithmetic where the processor has it.
 *
 * Helps: size by 2; speed and memory on GPUs, phones and the web (WebGPU), which compute in float16.
 * Hurts: a CPU without float16 kernels computes in float32 between conversions and may run slower; `storage` keeps the
 * graph in float32 and converts weights once at load, at fp32 speed. bfloat16 is always storage on CPUs.
 * Needs: nothing; ranges are measured on the data if there is any, else on synthetic inputs.
 * Cost: one run of the model on a few samples; seconds.
 * Maths: float16 has 11 bits of precision and ends at 65504; bfloat16 has 8 bits and the range of float32. What would
 * overflow, or vanish in a divisor, stays float32 behind Casts.
 * Paper: Micikevicius et al. 2018, "Mixed Precision Training" (arXiv 1710.03740).
 */
import { z } from "zod";
import { nameOf } from "../../analyse/keep.ts";
import { PareError, messageOf, throwIfAborted } from "../../base/error.ts";
import { cloneModel } from "../../ir/clone.ts";
import { Builder } from "../../ir/builder.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { loadKernels } from "../../kernels/kernels.ts";
import type { Kernels } from "../../kernels/types.ts";
import { structuralIslands } from "../../transform/float-islands.ts";
import { removeDead } from "../../transform/remove-dead.ts";
import { SharedParts } from "../../transform/shared-source.ts";
import { toHalf } from "../../transform/to-half.ts";
import { EagerBudget } from "../eager.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../technique.ts";
import { checkHalf, toHalfBytes } from "./half-weights.ts";
import { type RangeIslands, measureIslands, probe } from "./half-probe.ts";

/** Constants below this size are not worth a Cast of their own. */
const SMALLEST_STORED = 16;
/** A single number of this magnitude stands for infinity (an attention mask): it saturates instead of making an island. */
const STANDS_FOR_INFINITY = 1e30;
/** The engine may refuse several nodes, one at a time. */
const MOST_ATTEMPTS = 16;

const options = z.object({
  to: z.enum(["fp16", "bf16"]).default("fp16").describe("fp16: IEEE half precision; bf16: bfloat16, as storage only"),
  storage: z
    .boolean()
    .default(false)
    .describe("store weights in 16 bits but compute in float32: converted once when the model is loaded"),
  keepIo: z.boolean().default(true).describe("inputs and outputs of the model stay float32"),
  keep: keepOption,
});

export const cast: TechniqueFunction = defineTechnique({
  name: "cast",
  family: "quantize",
  summary: "Store and compute in 16-bit floats.",
  needs: [],
  options,
  async run(model, chosen, context) {
    prepareConstants(model, context.journal);
    const kernels = await loadKernels();
    const keep = keepOf(chosen.keep, model, context.journal);
    if (chosen.to === "bf16" || chosen.storage) {
      if (chosen.to === "bf16" && !chosen.storage)
        context.journal.note(
          "bfloat16 is stored and converted to float32 at load: ONNX Runtime has no bfloat16 arithmetic on CPUs.",
        );
      return storeHalf(
        model,
        kernels,
        chosen.to,
        (value) => keep.value(value) || value.uses.some((use) => keep.node(use.node)),
        context,
      );
    }
    return computeHalf(model, kernels, chosen.keepIo, keep, context);
  },
});

/** Every float32 constant as 16 bits and a Cast that the engine folds at load. */
async function storeHalf(
  model: Model,
  kernels: Kernels,
  to: "fp16" | "bf16",
  isKept: (value: Value) => boolean,
  context: Context,
): Promise<Model> {
  const { journal } = context;
  if (to === "bf16" && model.opset < 13)
    throw new PareError("unsupported", "bfloat16 needs opset 13", {
      found: `opset ${model.opset}`,
      help: "Use --to fp16",
    });
  const eager = new EagerBudget();
  for (const graph of model.graph.allGraphs())
    for (const value of Array.from(graph.initializers.values())) {
      throwIfAborted(context.signal);
      const { tensor } = value;
      if (tensor?.dtype !== "float32" || tensor.elements < SMALLEST_STORED || graph.isOutput(value)) continue;
      const check = isKept(value) ? undefined : await checkHalf(kernels, tensor, to);
      if (!check || check.overflow > 0) {
        journal.skip(value.name, check ? `${check.overflow} elements overflow ${to}` : "kept");
        continue;
      }
      const dtype = to === "fp16" ? "float16" : "bfloat16";
      const parts = new SharedParts([{ dtype, shape: tensor.shape }], async () => [
        await toHalfBytes(kernels, tensor, to),
      ]);
      await eager.keep(parts, tensor.byteLength);
      const b = new Builder(graph, { prefix: `${value.name}.`, before: graph.nodes[0] });
      const wide = b.op("Cast", [b.constant(to, parts.tensors[0] as Tensor)], {
        attributes: { to: 1 },
        name: "float32",
      });
      wide.dtype = "float32";
      wide.shape = tensor.shape;
      value.replaceUses(wide);
      journal.change({
        what: value.name,
        how: `float32 -> ${dtype}, converted at load`,
        error: check.error,
        bytesBefore: tensor.byteLength,
        bytesAfter: tensor.byteLength / 2,
      });
    }
  removeDead(model);
  return model;
}

/** The graph in float16 with float32 islands; nodes that the engine refuses become islands too. */
async function computeHalf(
  model: Model,
  kernels: Kernels,
  keepIo: boolean,
  keep: ReturnType<typeof keepOf>,
  context: Context,
): Promise<Model> {
  const { journal } = context;
  const nodes = [...model.graph.allNodes()];
  const islands = structuralIslands(model);
  for (const node of nodes) if (keep.node(node)) islands.set(node, "kept");
  const kept32 = await judgeConstants(model, kernels, islands, keep, context);
  const measured = await measureIslands(model, context);
  let limit = measured.limits[0];
  if (limit !== undefined) addRangeIslands(islands, measured, limit);
  let converted: Model | undefined;
  for (let attempt = 0; attempt < MOST_ATTEMPTS && !converted; attempt++) {
    throwIfAborted(context.signal);
    context.onProgress({ stage: "cast", done: attempt, total: attempt + 1 });
    const candidate = await convert(model, nodes, islands, kept32, keepIo, kernels);
    const outcome = await probe(model, candidate.model, context);
    if (outcome.kind === "good") converted = candidate.model;
    else if (outcome.kind === "refused") {
      const index = candidate.names.get(outcome.node ?? "");
      const node = index === undefined ? undefined : nodes[index];
      if (!node || islands.has(node)) throw outcome.error;
      islands.set(node, `the engine does not run it in float16: ${messageOf(outcome.error)}`);
    } else {
      const next = measured.limits[measured.limits.indexOf(limit ?? Number.NaN) + 1];
      if (next === undefined)
        throw new PareError("verification", "The float16 model gives NaN or infinity where the original does not", {
          help: "Use --storage, or --to bf16, or --keep the layers with large values",
        });
      limit = next;
      addRangeIslands(islands, measured, limit);
    }
  }
  if (!converted)
    throw new PareError("verification", "ONNX Runtime refuses too many operators in float16", {
      help: "Use --storage",
    });
  for (const [node, why] of islands) if (touchesFloat(node)) journal.skip(nameOf(node), `stays float32: ${why}`);
  removeDead(converted);
  return converted;
}

function touchesFloat(node: Node): boolean {
  return [...node.inputs, ...node.outputs].some((value) => value?.dtype === "float32");
}

function addRangeIslands(islands: Map<Node, string>, measured: RangeIslands, limit: number): void {
  for (const [node, largest] of measured.nodes)
    if (largest > limit && !islands.has(node)) islands.set(node, `it sees values up to ${largest.toPrecision(3)}`);
}

/** Constants that do not fit keep their readers in float32. Returns the names of those that stay float32 themselves. */
async function judgeConstants(
  model: Model,
  kernels: Kernels,
  islands: Map<Node, string>,
  keep: ReturnType<typeof keepOf>,
  context: Context,
): Promise<Set<string>> {
  const kept32 = new Set<string>();
  const { journal } = context;
  for (const graph of model.graph.allGraphs())
    for (const value of graph.initializers.values()) {
      throwIfAborted(context.signal);
      const { tensor } = value;
      if (tensor?.dtype !== "float32") continue;
      const check = await checkHalf(kernels, tensor, "fp16");
      const why =
        keep.value(value) || value.uses.some((use) => keep.node(use.node))
          ? "kept"
          : check.overflow > 0 && !(await standsForInfinity(tensor))
            ? `${check.overflow} elements of ${value.name} overflow float16`
            : check.underflow > 0 && tensor.elements === 1
              ? `${value.name} vanishes in float16`
              : undefined;
      if (why === undefined) {
        if (check.overflow > 0) journal.note(`${value.name} stands for infinity: it becomes ±65504.`);
        if (tensor.elements >= SMALLEST_STORED)
          journal.change({
            what: value.name,
            how: `float32 -> float16${check.underflow > 0 ? `, ${check.underflow} elements vanish` : ""}`,
            error: check.error,
            bytesBefore: tensor.byteLength,
            bytesAfter: tensor.byteLength / 2,
          });
        continue;
      }
      kept32.add(value.name);
      for (const use of value.uses) if (!islands.has(use.node)) islands.set(use.node, why);
    }
  return kept32;
}

async function standsForInfinity(tensor: Tensor): Promise<boolean> {
  const data = (await tensor.data()) as Float32Array;
  return data.every((element) => Math.abs(element) <= 65504 || Math.abs(element) >= STANDS_FOR_INFINITY);
}

/** A converted copy, with the index of each node by the name that the engine will use for it. */
async function convert(
  model: Model,
  nodes: readonly Node[],
  islands: ReadonlyMap<Node, string>,
  kept32: ReadonlySet<string>,
  keepIo: boolean,
  kernels: Kernels,
): Promise<{ model: Model; names: Map<string, number> }> {
  const copy = cloneModel(model);
  const copies = [...copy.graph.allNodes()];
  const names = new Map<string, number>();
  const inIsland = new Set<Node>();
  for (const [index, node] of copies.entries()) {
    names.set(nameOf(node), index);
    const original = nodes[index];
    if (original && islands.has(original)) inIsland.add(node);
  }
  toHalf(copy, {
    isIsland: (node) => inIsland.has(node),
    keepsFloat32: (value) => kept32.has(value.name),
    keepIo,
    convert: (tensor) => toHalfBytes(kernels, tensor, "fp16"),
  });
  removeDead(copy);
  return { model: copy, names };
}
