/** Turns a model that was trained with simulated low-bit numbers into one that stores them packed and computes with integers. */
import { nameOf } from "../../analyse/keep.ts";
import { Builder } from "../../ir/builder.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { constantTensor } from "../../transform/constants.ts";
import { foldAffine } from "../../transform/fold-affine.ts";
import { padCodes, quantizeActivation } from "../../transform/insert-qdq.ts";
import { removeDead } from "../../transform/remove-dead.ts";
import { sharedConstant } from "../../transform/unpack-weights.ts";
import type { Journal } from "../journal.ts";
import { roundHalfEven, type WeightCodes, weightCodes } from "./codes.ts";
import type { AwarePlan, Layer } from "./plan.ts";
import { type ActivationGrid, type Simulation, unsimulate, type WeightGrid } from "./simulate.ts";
import { storedWeight } from "./stored-weight.ts";

/** Integers beyond this leave no room for the sum that a bias is added to. */
const LARGEST_BIAS = 2 ** 30;
/** Codes are multiplied up to this: biases get finer steps, and two products of 8-bit activations still fit 16 bits. */
const LARGEST_WEIGHT = 64;
/** Scale of a channel whose weights are all zero. */
const LEAST_SCALE = 1e-12;

/** A grid of numbers instead of initializers. */
interface FixedGrid {
  readonly of: ActivationGrid;
  readonly scale: number;
  readonly zeroPoint: number;
}

/**
 * Takes the simulation out, folds normalizations into scales and biases, and stores codes. The integers are those of the
 * simulation; a layer's bias is rounded to s_x·s_w/m, m the power of two that codes are multiplied by, and sums of floats
 * are rounded elsewhere than in training.
 */
export async function convert(
  model: Model,
  plan: AwarePlan,
  { weights, activations }: Simulation,
  journal: Journal,
): Promise<void> {
  const codes = new Map<Value, { grid: WeightGrid; codes: WeightCodes }>();
  for (const grid of weights) codes.set(grid.layer.weight, { grid, codes: await weightCodes(grid) });
  const grids = await Promise.all(activations.map(fixed));
  unsimulate(model);
  const { factors, moved } = await fold(model, plan, journal);
  for (const layer of plan.layers) {
    const own = codes.get(layer.weight);
    if (!own) continue;
    const input = grids.findLast(({ of: { rounding } }) => rounding.readers.has(layer.node));
    await storeLayer(model, layer, own.grid, own.codes, factors.get(layer.node), input?.scale, journal);
  }
  const given = new Map<ActivationGrid, Map<Value, Value>>();
  for (const { of, scale, zeroPoint } of grids) {
    const { rounding, bits } = of;
    const before = rounding.behind && given.get(grids.find((each) => each.of.rounding === rounding.behind)?.of ?? of);
    const made = new Map<Value, Value>();
    const cutAt = bits < 8 ? 2 ** bits - 1 : undefined;
    for (const planned of rounding.values) {
      const value = moved.get(planned) ?? planned;
      const source = before?.get(planned) ?? value;
      const grid = { dtype: "uint8", scale, zeroPoint, cutAt } as const;
      made.set(
        planned,
        quantizeActivation(model.graph, source, grid, rounding.readers, rounding.everywhere.has(planned)),
      );
    }
    given.set(of, made);
  }
  for (const node of plan.nodes) if (node.opType === "Pad" && node.graph) padCodes(model.graph, node);
  removeDead(model);
}

async function fixed(of: ActivationGrid): Promise<FixedGrid> {
  const read = async (value: Value | undefined): Promise<number> =>
    ((await value?.tensor?.data()) as Float32Array | undefined)?.[0] ?? 0;
  return { of, scale: await read(of.scale), zeroPoint: roundHalfEven(await read(of.offset)) };
}

/** Folds normalizations into layers: the factor of each channel by layer, and where their outputs have moved. */
async function fold(
  model: Model,
  plan: AwarePlan,
  journal: Journal,
): Promise<{ readonly factors: ReadonlyMap<Node, Float64Array>; readonly moved: ReadonlyMap<Value, Value> }> {
  const { folded, skipped } = await foldAffine(model);
  for (const { what, why } of skipped) journal.skip(what, why);
  const factors = new Map<Node, Float64Array>();
  const moved = new Map<Value, Value>();
  const layers = new Set(plan.layers.map(({ node }) => node));
  for (const { linear, scale, output } of folded) {
    const now = linear.outputs[0] as Value;
    for (const [from, to] of moved) if (to === output) moved.set(from, now);
    moved.set(output, now);
    if (!scale || !layers.has(linear)) continue;
    const old = factors.get(linear);
    factors.set(
      linear,
      scale.map((factor, c) => factor * (old?.[c] ?? 1)),
    );
  }
  if (folded.length > 0) journal.note(`${folded.length} normalizations, scales and shifts folded into layers.`);
  return { factors, moved };
}

/** Puts codes, scales and an integer bias in the places of a layer's weight and bias. */
async function storeLayer(
  model: Model,
  layer: Layer,
  grid: WeightGrid,
  own: WeightCodes,
  factors: Float64Array | undefined,
  inputScale: number | undefined,
  journal: Journal,
): Promise<void> {
  const { node, weight, axis, traits } = layer;
  const { graph } = model;
  const shape = weight.tensor?.shape ?? [];
  const channels = own.scales.length;
  const bias = traits?.linear === "matmul" ? undefined : node.inputs[2];
  const biases = (await constantTensor(model, bias)?.data()) as Float32Array | undefined;
  const most = inputScale === undefined ? 1 : 2 ** Math.floor(Math.log2(LARGEST_WEIGHT / own.largest));
  const multiple = Math.max(1, most);
  const scales = new Float32Array(channels);
  const multiples = new Float32Array(channels);
  for (let c = 0; c < channels; c++) {
    const factor = factors?.[c] ?? 1;
    const scale = Math.abs(factor) * (own.scales[c] ?? 0);
    const least = Math.abs(biases?.[c] ?? 0) / (LARGEST_BIAS * (inputScale ?? Number.POSITIVE_INFINITY));
    let m = multiple;
    while (m >= 1 && scale / m < least) m /= 2;
    const vanishes = m < 1 || scale === 0; // beside its bias, or altogether
    scales[c] = vanishes ? Math.max(least, LEAST_SCALE) : scale / m;
    multiples[c] = vanishes ? 0 : Math.sign(factor) * m;
  }
  const target = node.inputs[1] as Value;
  const parts = { codes: own, bits: grid.bits, shape, axis };
  const before = weight.tensor?.byteLength ?? 0;
  if (inputScale === undefined) {
    const factor = Float32Array.from(multiples, (m, c) => m * (scales[c] ?? 0));
    const { dense, bytes } = storedWeight(model, { ...parts, factors: factor, dtype: "float32" }, weight.name);
    node.setInput(1, dense);
    journal.change({ what: nameOf(node), how: describe(grid), bytesBefore: before, bytesAfter: bytes + 4 * channels });
    return;
  }
  const { dense, bytes } = storedWeight(model, { ...parts, factors: multiples, dtype: "int8" }, weight.name);
  const b = new Builder(graph, { prefix: `${weight.name}.`, before: node });
  const dequantize = (name: string, value: Value, step: Float32Array, along: number): Value => {
    const type = value.dtype === "int32" ? "int32" : "int8";
    const zeros = Tensor.of(type, [channels], type === "int32" ? new Int32Array(channels) : new Int8Array(channels));
    const result = b.op(
      "DequantizeLinear",
      [
        value,
        b.constant(`${name}steps`, Tensor.float32([channels], step)),
        sharedConstant(graph, `zeros_${type}_${channels}`, zeros),
      ],
      { attributes: { axis: along }, name: `${name}dq` },
    );
    [result.dtype, result.shape] = ["float32", value.shape];
    return result;
  };
  node.setInput(1, dequantize("", dense, scales, axis));
  if (target.uses.length === 0) graph.removeInitializer(target);
  let bytesAfter = bytes + 4 * channels;
  if (bias && biases) {
    const steps = scales.map((scale) => scale * inputScale);
    const integers = Int32Array.from(biases, (value, c) => Math.round(value / (steps[c] ?? 1)));
    node.setInput(2, dequantize("bias_", b.constant("bias", Tensor.of("int32", [channels], integers)), steps, 0));
    bytesAfter += 8 * channels;
  }
  const bytesBefore = before + 4 * (biases?.length ?? 0);
  journal.change({ what: nameOf(node), how: describe(grid), bytesBefore, bytesAfter });
}

function describe({ rule, bits, perChannel }: WeightGrid): string {
  const codes = { uniform: `${bits} bits`, binary: "binary", "mean-binary": "binary", "mean-ternary": "ternary" };
  const text = rule === "trained-ternary" ? "ternary, a magnitude per sign" : codes[rule];
  return `weights ${text}, ${perChannel ? "a scale per channel" : "one scale"}`;
}
