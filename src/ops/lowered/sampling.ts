/** Sampling of images at computed places, in plain operators: grids of coordinates and the look-up of their neighbours. */
import { dtypeCode } from "../../base/dtype.ts";
import { PareError } from "../../base/error.ts";
import { isConcrete } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import {
  add,
  concreteShape,
  constantArray,
  indicator,
  ints,
  mul,
  reshape,
  scalar,
  scale,
  slice,
  sub,
  transpose,
} from "../gradients/words.ts";
import type { Lower, RuleContext } from "../spec.ts";
import { concat, squeezed } from "./words.ts";

/** Weights (n, 1, *z) of the neighbours along one axis, each with its place in the image and, if it may lie outside, whether it does. */
interface Neighbour {
  /** int64. */
  readonly place: Value;
  /** undefined: 1. */
  readonly weight: Value | undefined;
  /** bool, with zeros around the image. */
  readonly inside: Value | undefined;
}

interface Sampling {
  readonly mode: "nearest" | "linear" | "cubic";
  readonly padding: string;
  readonly corners: boolean;
}

function samplingOf(c: RuleContext): Sampling {
  const mode = c.node.string("mode") ?? "linear"; // bilinear and bicubic before opset 20
  return {
    mode: mode === "nearest" ? mode : mode.endsWith("cubic") ? "cubic" : "linear",
    padding: c.node.string("padding_mode") ?? "zeros",
    corners: c.node.int("align_corners", 0) !== 0,
  };
}

const integer = (c: RuleContext, x: Value): Value => c.b.op("Cast", [x], { attributes: { to: dtypeCode("int64") } });

/** int64 places within 0..size − 1: clamped, or mirrored at the border elements or at their outer edges. */
function within(c: RuleContext, place: Value, size: number, { padding, corners }: Sampling): Value {
  const last = size - 1;
  const clamp = (x: Value): Value => c.b.op("Clip", [x, reshape(c, ints(c, [0]), []), reshape(c, ints(c, [last]), [])]);
  if (padding !== "reflection" || size === 1) return clamp(place);
  // min(m, top − m), m = place mod period: mirror images repeat after a period
  const period = corners ? 2 * last : 2 * size;
  const top = corners ? period : period - 1;
  const turned = c.b.op("Mod", [place, ints(c, [period])]);
  return c.b.op("Min", [turned, sub(c, ints(c, [top]), turned)]);
}

/** What lies around coordinate p ∈ [−1, 1] along an axis of the image. */
function neighbours(c: RuleContext, p: Value, size: number, how: Sampling): Neighbour[] {
  const { dtype } = p;
  // x = (p + 1)/2·(size − 1) from centre to centre, ((p + 1)·size − 1)/2 from edge to edge
  const moved = add(c, p, scalar(c, dtype, 1));
  const x = how.corners
    ? scale(c, moved, (size - 1) / 2, dtype)
    : scale(c, sub(c, scale(c, moved, size, dtype), scalar(c, dtype, 1)), 0.5, dtype);
  const neighbour = (place: Value, weight: Value | undefined): Neighbour => {
    const low = c.b.op("Not", [c.b.op("Less", [place, ints(c, [0])])]);
    const inside = how.padding === "zeros" ? c.b.op("And", [low, c.b.op("Less", [place, ints(c, [size])])]) : undefined;
    return { place: within(c, place, size, how), weight, inside };
  };
  if (how.mode === "nearest") return [neighbour(integer(c, c.b.op("Round", [x])), undefined)];
  const below = c.b.op("Floor", [x]);
  const t = sub(c, x, below);
  const first = integer(c, below);
  const rest = sub(c, scalar(c, dtype, 1), t);
  [t.dtype, rest.dtype] = [dtype, dtype];
  const next = (steps: number): Value => add(c, first, ints(c, [steps]));
  if (how.mode === "linear") return [neighbour(first, rest), neighbour(next(1), t)];
  return [
    neighbour(next(-1), farWeight(c, t)),
    neighbour(first, nearWeight(c, t)),
    neighbour(next(1), nearWeight(c, rest)),
    neighbour(next(2), farWeight(c, rest)),
  ];
}

const CUBIC = -0.75; // a of the cubic kernel (Keys 1981), as the engine has it

// ((a + 2)·d − (a + 3))·d² + 1, the weight of an element at distance d ≤ 1
function nearWeight(c: RuleContext, d: Value): Value {
  const number = (value: number): Value => scalar(c, d.dtype, value);
  const slope = sub(c, scale(c, d, CUBIC + 2, d.dtype), number(CUBIC + 3));
  return add(c, mul(c, slope, mul(c, d, d)), number(1));
}

// ((a·d − 5a)·d + 8a)·d − 4a at distance d = t + 1, which is a·t·(t − 1)²
function farWeight(c: RuleContext, t: Value): Value {
  const before = sub(c, t, scalar(c, t.dtype, 1));
  return mul(c, scale(c, t, CUBIC, t.dtype), mul(c, before, before));
}

// y[n, c, z] = Σ_k w_k(grid[n, z])·x[n, c, place_k(grid[n, z])] over the 2ʳ or 4ʳ elements around, or the nearest alone
export const lowerGridSample: Lower = (c) => {
  const [image, grid] = c.node.inputs as readonly [Value, Value];
  const how = samplingOf(c);
  const sizes = concreteShape(c.node, image, 2);
  const rank = sizes.length;
  const spatial = concreteShape(c.node, grid, 1).slice(0, -1); // *z
  const points = spatial.reduce((n, size) => n * size, 1);
  const flatGrid = c.b.op("Reshape", [grid, ints(c, [0, 1, points, rank])]); // (n, 1, z, r)
  // The last coordinate is that of the first axis.
  const axes = sizes.map((size, axis) => {
    const at = rank - 1 - axis;
    const p = squeezed(c, slice(c, flatGrid, [3], [at], [at + 1]), 3); // (n, 1, z)
    p.dtype = image.dtype;
    return neighbours(c, p, size, how);
  });
  const rows = c.b.op("Reshape", [image, ints(c, [0, 0, -1])]); // (n, c, s)
  let y: Value | undefined;
  for (const corner of product(axes)) {
    let [place, weight, inside]: (Value | undefined)[] = [];
    for (const [axis, each] of corner.entries()) {
      place = place ? add(c, mul(c, place, ints(c, [sizes[axis] ?? 1])), each.place) : each.place;
      weight = weight && each.weight ? mul(c, weight, each.weight) : (weight ?? each.weight);
      inside = inside && each.inside ? c.b.op("And", [inside, each.inside]) : (inside ?? each.inside);
    }
    if (inside) {
      const seen = indicator(c, inside, image.dtype);
      weight = weight ? mul(c, weight, seen) : seen;
    }
    const spread = c.b.op("Expand", [place, channels(c, rows, image)]);
    const values = c.b.op("GatherElements", [rows, spread], { attributes: { axis: 2 } }); // (n, c, z)
    const part = weight ? mul(c, values, weight) : values;
    y = y ? add(c, y, part) : part;
  }
  return [c.b.op("Reshape", [y, ints(c, [0, 0, ...spatial])])];
};

/** The shape (1, c, 1), for places that are the same for every channel. */
function channels(c: RuleContext, rows: Value, image: Value): Value {
  const count = image.shape?.[1];
  if (typeof count === "number") return ints(c, [1, count, 1]);
  return concat(c, [ints(c, [1]), slice(c, c.b.op("Shape", [rows]), [0], [1], [2]), ints(c, [1])], 0);
}

/** One of each list, in every combination. */
function product<T>(lists: readonly (readonly T[])[]): T[][] {
  return lists.reduce<T[][]>((all, list) => all.flatMap((head) => list.map((each) => [...head, each])), [[]]);
}

// grid[n, z] = θ[n]·(p(z), 1), p the coordinates of the grid's elements in [−1, 1], last axis first
export const lowerAffineGrid: Lower = (c) => {
  const [theta, size] = c.node.inputs as readonly [Value, Value];
  const known = size.tensor?.peekNumbers() ?? c.contents(size);
  if (!isConcrete(known) || !known)
    throw new PareError("not-differentiable", "The size of an AffineGrid must be known here", {
      where: `node '${c.node.name}' (AffineGrid)`,
      help: "Give the inputs fixed sizes",
    });
  const spatial = known.slice(2);
  const rank = spatial.length;
  const corners = c.node.int("align_corners", 0) !== 0;
  const points = spatial.reduce((n, each) => n * each, 1);
  const base = new Float64Array(points * (rank + 1));
  for (let flat = 0; flat < points; flat++) {
    let rest = flat;
    for (let axis = rank - 1; axis >= 0; axis--) {
      const count = spatial[axis] as number;
      const i = rest % count;
      rest = Math.floor(rest / count);
      const step = corners ? 2 / (count - 1) : 2 / count;
      base[flat * (rank + 1) + (rank - 1 - axis)] = corners ? (count > 1 ? i * step - 1 : -1) : (i + 0.5) * step - 1;
    }
    base[flat * (rank + 1) + rank] = 1;
  }
  const places = constantArray(c, theta.dtype, [points, rank + 1], base);
  const grid = c.b.op("MatMul", [places, transpose(c, theta, [0, 2, 1])]); // (n, z, r)
  return [c.b.op("Reshape", [grid, ints(c, [0, ...spatial, rank])])];
};
