/** Every gradient rule against central differences, over shapes and attributes, with wrong gradients as negative controls. */
import { describe, expect, test } from "vitest";
import { float } from "../../src/ir/attribute.ts";
import type { Builder } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { knownOperators, specOf } from "../../src/ops/registry.ts";
import { type Sliding, averagePool, convolution, flipKernel, spreadPixels } from "./convolution-reference.ts";
import { type GradientCase, gradientError, node } from "./gradient-check.ts";
import { ARITHMETIC } from "./operator-check.ts";
import { RANDOM } from "./random-cases.ts";
import { STRUCTURE_CASES } from "./structure-cases.ts";

/** float32 arithmetic of some dozen terms: a few 1e-6; anything wrong in a rule is off by 1e-2 and more. */
const TOLERANCE = 2e-4;

const positive = { low: 0.5, high: 2 };
const ints = (b: Builder, values: readonly number[]): Value => b.constant("list", Tensor.int64(values));
const one = (shape: readonly number[], range: object = {}) => [{ shape, ...range }];
const two = (a: readonly number[], b: readonly number[], range: object = {}) => [
  { shape: a, ...range },
  { shape: b, ...range },
];

function erf(x: number): number {
  // Maclaurin series: 2/√π Σ (−1)ⁿ x^(2n+1)/(n!(2n+1)), enough terms for |x| ≤ 3
  let [term, sum] = [x, x];
  for (let n = 1; n < 60; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

/** A convolution; `pads` is what automatic padding comes to. */
const conv = (
  name: string,
  x: readonly number[],
  w: readonly number[],
  attributes: Sliding & { readonly auto_pad?: string },
): GradientCase => {
  const { auto_pad, pads, ...rest } = attributes;
  return {
    name: `Conv ${name}`,
    inputs: [{ shape: x }, { shape: w }, { shape: [w[0] ?? 1] }],
    build: node("Conv", { attributes: { ...rest, auto_pad, pads: auto_pad ? undefined : pads } }),
    reference: (inputs) => convolution(inputs, x, w, attributes),
  };
};

const pool = (name: string, x: readonly number[], size: number, attributes: Sliding, counted = 0): GradientCase => ({
  name: `AveragePool ${name}`,
  inputs: [{ shape: x }],
  build: node("AveragePool", {
    attributes: { kernel_shape: [size, size], count_include_pad: counted, ...attributes },
  }),
  reference: ([values]) => averagePool(values as Float64Array, x, size, attributes),
});

const CASES: Record<string, readonly GradientCase[]> = {
  arithmetic: [
    ...["Add", "Sub", "Mul", "Div"].flatMap((op) => [
      { name: `${op} same`, inputs: two([2, 3], [2, 3], positive), build: node(op) },
      { name: `${op} row`, inputs: two([2, 3], [3], positive), build: node(op) },
      { name: `${op} column against row`, inputs: two([2, 1], [1, 3], positive), build: node(op) },
      { name: `${op} scalar`, inputs: two([], [2, 3], positive), build: node(op) },
      { name: `${op} channel`, inputs: two([2, 3, 2, 2], [3, 1, 1], positive), build: node(op) },
    ]),
    { name: "a value used twice", inputs: one([2, 3]), build: (b, [x]) => b.op("Mul", [x, x]) },
    { name: "a value used three times", inputs: one([4]), build: (b, [x]) => b.op("Sum", [x, b.op("Mul", [x, x]), x]) },
    { name: "Neg", inputs: one([3]), build: node("Neg") },
    { name: "Pow", inputs: two([2, 3], [2, 3], positive), build: node("Pow") },
    ...[2, 0.5, 3].map((power) => ({
      name: `Pow ${power}`,
      inputs: [
        { shape: [4], ...positive },
        { shape: [], values: [power], wanted: false },
      ],
      build: node("Pow"),
    })),
    { name: "Sqrt", inputs: one([4], positive), build: node("Sqrt") },
    { name: "Reciprocal", inputs: one([4], positive), build: node("Reciprocal") },
    { name: "Abs", inputs: one([6]), build: node("Abs") },
    { name: "Exp", inputs: one([4]), build: node("Exp") },
    { name: "Log", inputs: one([4], positive), build: node("Log") },
    { name: "Sum", inputs: [{ shape: [2, 3] }, { shape: [3] }, { shape: [1] }], build: node("Sum") },
    {
      name: "Mean",
      inputs: [{ shape: [2, 3] }, { shape: [2, 3] }, { shape: [3] }],
      build: node("Mean"),
      exact: (b, inputs) => {
        const third = b.constant("third", Tensor.of("float64", [], Float64Array.of(1 / 3)));
        return b.op("Mul", [b.op("Sum", inputs), third]);
      },
    },
    { name: "Max", inputs: two([2, 3], [3]), build: node("Max") },
    { name: "Min", inputs: two([2, 3], [2, 1]), build: node("Min") },
    {
      name: "Where",
      inputs: two([2, 3], [3]),
      build: (b, [x, y]) => b.op("Where", [b.op("Greater", [x, y]), x, y]),
    },
  ],
  activation: [
    { name: "Relu", inputs: one([8]), build: node("Relu") },
    {
      name: "LeakyRelu",
      inputs: one([8]),
      build: node("LeakyRelu", { attributes: { alpha: float(0.2) } }),
      scalar: (x) => (x > 0 ? x : 0.2 * x),
    },
    { name: "Sigmoid", inputs: one([8]), build: node("Sigmoid") },
    { name: "Tanh", inputs: one([8]), build: node("Tanh") },
    {
      name: "Clip",
      inputs: [
        { shape: [8] },
        { shape: [], values: [-0.5], wanted: false },
        { shape: [], values: [0.4], wanted: false },
      ],
      build: node("Clip"),
    },
    { name: "Erf", inputs: one([8]), build: node("Erf"), scalar: erf },
    {
      name: "Gelu",
      inputs: one([8], { low: -3, high: 3 }),
      build: node("Gelu"),
      scalar: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
    },
    {
      name: "Gelu tanh",
      inputs: one([8], { low: -3, high: 3 }),
      build: node("Gelu", { attributes: { approximate: "tanh" } }),
      scalar: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    },
    { name: "Elu", inputs: one([8]), build: node("Elu"), scalar: (x) => (x > 0 ? x : Math.expm1(x)) },
    { name: "Softplus", inputs: one([8]), build: node("Softplus"), scalar: (x) => Math.log1p(Math.exp(x)) },
    { name: "Softsign", inputs: one([8]), build: node("Softsign"), scalar: (x) => x / (1 + Math.abs(x)) },
    {
      name: "HardSigmoid",
      inputs: one([12], { low: -4, high: 4 }),
      build: node("HardSigmoid"),
      scalar: (x) => Math.min(1, Math.max(0, 0.2 * x + 0.5)),
    },
    {
      name: "HardSwish",
      inputs: one([12], { low: -4, high: 4 }),
      build: node("HardSwish"),
      scalar: (x) => x * Math.min(1, Math.max(0, x / 6 + 0.5)),
    },
  ],
  matmul: [
    { name: "MatMul", inputs: two([2, 3], [3, 4]), build: node("MatMul") },
    { name: "MatMul stack × matrix", inputs: two([2, 2, 3], [3, 4]), build: node("MatMul") },
    { name: "MatMul stack × stack", inputs: two([2, 2, 3], [2, 3, 2]), build: node("MatMul") },
    { name: "MatMul matrix × stack", inputs: two([2, 3], [2, 3, 2]), build: node("MatMul") },
    { name: "MatMul broadcast stacks", inputs: two([2, 1, 2, 3], [3, 3, 2]), build: node("MatMul") },
    { name: "MatMul vector × matrix", inputs: two([3], [3, 2]), build: node("MatMul") },
    { name: "MatMul matrix × vector", inputs: two([2, 3], [3]), build: node("MatMul") },
    { name: "MatMul vector × vector", inputs: two([3], [3]), build: node("MatMul") },
    { name: "MatMul vector × stack", inputs: two([3], [2, 3, 2]), build: node("MatMul") },
    ...[0, 1].flatMap((transA) =>
      [0, 1].map((transB) => ({
        name: `Gemm transA ${transA} transB ${transB}`,
        inputs: [
          { shape: transA ? [3, 2] : [2, 3] },
          { shape: transB ? [4, 3] : [3, 4] },
          { shape: transA ? [4] : [2, 1] },
        ],
        build: node("Gemm", { attributes: { transA, transB, alpha: float(0.5), beta: float(2) } }),
      })),
    ),
    { name: "Gemm plain", inputs: two([2, 3], [3, 4]), build: node("Gemm") },
  ],
  convolution: [
    conv("plain", [2, 2, 5, 5], [3, 2, 3, 3], {}),
    conv("padded", [2, 2, 4, 5], [3, 2, 3, 3], { pads: [1, 1, 1, 1] }),
    conv("uneven pads", [1, 2, 4, 5], [2, 2, 3, 2], { pads: [0, 1, 2, 0] }),
    conv("stride", [2, 2, 6, 6], [2, 2, 3, 3], { strides: [2, 2], pads: [1, 1, 1, 1] }),
    conv("stride with a rest", [1, 2, 6, 7], [2, 2, 3, 3], { strides: [2, 3] }),
    conv("dilation", [1, 2, 6, 6], [2, 2, 2, 3], { dilations: [2, 2], pads: [1, 2, 1, 2] }),
    conv("stride and dilation", [1, 1, 7, 7], [2, 1, 2, 2], { strides: [2, 2], dilations: [3, 2] }),
    conv("groups", [2, 4, 4, 4], [6, 2, 3, 3], { group: 2, pads: [1, 1, 1, 1] }),
    conv("depthwise", [2, 3, 4, 4], [3, 1, 3, 3], { group: 3, pads: [1, 1, 1, 1] }),
    conv("depthwise stride", [1, 3, 5, 5], [6, 1, 3, 3], { group: 3, strides: [2, 2], pads: [1, 1, 1, 1] }),
    conv("pointwise", [2, 3, 3, 3], [4, 3, 1, 1], {}),
    conv("pointwise stride", [2, 3, 4, 4], [4, 3, 1, 1], { strides: [2, 2] }),
    conv("SAME_UPPER", [1, 2, 5, 5], [2, 2, 2, 2], { auto_pad: "SAME_UPPER", strides: [2, 2], pads: [0, 0, 1, 1] }),
    conv("SAME_LOWER", [1, 2, 4, 4], [2, 2, 2, 2], { auto_pad: "SAME_LOWER", pads: [1, 1, 0, 0] }),
    conv("1-D", [2, 2, 7], [3, 2, 3], { pads: [1, 1], strides: [2] }),
    conv("3-D", [1, 2, 3, 3, 3], [2, 2, 2, 2, 2], { pads: [0, 1, 0, 1, 0, 0] }),
    {
      name: "ConvTranspose",
      inputs: [{ shape: [2, 2, 3, 3] }, { shape: [2, 3, 3, 3] }, { shape: [3] }],
      build: node("ConvTranspose", { attributes: { strides: [2, 2], pads: [1, 1, 1, 1], output_padding: [1, 1] } }),
      reference: ([x, w, bias]) =>
        convolution(
          [
            spreadPixels(x as Float64Array, [2, 2, 3, 3], 2),
            flipKernel(w as Float64Array, [2, 3, 3, 3]),
            bias as Float64Array,
          ],
          [2, 2, 6, 6],
          [3, 2, 3, 3],
          { pads: [1, 1, 1, 1] },
        ),
    },
  ],
  pooling: [
    {
      name: "MaxPool",
      inputs: one([2, 2, 4, 4]),
      build: node("MaxPool", { attributes: { kernel_shape: [2, 2], strides: [2, 2] } }),
    },
    {
      name: "MaxPool with a rest",
      inputs: one([1, 2, 5, 5]),
      build: node("MaxPool", { attributes: { kernel_shape: [2, 2], strides: [2, 2] } }),
    },
    {
      name: "MaxPool overlapping",
      inputs: one([2, 2, 5, 5]),
      build: node("MaxPool", { attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] } }),
    },
    pool("tiles", [2, 3, 4, 4], 2, { strides: [2, 2] }),
    pool("with a rest", [1, 2, 5, 5], 2, { strides: [2, 2] }),
    pool("overlapping, padding counted", [2, 2, 5, 5], 3, { strides: [2, 2], pads: [1, 1, 1, 1] }, 1),
    {
      ...pool("overlapping, padding not counted", [2, 2, 4, 4], 3, { pads: [1, 1, 1, 1] }),
      reference: ([x]) => {
        // 9 over the number of taps inside the image
        const along = [1.5, 1, 1, 1.5];
        const sums = averagePool(x as Float64Array, [2, 2, 4, 4], 3, { pads: [1, 1, 1, 1] });
        return sums.map((value, i) => value * (along[i % 4] ?? 1) * (along[Math.floor(i / 4) % 4] ?? 1));
      },
    },
    {
      name: "GlobalAveragePool",
      inputs: one([2, 2, 3, 3]),
      build: node("GlobalAveragePool"),
      exact: (b, [x]) => b.op("ReduceMean", [x, ints(b, [2, 3])]),
    },
    {
      name: "GlobalMaxPool",
      inputs: one([2, 2, 3, 3]),
      build: node("GlobalMaxPool"),
      exact: (b, [x]) => b.op("ReduceMax", [x, ints(b, [2, 3])]),
    },
  ],
  normalization: [
    {
      name: "BatchNormalization with given statistics",
      inputs: [{ shape: [3, 2, 2, 2] }, { shape: [2] }, { shape: [2] }, { shape: [2] }, { shape: [2], ...positive }],
      build: node("BatchNormalization"),
    },
    ...[0, 0.8].map((momentum) => ({
      name: `BatchNormalization with the batch's statistics, momentum ${momentum}`,
      inputs: [
        { shape: [4, 3, 2, 2] },
        { shape: [3] },
        { shape: [3] },
        { shape: [3], wanted: false },
        { shape: [3], ...positive, wanted: false },
      ],
      build: (b: Builder, inputs: readonly Value[]) =>
        b.ops("BatchNormalization", inputs, {
          outputs: 3,
          attributes: { training_mode: 1, momentum: float(momentum) },
        })[0] as Value,
      exact: (b: Builder, inputs: readonly Value[]) => batchNormalization(b, inputs),
    })),
  ],
  softmax: [
    { name: "Softmax", inputs: one([2, 4]), build: node("Softmax") },
    { name: "Softmax axis 1", inputs: one([2, 3, 2]), build: node("Softmax", { attributes: { axis: 1 } }) },
    { name: "Softmax before opset 13", opset: 11, inputs: one([2, 3, 2]), build: node("Softmax") },
    { name: "LogSoftmax", inputs: one([2, 4]), build: node("LogSoftmax") },
    ...["mean", "sum", "none"].map((reduction) => ({
      name: `SoftmaxCrossEntropyLoss ${reduction}`,
      inputs: [{ shape: [3, 4] }, { shape: [3], ints: [0, 3, 1] }],
      build: node("SoftmaxCrossEntropyLoss", { attributes: { reduction } }),
    })),
    {
      name: "SoftmaxCrossEntropyLoss over positions, one class ignored",
      inputs: [{ shape: [2, 3, 2] }, { shape: [2, 2], ints: [0, 2, 1, 2] }],
      build: node("SoftmaxCrossEntropyLoss", { attributes: { ignore_index: 1 } }),
    },
    {
      name: "SoftmaxCrossEntropyLoss, both outputs used",
      inputs: [{ shape: [2, 3] }, { shape: [2], ints: [2, 0] }],
      build: (b, inputs) => {
        const [loss, logP] = b.ops("SoftmaxCrossEntropyLoss", inputs, { outputs: 2 });
        return b.op("Add", [loss, b.op("Mul", [logP, logP])]);
      },
    },
  ],
  reduction: [
    ...["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL2"].flatMap((op) => [
      { name: `${op} all`, inputs: one([2, 3]), build: node(op, { attributes: { keepdims: 0 } }) },
      {
        name: `${op} some`,
        inputs: [{ shape: [2, 3, 2] }, { shape: [2], ints: [0, -1] }],
        build: node(op, { attributes: { keepdims: 1 } }),
      },
      {
        name: `${op} one, dropped`,
        inputs: [{ shape: [2, 3, 2] }, { shape: [1], ints: [1] }],
        build: node(op, { attributes: { keepdims: 0 } }),
      },
    ]),
    {
      name: "ReduceMean with axes as attribute",
      opset: 13,
      inputs: one([2, 3]),
      build: node("ReduceMean", { attributes: { axes: [1], keepdims: 0 } }),
    },
  ],
  movement: [
    { name: "Reshape", inputs: [{ shape: [2, 6] }, { shape: [3], ints: [2, 3, 2] }], build: node("Reshape") },
    { name: "Flatten", inputs: one([2, 3, 2]), build: node("Flatten") },
    { name: "Squeeze", inputs: [{ shape: [2, 1, 3] }, { shape: [1], ints: [1] }], build: node("Squeeze") },
    { name: "Unsqueeze", inputs: [{ shape: [2, 3] }, { shape: [2], ints: [0, 2] }], build: node("Unsqueeze") },
    { name: "Identity", inputs: one([3]), build: node("Identity") },
    { name: "Dropout", inputs: one([3]), build: node("Dropout"), exact: node("Identity") },
    { name: "Transpose", inputs: one([2, 3, 4]), build: node("Transpose", { attributes: { perm: [1, 2, 0] } }) },
    { name: "Transpose reversed", inputs: one([2, 3, 2]), build: node("Transpose") },
    {
      name: "Concat",
      inputs: [{ shape: [2, 1] }, { shape: [2, 3] }, { shape: [2, 2] }],
      build: node("Concat", { attributes: { axis: -1 } }),
    },
    {
      name: "Split, one part unused",
      inputs: one([2, 6]),
      build: (b, [x]) => {
        const parts = b.ops("Split", [x, ints(b, [1, 2, 3])], { outputs: 3, attributes: { axis: 1 } });
        return b.op("Concat", [parts[2], parts[0]], { attributes: { axis: 1 } });
      },
    },
    {
      name: "Slice",
      inputs: one([3, 6]),
      build: (b, [x]) => b.op("Slice", [x, ints(b, [1, -4]), ints(b, [3, 100]), ints(b, [0, 1])]),
    },
    {
      name: "Slice with steps",
      inputs: one([2, 7]),
      build: (b, [x]) => b.op("Slice", [x, ints(b, [1]), ints(b, [7]), ints(b, [1]), ints(b, [2])]),
    },
    {
      name: "Slice with a step that stops early",
      inputs: one([2, 8, 2]),
      build: (b, [x]) => b.op("Slice", [x, ints(b, [0]), ints(b, [6]), ints(b, [1]), ints(b, [3])]),
    },
    {
      name: "Slice backwards",
      inputs: one([6]),
      build: (b, [x]) => b.op("Slice", [x, ints(b, [-1]), ints(b, [-100]), ints(b, [0]), ints(b, [-1])]),
    },
    {
      name: "Slice backwards with steps",
      inputs: one([7, 2]),
      build: (b, [x]) => b.op("Slice", [x, ints(b, [5]), ints(b, [0]), ints(b, [0]), ints(b, [-2])]),
    },
    {
      name: "Slice every second pixel",
      inputs: one([1, 2, 4, 5]),
      build: (b, [x]) => b.op("Slice", [x, ints(b, [0, 0]), ints(b, [99, 99]), ints(b, [2, 3]), ints(b, [2, 2])]),
    },
    {
      name: "Pad",
      inputs: [{ shape: [2, 3] }, { shape: [4], ints: [1, 0, 0, 2] }],
      build: node("Pad"),
    },
    {
      name: "Pad that also cuts",
      inputs: [{ shape: [2, 4] }, { shape: [4], ints: [1, -1, 0, 2] }],
      build: node("Pad"),
    },
    { name: "Expand", inputs: [{ shape: [3, 1] }, { shape: [3], ints: [2, 3, 2] }], build: node("Expand") },
    {
      name: "Cast",
      inputs: one([3]),
      build: (b, [x]) => b.op("Cast", [x], { attributes: { to: 1 } }),
      exact: (b, [x]) => b.op("Identity", [x]),
    },
    {
      name: "Gather rows, some twice",
      inputs: [{ shape: [4, 2] }, { shape: [2, 2], ints: [1, 3, 1, -1] }],
      build: node("Gather"),
    },
    {
      name: "Gather along axis 1",
      inputs: [{ shape: [2, 4, 2] }, { shape: [3], ints: [0, 2, 0] }],
      build: node("Gather", { attributes: { axis: 1 } }),
    },
    {
      name: "Gather one",
      inputs: [{ shape: [2, 4] }, { shape: [], ints: [2] }],
      build: node("Gather", { attributes: { axis: 1 } }),
    },
  ],
};

/** Training-form batch normalization of (n, c, h, w) in plain operators. */
function batchNormalization(b: Builder, [x, scale, bias]: readonly Value[]): Value {
  const axes = ints(b, [0, 2, 3]);
  const mean = b.op("ReduceMean", [x, axes]);
  const centred = b.op("Sub", [x, mean]);
  const variance = b.op("ReduceMean", [b.op("Mul", [centred, centred]), axes]);
  const epsilon = b.constant("epsilon", Tensor.of("float64", [], Float64Array.of(Math.fround(1e-5))));
  const normal = b.op("Div", [centred, b.op("Sqrt", [b.op("Add", [variance, epsilon])])]);
  const column = ints(b, [-1, 1, 1]);
  const scaled = b.op("Mul", [normal, b.op("Reshape", [scale, column])]);
  return b.op("Add", [scaled, b.op("Reshape", [bias, column])]);
}

for (const [family, cases] of Object.entries(CASES))
  describe(`gradients: ${family}`, () => {
    for (const each of cases)
      test(each.name, async () => {
        expect(await gradientError(each)).toBeLessThan(TOLERANCE);
      });
  });

describe("gradients with an open batch axis", () => {
  const open = ["Add same", "Add row", "MatMul", "MatMul stack × matrix", "Softmax", "ReduceMean all", "Flatten"];
  const images = ["Conv padded", "Conv groups", "MaxPool", "AveragePool tiles", "GlobalAveragePool"];
  for (const each of Object.values(CASES).flat())
    if (open.includes(each.name) || images.includes(each.name))
      test(each.name, async () => {
        expect(await gradientError(each, { symbolic: true })).toBeLessThan(TOLERANCE);
      });
});

describe("negative controls", () => {
  const broken: Record<string, (gradient: number[]) => void> = {
    "a factor of 1.01": (gradient) => gradient.forEach((value, i) => (gradient[i] = value * 1.01)),
    "a wrong sign": (gradient) => gradient.forEach((value, i) => (gradient[i] = -value)),
    "one element lost": (gradient) => {
      gradient[gradient.findIndex((value) => Math.abs(value) > 0.05)] = 0;
    },
  };
  const sample = [CASES["arithmetic"]?.[0], CASES["convolution"]?.[0], CASES["softmax"]?.[0], CASES["pooling"]?.[0]];
  for (const [name, corrupt] of Object.entries(broken))
    for (const each of sample)
      test(`${each?.name} with ${name} fails`, async () => {
        expect(await gradientError(each as GradientCase, { corrupt })).toBeGreaterThan(5 * TOLERANCE);
      });
});

test("every operator with a rule has a case", () => {
  const tested = new Set<string>();
  for (const each of [...Object.values(CASES), ...Object.values(STRUCTURE_CASES)].flat()) {
    const [word] = each.name.split(/[ ,]/);
    tested.add(word ?? "");
  }
  for (const name of Object.keys(RANDOM)) tested.add(name.split(" ")[0] ?? "");
  const differentiable = knownOperators().filter(
    (op) => !op.includes("::") && typeof specOf({ opType: op, domain: "" }, 99)?.grad === "function",
  );
  const untested = differentiable.filter((op) => !tested.has(op) && !(op in ARITHMETIC));
  expect(untested).toEqual([]);
});
