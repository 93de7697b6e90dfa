/** Gradient cases of resizing: every mode, coordinate transformation and rounding that the engine runs. */
import { float } from "../../../src/ir/attribute.ts";
import { Tensor } from "../../../src/ir/tensor.ts";
import type { GradientCase } from "../gradient-check.ts";

interface Resizing {
  readonly scales?: readonly number[];
  readonly sizes?: readonly number[];
  readonly roi?: readonly number[];
  readonly attributes: Readonly<Record<string, string | number | ReturnType<typeof float>>>;
}

const resize = (
  name: string,
  shape: readonly number[],
  { scales, sizes, roi, attributes }: Resizing,
): GradientCase => ({
  name: `Resize ${name}`,
  inputs: [{ shape }],
  linear: true,
  build: (b, [x]) => {
    const floats = (values: readonly number[]) => b.constant("floats", Tensor.float32([values.length], values));
    return b.op(
      "Resize",
      [x, roi && floats(roi), scales && floats(scales), sizes && b.constant("sizes", Tensor.int64(sizes))],
      { attributes },
    );
  },
});

const COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"];
const ROUNDING = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];

export const RESAMPLING_CASES: readonly GradientCase[] = [
  ...[...COORDINATES, "tf_half_pixel_for_nn"].flatMap((coordinate_transformation_mode) =>
    ROUNDING.flatMap((nearest_mode) =>
      [
        [1, 1, 2, 3],
        [1, 1, 0.6, 1.7],
      ].map((scales) =>
        resize(
          `nearest ${coordinate_transformation_mode} ${nearest_mode} by ${scales.slice(2).join("×")}`,
          [1, 2, 5, 4],
          {
            scales,
            attributes: { mode: "nearest", coordinate_transformation_mode, nearest_mode },
          },
        ),
      ),
    ),
  ),
  ...COORDINATES.flatMap((coordinate_transformation_mode) =>
    ["linear", "cubic"].flatMap((mode) => [
      resize(`${mode} ${coordinate_transformation_mode} up`, [1, 2, 3, 4], {
        scales: [1, 1, 2, 2.5],
        attributes: { mode, coordinate_transformation_mode },
      }),
      resize(`${mode} ${coordinate_transformation_mode} to a size`, [2, 1, 6, 5], {
        sizes: [2, 1, 4, 7],
        attributes: { mode, coordinate_transformation_mode },
      }),
    ]),
  ),
  resize("cubic without what lies outside", [1, 1, 4, 4], {
    scales: [1, 1, 0.7, 1.6],
    attributes: { mode: "cubic", exclude_outside: 1, cubic_coeff_a: float(-0.5) },
  }),
  resize("linear in three dimensions", [1, 1, 3, 2, 4], {
    scales: [1, 1, 2, 1.5, 0.5],
    attributes: { mode: "linear" },
  }),
  ...["nearest", "linear", "cubic"].map((mode) =>
    resize(`${mode} of a region`, [1, 1, 5, 6], {
      sizes: [1, 1, 4, 4],
      roi: [0, 0, 0.2, -0.3, 1, 1, 0.9, 1.1],
      attributes: { mode, coordinate_transformation_mode: "tf_crop_and_resize" },
    }),
  ),
  resize("linear keeping the aspect ratio", [1, 1, 4, 6], {
    sizes: [1, 1, 7, 8],
    attributes: { mode: "linear", keep_aspect_ratio_policy: "not_larger" },
  }),
];
