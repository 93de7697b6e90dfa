/** Regions of images brought to one size, in plain operators: one interpolating matrix per region and axis. */
import { PareError } from "../../base/error.ts";
import { isConcrete } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import {
  add,
  concreteShape,
  constantArray,
  indicator,
  mul,
  reduceSum,
  scalar,
  scale,
  slice,
  sub,
  transpose,
  unsqueeze,
} from "../gradients/words.ts";
import type { Lower, RuleContext } from "../spec.ts";

function refused(c: RuleContext, what: string, help: string): PareError {
  const where = `node '${c.node.name}' (RoiAlign)`;
  return new PareError("not-differentiable", `RoiAlign has no gradient ${what}`, { where, help });
}

/** One axis of the images and of the regions: 0 for rows, 1 for columns. */
interface Along {
  readonly axis: 0 | 1;
  /** Elements of the image, and of the result. */
  readonly inside: number;
  readonly outside: number;
}

/** Samples per bin for each region: as asked for, or (0) one per element of the image, where the regions are constants. */
function sampleCounts(c: RuleContext, rois: Value, half: boolean, { axis, outside }: Along): readonly number[] {
  const given = c.node.int("sampling_ratio", 0);
  if (given > 0) return [given];
  const known = rois.tensor?.peekNumbers() ?? c.contents(rois);
  if (!isConcrete(known) || !known)
    throw refused(c, "with as many samples as a region has elements", "Give it a sampling_ratio");
  const factor = c.node.float("spatial_scale", 1);
  return Array.from({ length: known.length / 4 }, (_, r) => {
    const [from, to] = [known[4 * r + 1 - axis] ?? 0, known[4 * r + 3 - axis] ?? 0];
    const size = Math.fround(Math.fround(to * factor) - Math.fround(from * factor));
    return Math.ceil(Math.fround((half ? size : Math.max(size, 1)) / outside));
  });
}

// A[r, p, h] = 1/s·Σ_i max(0, 1 − |y − h|) over the s samples y = start + (p + (i + ½)/s)·bin of bin p that lie within one
// element of the image, moved to its border: (r, outside, inside)
function interpolation(c: RuleContext, rois: Value, along: Along): Value {
  const { axis, inside, outside } = along;
  const { dtype } = c.node.inputs[0] as Value;
  const half = c.opset >= 16 && (c.node.string("coordinate_transformation_mode") ?? "half_pixel") === "half_pixel";
  const counts = sampleCounts(c, rois, half, along);
  const most = Math.max(1, ...counts);
  const number = (value: number): Value => scalar(c, dtype, value);
  const factor = c.node.float("spatial_scale", 1);
  const corner = (column: number): Value => scale(c, slice(c, rois, [1], [column], [column + 1]), factor, dtype); // (r, 1)
  const [from, to] = [corner(1 - axis), corner(3 - axis)];
  const span = half ? sub(c, to, from) : c.b.op("Max", [sub(c, to, from), number(1)]);
  const start = unsqueeze(c, half ? sub(c, from, number(0.5)) : from, [2]); // (r, 1, 1)
  const bin = unsqueeze(c, scale(c, span, 1 / outside, dtype), [2]);
  const places = counts.flatMap((count) =>
    Array.from({ length: outside * most }, (_, at) => Math.floor(at / most) + ((at % most) + 0.5) / Math.max(1, count)),
  );
  const y = add(c, start, mul(c, bin, constantArray(c, dtype, [counts.length, outside, most], places))); // (r, p, i)
  const shares = counts.flatMap((count) => Array.from({ length: most }, (_, i) => (i < count ? 1 / count : 0)));
  const outOf = c.b.op("Or", [c.b.op("Less", [y, number(-1)]), c.b.op("Greater", [y, number(inside)])]);
  const seen = indicator(c, c.b.op("Not", [outOf]), dtype);
  const share = mul(c, seen, constantArray(c, dtype, [counts.length, 1, most], shares));
  const at = unsqueeze(c, c.b.op("Clip", [y, number(0), number(inside - 1)]), [3]); // (r, p, i, 1)
  const elements = constantArray(
    c,
    dtype,
    [inside],
    Array.from({ length: inside }, (_, h) => h),
  );
  const distance = c.b.op("Abs", [sub(c, at, elements)]); // (r, p, i, h)
  const near = c.b.op("Relu", [sub(c, number(1), distance)]);
  return reduceSum(c, mul(c, near, unsqueeze(c, share, [3])), [2], false);
}

// y[r] = A_rows[r]·x[image of r]·A_columns[r]ᵀ
export const lowerRoiAlign: Lower = (c) => {
  const { node } = c;
  const [x, rois, images] = node.inputs as readonly [Value, Value, Value];
  if ((node.string("mode") ?? "avg") !== "avg") throw refused(c, "with mode 'max'", "Average instead");
  const [height = 1, width = 1] = concreteShape(node, x, 2);
  const along = (axis: 0 | 1, inside: number, size: string): Value =>
    unsqueeze(c, interpolation(c, rois, { axis, inside, outside: node.int(size, 1) }), [1]);
  const rows = along(0, height, "output_height"); // (r, 1, p, h)
  const columns = transpose(c, along(1, width, "output_width"), [0, 1, 3, 2]); // (r, 1, w, q)
  const own = c.b.op("Gather", [x, images], { attributes: { axis: 0 } }); // (r, c, h, w)
  return [c.b.op("MatMul", [c.b.op("MatMul", [rows, own]), columns])];
};
