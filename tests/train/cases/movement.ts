/** Gradient cases of operators that move elements. */
import type { Builder } from "../../../src/ir/builder.ts";
import type { Value } from "../../../src/ir/graph.ts";
import { Tensor } from "../../../src/ir/tensor.ts";
import { type GradientCase, node } from "../gradient-check.ts";

const bools = (b: Builder, values: readonly number[]): Value =>
  b.constant("kept", Tensor.of("bool", [values.length], Uint8Array.from(values)));

const pads = (mode: string, shape: readonly number[], amounts: readonly number[]): GradientCase => ({
  name: `Pad ${mode} of ${shape.join("×")} by ${amounts.join(" ")}`,
  inputs: [{ shape }, { shape: [amounts.length], ints: amounts }],
  build: node("Pad", { attributes: { mode } }),
  linear: true,
});

const scatter = (op: string, reduction: string, more: object = {}): GradientCase => ({
  name: `${op} ${reduction}`,
  inputs:
    op === "ScatterND"
      ? [
          { shape: [4, 3], ...more },
          { shape: [2, 1], ints: [2, -4] },
          { shape: [2, 3], ...more },
        ]
      : [
          { shape: [3, 4], ...more },
          { shape: [2, 2], ints: [0, 3, 1, -1] },
          { shape: [2, 2], ...more },
        ],
  build: node(op, { attributes: op === "ScatterND" ? { reduction } : { axis: 1, reduction } }),
});

export const MOVEMENT_CASES: readonly GradientCase[] = [
  { name: "Tile", inputs: [{ shape: [2, 3] }, { shape: [2], ints: [3, 2] }], build: node("Tile") },
  { name: "Tile once", inputs: [{ shape: [2, 1, 3] }, { shape: [3], ints: [1, 2, 1] }], build: node("Tile") },
  {
    name: "Split num_outputs, the last part smaller",
    inputs: [{ shape: [2, 7] }],
    build: (b, [x]) => {
      const parts = b.ops("Split", [x], { outputs: 3, attributes: { axis: -1, num_outputs: 3 } });
      return b.op("Concat", [parts[2], parts[0]], { attributes: { axis: 1 } });
    },
  },
  {
    name: "Slice along all axes, some backwards",
    inputs: [
      { shape: [4, 5, 6] },
      { shape: [3], ints: [-1, 1, 5] },
      { shape: [3], ints: [-100, 100, 0] },
      { shape: [3], ints: [0, 1, 2] },
      { shape: [3], ints: [-2, 2, -1] },
    ],
    build: node("Slice"),
  },
  pads("edge", [3, 4], [1, 2, 0, 1]),
  pads("reflect", [1, 2, 4, 5], [0, 0, 1, 2, 0, 0, 2, 3]),
  pads("wrap", [3, 4], [2, 0, 1, 4]),
  pads("reflect", [2, 4], [0, 3, 0, 3]),
  {
    name: "Pad with a learned constant",
    inputs: [{ shape: [2, 3] }, { shape: [4], ints: [1, 0, 0, 2] }, { shape: [] }],
    build: node("Pad"),
  },
  {
    name: "Pad along named axes",
    inputs: [
      { shape: [2, 3, 4] },
      { shape: [2], ints: [1, 2] },
      { shape: [], values: [0], wanted: false },
      { shape: [1], ints: [-1] },
    ],
    build: node("Pad"),
  },
  ...["DCR", "CRD"].map(
    (mode): GradientCase => ({
      name: `DepthToSpace ${mode}`,
      inputs: [{ shape: [2, 8, 2, 3] }],
      build: node("DepthToSpace", { attributes: { blocksize: 2, mode } }),
    }),
  ),
  {
    name: "SpaceToDepth",
    inputs: [{ shape: [1, 2, 4, 6] }],
    build: node("SpaceToDepth", { attributes: { blocksize: 2 } }),
  },
  { name: "Trilu", inputs: [{ shape: [2, 3, 4] }, { shape: [], ints: [1] }], build: node("Trilu") },
  { name: "Trilu lower", inputs: [{ shape: [4, 3] }], build: node("Trilu", { attributes: { upper: 0 } }) },
  {
    name: "ReverseSequence",
    inputs: [{ shape: [4, 3, 2] }, { shape: [3], ints: [4, 1, 3] }],
    build: node("ReverseSequence", { attributes: { time_axis: 0, batch_axis: 1 } }),
    linear: true,
  },
  {
    name: "CenterCropPad",
    inputs: [{ shape: [5, 4] }, { shape: [2], ints: [2, 7] }],
    build: node("CenterCropPad"),
    linear: true,
  },
  {
    name: "CastLike",
    inputs: [{ shape: [3] }],
    build: (b, [x]) => b.op("CastLike", [x, b.constant("like", Tensor.float32([1], [0]))]),
    exact: (b, [x]) => b.op("Identity", [x]),
  },
  {
    name: "Dropout told not to train",
    inputs: [{ shape: [5] }],
    build: (b, [x]) =>
      b.op("Dropout", [x, b.constant("ratio", Tensor.float32([], [0.4])), b.op("Squeeze", [bools(b, [0])])]),
    exact: (b, [x]) => b.op("Identity", [x]),
  },
  {
    name: "Gather a whole table",
    inputs: [{ shape: [300, 2] }, { shape: [3], ints: [7, 299, 7] }],
    build: node("Gather"),
  },
  {
    name: "Gather before scatters could add",
    opset: 11,
    inputs: [{ shape: [2, 4, 2] }, { shape: [2, 2], ints: [0, 2, 0, -1] }],
    build: (b, [x, i]) => b.op("Gather", [x, b.op("Identity", [i])], { attributes: { axis: 1 } }),
  },
  ...[0, 1, 2].flatMap((axis) =>
    [4, 600].map(
      (rows): GradientCase => ({
        name: `Gather along axis ${axis} of ${rows} at places found while running`,
        inputs: [
          { shape: [2, 2, 2].map((size, i) => (i === axis ? rows : size)) },
          { shape: [2, 2], values: [0.6, 1.7, 0.2, 3.1], wanted: false },
        ],
        build: (b, [x, i]) =>
          b.op("Gather", [x, b.op("Cast", [i], { attributes: { to: 7 } })], { attributes: { axis } }),
      }),
    ),
  ),
  {
    name: "GatherElements",
    inputs: [{ shape: [3, 4] }, { shape: [2, 3], ints: [0, 0, 3, 1, -1, 1] }],
    build: node("GatherElements", { attributes: { axis: 1 } }),
  },
  {
    name: "GatherElements before scatters could add",
    opset: 13,
    inputs: [{ shape: [3, 4] }, { shape: [2, 3], ints: [0, 0, 3, 1, -1, 1] }],
    build: node("GatherElements", { attributes: { axis: 1 } }),
  },
  {
    name: "GatherND",
    inputs: [{ shape: [3, 4, 2] }, { shape: [3, 2], ints: [0, 1, 2, -1, 0, 1] }],
    build: node("GatherND"),
  },
  {
    name: "GatherND in batches",
    inputs: [{ shape: [2, 3, 4] }, { shape: [2, 2, 1], ints: [0, 0, 2, -3] }],
    build: node("GatherND", { attributes: { batch_dims: 1 } }),
  },
  ...["ScatterElements", "ScatterND"].flatMap((op) => [
    scatter(op, "none"),
    scatter(op, "add"),
    scatter(op, "mul", { low: 0.5, high: 2 }),
    scatter(op, "max"),
    scatter(op, "min"),
  ]),
  {
    name: "Compress",
    inputs: [{ shape: [3, 4] }],
    build: (b, [x]) => b.op("Compress", [x, bools(b, [1, 0, 1])], { attributes: { axis: 0 } }),
  },
  {
    name: "Compress of all",
    inputs: [{ shape: [2, 3] }],
    build: (b, [x]) => b.op("Compress", [x, bools(b, [0, 1, 1, 0, 1])]),
  },
  {
    name: "TopK",
    inputs: [{ shape: [3, 5] }, { shape: [1], ints: [2] }],
    build: (b, inputs) => b.ops("TopK", inputs, { outputs: 2, attributes: { axis: 1 } })[0] as Value,
  },
  {
    name: "TopK, the smallest",
    inputs: [{ shape: [4, 3] }, { shape: [1], ints: [3] }],
    build: (b, inputs) => b.ops("TopK", inputs, { outputs: 2, attributes: { axis: 0, largest: 0 } })[0] as Value,
  },
  {
    name: "Slice whose bounds are found while running",
    inputs: [{ shape: [5, 3] }, { shape: [1], values: [1.2], wanted: false }],
    build: (b, [x, start]) => {
      const list = (value: number): Value => b.constant("list", Tensor.int64([value]));
      const from = b.op("Cast", [start], { attributes: { to: 7 } });
      return b.op("Slice", [x, from, list(9), list(0), list(2)]);
    },
    exact: (b, [x]) => {
      const list = (value: number): Value => b.constant("list", Tensor.int64([value]));
      return b.op("Slice", [x, list(1), list(9), list(0), list(2)]);
    },
  },
];
