/** Shrinkage: the proximal step of a penalty after each step of the optimizer, by which weights become exactly zero, alone or in groups. */
import type { Value } from "../ir/graph.ts";
import { Tensor } from "../ir/tensor.ts";
import { add, div, mul, reduceSum, reshape, scalar, type Site, sub } from "../ops/gradients/words.ts";

/** The positions of a weight's axis that belong to groups. */
export interface ShrinkMember {
  /** Name of the weight. */
  readonly weight: string;
  readonly axis: number;
  /** Group of each position of the axis; −1 for none. */
  readonly groupOf: Int32Array;
  /** True: it has no part in the group's norm, and becomes zero when the group does. Default false. */
  readonly follows?: boolean | undefined;
}

/** Groups over the same positions of some weights. */
export interface ShrinkGroups {
  readonly count: number;
  readonly members: readonly ShrinkMember[];
}

/**
 * What is added to the loss, λ being `strength`:
 * weights: λ·Σ|w| over the named weights (lasso); groups: λ·Σ_g √n_g·‖W_g‖₂ over groups of n_g weights (group lasso, Yuan and Lin
 * 2006); pressed: λ/2·‖W_g‖₂² over the groups that are marked, which leaves the others alone.
 */
export type Shrinkage = {
  readonly strength: number;
  /** Share of all steps over which the strength rises from 0; default 0: it is constant. */
  readonly ramp?: number | undefined;
} & (
  | { readonly kind: "weights"; readonly weights: ReadonlySet<string> }
  | { readonly kind: "groups"; readonly groups: readonly ShrinkGroups[] }
  | {
      readonly kind: "pressed";
      /** With one number for each group: 1 where it is pressed, else 0. */
      readonly groups: readonly (ShrinkGroups & { readonly pressed: Float32Array })[];
    }
);

const SMALLEST = 1e-30; // a norm of zero is not divided by

/**
 * The weights after the proximal step w ← argmin_v ‖v − w‖²/(2a) + R(v), a being the rate of the step: soft thresholds
 * sign(w)·max(|w| − aλ, 0), W_g·max(1 − aλ√n_g/‖W_g‖, 0), or W_g/(1 + aλ). `amount` holds aλ, a scalar. `weights`: the ones
 * that are trained, by name; what is not among them is no part of a group.
 */
export function shrink(
  s: Site,
  shrinkage: Shrinkage,
  amount: Value,
  weights: ReadonlyMap<string, Value>,
): Map<string, Value> {
  const result = new Map(weights);
  const put = (name: string, value: Value): void => {
    const old = weights.get(name);
    [value.dtype, value.shape] = ["float32", old?.shape];
    result.set(name, value);
  };
  if (shrinkage.kind === "weights") {
    for (const [name, w] of weights)
      if (shrinkage.weights.has(name)) {
        const low = s.b.op("Neg", [amount]);
        // w − min(max(w, −aλ), aλ): what lies between goes to zero exactly
        put(name, sub(s, w, s.b.op("Min", [s.b.op("Max", [w, low]), amount])));
      }
    return result;
  }
  for (const groups of shrinkage.groups) {
    const members = groups.members.filter(({ weight }) => weights.has(weight));
    const plain = members.every(
      ({ groupOf }) => groupOf.length === groups.count && groupOf.every((group, i) => group === i),
    );
    const layout: Layout = { plain, size: groups.count + (plain ? 0 : 1) };
    const led = members.filter(({ follows }) => !follows);
    if (led.length === 0) continue;
    const factors =
      "pressed" in groups
        ? pressedFactors(s, (groups as { pressed: Float32Array }).pressed, amount, layout)
        : lassoFactors(s, led, amount, result, layout);
    const alive = members.some(({ follows }) => follows) ? s.b.op("Sign", [factors]) : undefined;
    for (const member of members) {
      const w = result.get(member.weight) as Value;
      put(member.weight, mul(s, w, along(s, (member.follows && alive) || factors, member, w, layout)));
    }
  }
  return result;
}

/** How vectors with a number for each group are laid out: as the positions are, or with one entry more for those of no group. */
interface Layout {
  readonly plain: boolean;
  readonly size: number;
}

/** max(1 − aλ√n_g/‖W_g‖, 0), 1 for what is in no group. */
function lassoFactors(
  s: Site,
  members: readonly ShrinkMember[],
  amount: Value,
  weights: ReadonlyMap<string, Value>,
  { plain, size }: Layout,
): Value {
  const roots = new Float32Array(size);
  let squares: Value | undefined;
  for (const { weight, axis, groupOf } of members) {
    const w = weights.get(weight) as Value;
    const shape = w.shape as readonly number[];
    const others = [...shape.keys()].filter((each) => each !== axis);
    const square = mul(s, w, w);
    let sums = others.length > 0 ? reduceSum(s, square, others, false) : square;
    const width = shape.reduce((product, each) => product * each, 1) / groupOf.length;
    for (const group of groupOf) if (group >= 0) roots[group] = (roots[group] as number) + width;
    if (!plain) {
      const zeros = s.b.constant("zeros", Tensor.float32([size], new Float32Array(size)));
      const attributes = { axis: 0, reduction: "add" };
      sums = s.b.op("ScatterElements", [zeros, positions(s, groupOf, size), sums], { attributes });
    }
    squares = squares ? add(s, squares, sums) : sums;
  }
  const root = s.b.constant("root_sizes", Tensor.float32([size], roots.map(Math.sqrt)));
  const norm = s.b.op("Max", [s.b.op("Sqrt", [squares as Value]), scalar(s, "float32", SMALLEST)]);
  const left = sub(s, scalar(s, "float32", 1), div(s, mul(s, root, amount), norm));
  return s.b.op("Relu", [left]);
}

/** 1/(1 + aλ) where the group is pressed, else 1. */
function pressedFactors(s: Site, pressed: Float32Array, amount: Value, { size }: Layout): Value {
  const marks = new Float32Array(size);
  marks.set(pressed);
  const weighted = mul(s, s.b.constant("pressed", Tensor.float32([size], marks)), amount);
  const one = scalar(s, "float32", 1);
  return div(s, one, add(s, one, weighted));
}

/** The number of each position's group, in a shape that multiplies the weight along the axis. */
function along(s: Site, perGroup: Value, { axis, groupOf }: ShrinkMember, w: Value, { plain, size }: Layout): Value {
  const each = plain
    ? perGroup
    : s.b.op("Gather", [perGroup, positions(s, groupOf, size)], { attributes: { axis: 0 } });
  const rank = (w.shape as readonly number[]).length;
  if (rank === 1) return each;
  return reshape(
    s,
    each,
    Array.from({ length: rank }, (_, i) => (i === axis ? groupOf.length : 1)),
  );
}

function positions(s: Site, groupOf: Int32Array, size: number): Value {
  return s.b.constant("groups", Tensor.int64(Array.from(groupOf, (group) => (group < 0 ? size - 1 : group))));
}
