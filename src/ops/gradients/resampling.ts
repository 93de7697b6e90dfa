/** The gradient of Resize: each resized axis is a constant linear map, applied backwards. */
import { PareError } from "../../base/error.ts";
import type { Dim } from "../../base/shape.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { gatherBack, mapBack, type Taps } from "./along-axis.ts";
import { concreteShape, reduceSum, reshape } from "./words.ts";

/** One axis that is resized. */
export interface ResizedAxis {
  readonly inside: number;
  readonly outside: number;
  /** As the engine uses it: given, or outside / inside, in single precision. */
  readonly scale: number;
  /** Region of interest in [0, 1], for `tf_crop_and_resize`. */
  readonly from: number;
  readonly to: number;
}

const { fround } = Math;

/**
 * Where output element i lies in the input, in the engine's arithmetic: single precision, every step rounded, except where
 * it adds constants of double precision. A last bit decides which neighbour is nearest.
 */
function coordinate(mode: string, i: number, axis: ResizedAxis): number {
  const { inside, outside, scale, from, to } = axis;
  const half = (): number => fround(fround(fround(i + 0.5) / scale) - 0.5);
  switch (mode) {
    case "asymmetric":
      return fround(i / scale);
    case "pytorch_half_pixel":
      return outside > 1 ? half() : 0;
    case "tf_half_pixel_for_nn":
      return fround(fround(i + 0.5) / scale);
    case "align_corners":
      return outside === 1 ? 0 : fround((i * (inside - 1)) / (outside - 1));
    case "tf_crop_and_resize": {
      if (outside === 1) return fround(0.5 * fround(from + to) * (inside - 1));
      const start = fround(from * (inside - 1));
      const along = fround(fround(i * fround(to - from)) * (inside - 1));
      return fround(start + fround(along / (outside - 1)));
    }
    case "half_pixel_symmetric": {
      const adjustment = fround(outside / fround(scale * inside));
      const offset = fround(fround(inside / 2) * fround(1 - adjustment));
      return fround(offset + (i + 0.5) / scale - 0.5);
    }
    default:
      return half();
  }
}

/** ONNX Runtime (1.30) takes coordinates this close to the middle between two elements for the middle. */
const TIE = 1e-6;

/** The input element nearest to x. */
function nearest(mode: string, x: number): number {
  const below = Math.floor(x);
  const past = x - below - 0.5; // of the middle
  switch (mode) {
    case "floor":
      return below;
    case "ceil":
      return Math.ceil(x);
    case "round_prefer_ceil":
      return past >= -TIE ? below + 1 : below;
    default: // round_prefer_floor
      return past > TIE ? below + 1 : below;
  }
}

/** Weights of the four neighbours at distance t ∈ [0, 1) after the second (Keys 1981). */
function cubic(t: number, a: number): number[] {
  const far = (d: number): number => ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
  const near = (d: number): number => ((a + 2) * d - (a + 3)) * d * d + 1;
  return [far(t + 1), near(t), near(1 - t), far(2 - t)];
}

interface Interpolation {
  readonly mode: string;
  readonly coordinates: string;
  readonly rounding: string;
  readonly a: number;
  readonly excludeOutside: boolean;
}

/** Which elements of the input make element i of the output. */
function tapsOf(how: Interpolation, axis: ResizedAxis, i: number): (readonly [number, number])[] {
  const { inside, scale } = axis;
  const last = inside - 1;
  const clamp = (x: number): number => Math.min(Math.max(x, 0), last);
  const x = scale === 1 ? i : coordinate(how.coordinates, i, axis);
  if (how.coordinates === "tf_crop_and_resize" && (x < 0 || x > last)) return [];
  if (how.mode === "nearest") return [[clamp(nearest(how.rounding, x)), 1]];
  if (how.mode === "linear") {
    const at = clamp(x);
    const low = Math.min(Math.floor(at), last);
    const high = Math.min(low + 1, last);
    if (low === high) return [[low, 1]];
    return [
      [low, 1 - (at - low)],
      [high, at - low],
    ];
  }
  const base = Math.floor(x);
  const taps = cubic(x - base, how.a).map((weight, k) => [base - 1 + k, weight] as const);
  if (!how.excludeOutside) return taps.map(([source, weight]) => [clamp(source), weight]);
  const kept = taps.filter(([source]) => source >= 0 && source <= last);
  const sum = kept.reduce((total, [, weight]) => total + weight, 0);
  return kept.map(([source, weight]) => [source, weight / sum]);
}

function interpolationOf(node: Node): Interpolation {
  const mode = node.string("mode") ?? "nearest";
  if (node.int("antialias", 0) !== 0 && mode !== "nearest")
    throw new PareError("not-differentiable", "Resize with antialias has no gradient", {
      where: `node '${node.name}' (Resize)`,
      help: "Resize without antialias",
    });
  return {
    mode: mode === "bilinear" ? "linear" : mode,
    coordinates: node.string("coordinate_transformation_mode") ?? "half_pixel",
    rounding: node.string("nearest_mode") ?? "round_prefer_floor",
    a: node.float("cubic_coeff_a", -0.75),
    excludeOutside: node.int("exclude_outside", 0) !== 0,
  };
}

/** The axes that change, with their scales. */
function resizedAxes(c: GradContext, shape: readonly Dim[], result: readonly Dim[]): Map<number, ResizedAxis> {
  const { node } = c;
  const numbers = (index: number): readonly number[] | undefined => {
    const value = node.inputs[index];
    const known = value?.tensor?.peekNumbers() ?? c.contents(value);
    return known && known.length > 0 ? known : undefined;
  };
  const axes = (node.ints("axes") ?? shape.map((_, axis) => axis)).map((axis) =>
    axis < 0 ? axis + shape.length : axis,
  );
  const [roi, scales, sizes] = [numbers(1), numbers(2), numbers(3)];
  const policy = node.string("keep_aspect_ratio_policy") ?? "stretch";
  const ratios = axes.map((axis, k) => (sizes?.[k] ?? Number(result[axis])) / Number(shape[axis]));
  const shared = policy === "not_larger" ? Math.min(...ratios) : Math.max(...ratios);
  const found = new Map<number, ResizedAxis>();
  // The engine copies where no size changes, whatever the scales and the region are.
  if (shape.every((dim, axis) => typeof dim === "number" && dim === result[axis])) return found;
  for (const [k, axis] of axes.entries()) {
    const [inside, outside] = [shape[axis], result[axis]];
    const given = scales?.[k];
    if (given === 1 || (inside === outside && given === undefined && !roi)) continue;
    if (typeof inside !== "number" || typeof outside !== "number") {
      concreteShape(node, node.inputs[0], axis);
      concreteShape(node, node.outputs[0], axis);
      continue;
    }
    const scale = fround(given ?? (policy === "stretch" ? outside / inside : shared));
    const [from, to] = roi ? [roi[k] ?? 0, roi[k + axes.length] ?? 1] : [0, 1];
    found.set(axis, { inside, outside, scale, from, to });
  }
  return found;
}

/** How often every element is repeated in turn, or undefined where the elements are not simply repeated. */
function repetition(sources: readonly number[], inside: number): number | undefined {
  const times = sources.length / inside;
  return Number.isInteger(times) && sources.every((source, i) => source === Math.floor(i / times)) ? times : undefined;
}

// y = Σ weight·x over the taps of each element, separably: ∂x = Mᵀg along each resized axis; where every element is repeated
// the same number of times, as nearest neighbours at whole scales are, that is one sum
export const resizeGrad: Grad = (c) => {
  const x = c.node.inputs[0] as Value;
  const result = [...(c.node.outputs[0]?.shape ?? [])];
  const how = interpolationOf(c.node);
  let g = c.outputGrad(0) as Value;
  const repeats = new Map<number, number>();
  const maps = new Map<number, Taps>();
  for (const [axis, resized] of resizedAxes(c, x.shape ?? [], result)) {
    const taps = Array.from({ length: resized.outside }, (_, i) => tapsOf(how, resized, i));
    const lone = taps.every((row) => row.length === 1 && row[0]?.[1] === 1);
    const times =
      lone &&
      repetition(
        taps.map((row) => row[0]?.[0] ?? 0),
        resized.inside,
      );
    if (times) repeats.set(axis, times);
    else maps.set(axis, taps);
  }
  for (const [axis, taps] of maps) {
    result[axis] = x.shape?.[axis] ?? null;
    const typed = { dtype: x.dtype, shape: result.slice() };
    const lone = taps.every((row) => row.length === 1 && row[0]?.[1] === 1);
    if (lone)
      g = gatherBack(
        c,
        g,
        axis,
        taps.map((row) => row[0]?.[0] ?? 0),
        typed,
      );
    else g = mapBack(c, g, axis, taps, typed);
  }
  return [repeats.size > 0 ? sumRepeats(c, g, repeats, x) : g];
};

/** (…, n·r, …) summed over groups of r along each repeated axis. */
function sumRepeats(c: GradContext, g: Value, repeats: ReadonlyMap<number, number>, x: Value): Value {
  const split: number[] = [];
  const summed: number[] = [];
  const shape = x.shape ?? [];
  if (shape.filter((dim) => typeof dim !== "number").length > 1) concreteShape(c.node, x);
  for (const [axis, dim] of shape.entries()) {
    split.push(typeof dim === "number" ? dim : -1);
    const times = repeats.get(axis);
    if (times !== undefined) summed.push(split.push(times) - 1);
  }
  return reduceSum(c, reshape(c, g, split), summed, false);
}
