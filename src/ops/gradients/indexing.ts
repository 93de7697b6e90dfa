/** Gradients of look-ups: Gather, GatherElements, GatherND, the scatters, Compress and TopK. */
import { elementCount, isConcrete } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Grad, GradContext } from "../spec.ts";
import { gatherBack } from "./along-axis.ts";
import {
  add,
  axisOf,
  concreteShape,
  constantArray,
  div,
  indicator,
  ints,
  mul,
  needsOpset,
  onesLike,
  outputOf,
  rankOf,
  reduceSum,
  reshape,
  reshapeLike,
  shapeOf,
  shapeVector,
  slice,
  transpose,
  unsqueeze,
  zerosLike,
} from "./words.ts";

const flow = (c: GradContext): Value => c.outputGrad(0) as Value;

/** From this opset on, scatters can add. */
const ADDING_SCATTER = 16;

/** Tables of at most this many rows are summed by a matrix product with one-hot rows, larger ones by a scatter: as fast there. */
const ONE_HOT_ROWS = 128;

/** Constant look-ups of at most this many elements are undone by slices or a small matrix. */
const CONSTANT_LOOKUPS = 512;

// y = x[i] along an axis: ∂x[j] = Σ { g[k] : i[k] = j }
export const gatherGrad: Grad = (c) => {
  const [x, indices] = c.node.inputs as readonly [Value, Value];
  const rank = rankOf(c.node, x);
  const axis = axisOf(c.node.int("axis", 0), rank);
  const size = x.shape?.[axis];
  const known = indices.tensor?.peekNumbers() ?? c.contents(indices);
  if (known && typeof size === "number" && size <= CONSTANT_LOOKUPS && known.length <= CONSTANT_LOOKUPS) {
    const sources = known.map((index) => axisOf(index, size));
    return [gatherBack(c, flatIndexAxis(c, flow(c), x, axis, known.length), axis, sources, x)];
  }
  return [lookupBack(c, flow(c), indices, axis, x)];
};

/** A gradient whose index axes are one axis, at the place of x's own. */
function flatIndexAxis(c: GradContext, g: Value, x: Value, axis: number, length: number): Value {
  const sizes = (x.shape ?? []).map((dim, i) => (i === axis ? length : dim));
  if (sizes.filter((dim) => typeof dim !== "number").length <= 1 && !sizes.includes(0))
    return reshape(
      c,
      g,
      sizes.map((dim) => (typeof dim === "number" ? dim : -1)),
    );
  const shape = shapeOf(c, x);
  const parts = [
    ...(axis > 0 ? [slice(c, shape, [0], [0], [axis])] : []),
    ints(c, [length]),
    ...(axis + 1 < sizes.length ? [slice(c, shape, [0], [axis + 1], [sizes.length])] : []),
  ];
  return c.b.op("Reshape", [g, c.b.op("Concat", parts, { attributes: { axis: 0 } })]);
}

/**
 * Zeros of x's shape with the parts of g (index axes in the place of `axis`) added where the indices point, in a fixed order:
 * the engine's ScatterND adds from several threads at once and loses some of them, its ScatterElements does not.
 */
function lookupBack(c: GradContext, g: Value, indices: Value, axis: number, x: Value): Value {
  const rows = x.shape?.[axis];
  const flat = reshape(c, indices, [-1]); // (t)
  const inner = Array.from({ length: rankOf(c.node, x) }, (_, i) => (i === axis ? -1 : 1));
  const oneHot = c.opset < ADDING_SCATTER || (typeof rows === "number" && rows <= ONE_HOT_ROWS);
  if (!oneHot) {
    const parts = mergeIndexAxes(c, g, indices, axis, x);
    const spread = c.b.op("Expand", [reshape(c, flat, inner), shapeOf(c, parts)]);
    return c.b.op("ScatterElements", [zerosLike(c, x), spread, parts], { attributes: { axis, reduction: "add" } });
  }
  const depth = typeof rows === "number" ? ints(c, [rows]) : slice(c, shapeOf(c, x), [0], [axis], [axis + 1]);
  const values = constantArray(c, g.dtype ?? x.dtype, [2], [0, 1]);
  const parts = mergeIndexAxes(c, g, indices, axis, x);
  if (axis === 0) {
    const hot = c.b.op("OneHot", [flat, depth, values], { attributes: { axis: -1 } }); // (t, rows)
    const width = x.shape?.slice(1);
    const wide = isConcrete(width) ? reshape(c, parts, [-1, elementCount(width)]) : flatRows(c, parts);
    // Before opset 11 Gemm needs a third input.
    const sum =
      c.opset < 11
        ? c.b.op("MatMul", [transpose(c, hot, [1, 0]), wide])
        : c.b.op("Gemm", [hot, wide], { attributes: { transA: 1 } });
    return reshapeLike(c, sum, x);
  }
  const hot = c.b.op("OneHot", [flat, depth, values], { attributes: { axis: 0 } }); // (rows, t)
  const lead = slice(c, shapeOf(c, parts), [0], [0], [axis + 1]);
  const stacked = c.b.op("Concat", [lead, ints(c, [-1])], { attributes: { axis: 0 } });
  const product = c.b.op("MatMul", [hot, c.b.op("Reshape", [parts, stacked])]); // (before…, rows, after)
  return c.b.op("Reshape", [product, shapeVector(c, x)]);
}

/** (t, …) as a matrix of t rows. */
function flatRows(c: GradContext, x: Value): Value {
  return c.b.op("Flatten", [x], { attributes: { axis: 1 } });
}

function mergeIndexAxes(c: GradContext, g: Value, indices: Value, axis: number, x: Value): Value {
  const { shape } = indices;
  if (isConcrete(shape)) {
    const length = shape.reduce((n, size) => n * size, 1);
    return shape.length === 1 ? g : flatIndexAxis(c, g, x, axis, length);
  }
  return shape?.length === 1 ? g : flatIndexAxis(c, g, x, axis, -1);
}

// y = x[…, i, …] elementwise along an axis: ∂x = zeros, to which g is added at i
export const gatherElementsGrad: Grad = (c) => {
  const [x, indices] = c.node.inputs as readonly [Value, Value];
  const axis = axisOf(c.node.int("axis", 0), rankOf(c.node, x));
  if (c.opset >= ADDING_SCATTER) {
    const attributes = { axis, reduction: "add" };
    return [c.b.op("ScatterElements", [zerosLike(c, x), indices, flow(c)], { attributes })];
  }
  const whole = concreteShape(c.node, x);
  const part = concreteShape(c.node, indices);
  const values = constantArray(c, x.dtype, [2], [0, 1]);
  const hot = c.b.op("OneHot", [indices, ints(c, [whole[axis] ?? 1]), values], { attributes: { axis } });
  const sum = reduceSum(c, mul(c, hot, unsqueeze(c, flow(c), [axis])), [axis + 1], false); // (…, size, …)
  const missing = whole.map((size, i) => (i === axis ? 0 : size - (part[i] ?? 0)));
  return [missing.every((n) => n === 0) ? sum : c.b.op("Pad", [sum, ints(c, [...whole.map(() => 0), ...missing])])];
};

/** Positions that GatherND's indices (batch…, …, q) mean in data flattened over its batch and indexed axes: (…). */
function flatPositions(c: GradContext, data: Value, indices: Value, batch: number): { positions: Value; rows: number } {
  const shape = concreteShape(c.node, data);
  const where = concreteShape(c.node, indices);
  const q = where.at(-1) ?? 1;
  const sizes = shape.slice(batch, batch + q);
  const strides = sizes.map((_, i) => sizes.slice(i + 1).reduce((n, size) => n * size, 1));
  const wide = indices.dtype === "int64" ? indices : c.b.op("Cast", [indices], { attributes: { to: 7 } });
  const positive = c.b.op("Where", [c.b.op("Less", [wide, ints(c, [0])]), add(c, wide, ints(c, sizes)), wide]);
  const within = reduceSum(c, mul(c, positive, ints(c, strides)), [where.length - 1], false);
  const block = sizes.reduce((n, size) => n * size, 1);
  const batches = shape.slice(0, batch).reduce((n, size) => n * size, 1);
  const offsets = Array.from({ length: batches }, (_, i) => i * block);
  const along = [...shape.slice(0, batch), ...where.slice(batch, -1).map(() => 1)];
  const positions = batches === 1 ? within : add(c, within, reshape(c, ints(c, offsets), along));
  return { positions, rows: batches * block };
}

// y = x[i₁, …, i_q] over leading axes (after the batch axes): ∂x = zeros, to which g is added at i
export const gatherNDGrad: Grad = (c) => {
  const [x, indices] = c.node.inputs as readonly [Value, Value];
  const { positions, rows } = flatPositions(c, x, indices, c.node.int("batch_dims", 0));
  const width = concreteShape(c.node, x).reduce((n, size) => n * size, 1) / Math.max(1, rows);
  const g = reshape(c, flow(c), [-1, width]);
  const table = reshape(c, x, [rows, width]);
  [table.dtype, table.shape] = [x.dtype, [rows, width]];
  const list = reshape(c, positions, [-1]);
  list.shape = [null];
  return [reshapeLike(c, lookupBack(c, g, list, 0, table), x)];
};

/** The two ways of scattering, told apart by how the same places are read. */
interface Places {
  read(from: Value): Value;
  write(into: Value, updates: Value, reduction?: string): Value;
}

function elements(c: GradContext): Places {
  const [data, indices] = c.node.inputs as readonly [Value, Value];
  const axis = axisOf(c.node.int("axis", 0), rankOf(c.node, data));
  return {
    read: (from) => {
      if (c.opset < 11) throw needsOpset(c, 11);
      return c.b.op("GatherElements", [from, indices], { attributes: { axis } });
    },
    write: (into, updates, reduction) =>
      c.b.op(c.opset < 11 ? "Scatter" : "ScatterElements", [into, indices, updates], {
        attributes: { axis, reduction },
      }),
  };
}

function slices(c: GradContext): Places {
  const indices = c.node.inputs[1] as Value;
  return {
    read: (from) => c.b.op("GatherND", [from, indices]),
    write: (into, updates, reduction) => c.b.op("ScatterND", [into, indices, updates], { attributes: { reduction } }),
  };
}

// y = x with u written at i (places differ): ∂x = g with zeros at i, ∂u = g[i]
// y = x with u added at i: ∂x = g, ∂u = g[i]
// y = x·Π u: ∂x = g·Π u, ∂u = (g·y)[i]/u
// y = max(x, u) or min: each share of g goes to those that equal y, split evenly
function scatterGrad(at: (c: GradContext) => Places): Grad {
  return (c) => {
    const [data, , updates] = c.node.inputs as readonly [Value, Value, Value];
    const y = c.node.outputs[0] as Value;
    const places = at(c);
    const g = flow(c);
    const reduction = c.node.string("reduction") ?? "none";
    if (reduction === "none")
      return [
        c.wants(0) ? places.write(g, zerosLike(c, updates)) : undefined,
        undefined,
        c.wants(2) ? places.read(g) : undefined,
      ];
    if (reduction === "add") return [g, undefined, c.wants(2) ? places.read(g) : undefined];
    if (reduction === "mul")
      return [
        c.wants(0) ? mul(c, g, places.write(onesLike(c, data), updates, "mul")) : undefined,
        undefined,
        c.wants(2) ? div(c, places.read(mul(c, g, y)), updates) : undefined,
      ];
    const old = indicator(c, c.b.op("Equal", [data, y]), data.dtype);
    const fresh = indicator(c, c.b.op("Equal", [updates, places.read(y)]), data.dtype);
    const share = div(c, g, places.write(old, fresh, "add"));
    return [mul(c, share, old), undefined, c.wants(2) ? mul(c, places.read(share), fresh) : undefined];
  };
}

export const scatterElementsGrad: Grad = scatterGrad(elements);
export const scatterNDGrad: Grad = scatterGrad(slices);

// y = x where the condition holds along an axis (or in x flattened): ∂x = zeros with g at those places
export const compressGrad: Grad = (c) => {
  const [x, condition] = c.node.inputs as readonly [Value, Value];
  const kept = reshape(c, c.b.op("NonZero", [condition]), [-1]);
  kept.shape = [null];
  const axis = c.node.int("axis");
  if (axis !== undefined) return [lookupBack(c, flow(c), kept, axisOf(axis, rankOf(c.node, x)), x)];
  const line = reshape(c, x, [-1]);
  [line.dtype, line.shape] = [x.dtype, [null]];
  return [reshapeLike(c, lookupBack(c, flow(c), kept, 0, line), x)];
};

// (values, i) = the k largest along an axis: ∂x = zeros with g at i
export const topKGrad: Grad = (c) => {
  const x = c.node.inputs[0] as Value;
  const axis = axisOf(c.node.int("axis", -1), rankOf(c.node, x));
  const places = outputOf(c.node, 1, "int64", c.node.outputs[0]?.shape);
  if (c.opset < 11) throw needsOpset(c, 11);
  return [c.b.op("ScatterElements", [zerosLike(c, x), places, flow(c)], { attributes: { axis } })];
};

// y = x[start:end:step] where sizes or bounds are only known while the graph runs: the same slice of x's places says where g goes
export const scatterSlice: Grad = (c) => {
  const x = c.node.inputs[0] as Value;
  const count = c.b.op("Size", [x]);
  const zero = c.b.constant("zero", Tensor.int64([0], []));
  const one = c.b.constant("one", Tensor.int64([1], []));
  const places = c.b.op("Reshape", [c.b.op("Range", [zero, count, one]), shapeOf(c, x)]);
  const taken = c.b.op("Slice", [places, ...c.node.inputs.slice(1)], {
    attributes: Object.fromEntries(c.node.attributes),
  });
  const line = reshape(c, zerosLike(c, x), [-1]);
  const sum = c.b.op("ScatterElements", [line, reshape(c, taken, [-1]), reshape(c, flow(c), [-1])], {
    attributes: { axis: 0 },
  });
  return [c.b.op("Reshape", [sum, shapeOf(c, x)])];
};
