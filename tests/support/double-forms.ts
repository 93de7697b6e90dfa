/** Operators without a float64 kernel in the engine, written in ones that have it, for the exact side of gradient checks. */
import type { Builder } from "../../src/ir/builder.ts";
import { dtypeCode } from "../../src/base/dtype.ts";
import type { Node, Value } from "../../src/ir/graph.ts";
import { Tensor } from "../../src/ir/tensor.ts";

/** Undefined where the form does not fit the node. */
type Form = (b: Builder, node: Node) => Value | undefined;

const sizes = (value: Value | undefined): number[] =>
  (value?.tensor?.shape ?? value?.shape ?? []).map((size) => (typeof size === "number" ? size : Number.NaN));
const product = (list: readonly number[]): number => list.reduce((n, size) => n * size, 1);
const doubles = (b: Builder, shape: readonly number[], data: ArrayLike<number>): Value =>
  b.constant("double", Tensor.of("float64", shape, Float64Array.from(data)));
const reshape = (b: Builder, x: Value | undefined, shape: readonly number[]): Value =>
  b.op("Reshape", [x, b.constant("shape", Tensor.int64(shape))]);

interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** In front of each axis. */
  readonly begin: readonly number[];
}

function windowOf(
  node: Node,
  inside: readonly number[],
  outside: readonly number[],
  kernel: readonly number[],
): Window {
  const strides = node.ints("strides") ?? kernel.map(() => 1);
  const dilations = node.ints("dilations") ?? kernel.map(() => 1);
  const auto = node.string("auto_pad") ?? "NOTSET";
  const total = kernel.map((k, i) => {
    const reach = ((outside[i] ?? 1) - 1) * (strides[i] ?? 1) + (k - 1) * (dilations[i] ?? 1) + 1;
    return Math.max(0, reach - (inside[i] ?? 1));
  });
  const begin = auto.startsWith("SAME")
    ? total.map((pad) => (auto === "SAME_UPPER" ? Math.floor(pad / 2) : Math.ceil(pad / 2)))
    : auto === "VALID"
      ? kernel.map(() => 0)
      : (node.ints("pads") ?? kernel.map(() => 0)).slice(0, kernel.length);
  return { kernel, strides, dilations, begin };
}

/**
 * For every tap and every output position the flat source position, or -1 in the padding. `transposed`: the positions whose
 * window holds the output position there.
 */
function sources(window: Window, inside: readonly number[], outside: readonly number[], transposed = false): number[] {
  const found: number[] = [];
  const digits = (flat: number, base: readonly number[]): number[] => {
    const result: number[] = [];
    let rest = flat;
    for (const size of base.slice().reverse()) {
      result.unshift(rest % size);
      rest = Math.floor(rest / size);
    }
    return result;
  };
  for (let tap = 0; tap < product(window.kernel); tap++) {
    const at = digits(tap, window.kernel);
    for (let place = 0; place < product(outside); place++) {
      const position = digits(place, outside).map((o, i) => {
        const [stride, offset] = [window.strides[i] ?? 1, (at[i] ?? 0) * (window.dilations[i] ?? 1)];
        const begin = window.begin[i] ?? 0;
        return transposed ? (o + begin - offset) / stride : o * stride + offset - begin;
      });
      const padded = position.some((p, i) => p < 0 || p >= (inside[i] ?? 0) || !Number.isInteger(p));
      found.push(padded ? -1 : position.reduce((flat, p, i) => flat * (inside[i] ?? 1) + p, 0));
    }
  }
  return found;
}

/** x (n, c, *inside) as (n, c, taps, places), zero in the padding. */
function patches(b: Builder, x: Value, window: Window, outside: readonly number[], transposed = false): Value {
  const [n = 1, c = 1, ...inside] = sizes(x);
  const [taps, places] = [product(window.kernel), product(outside)];
  const flat = reshape(b, x, [n, c, product(inside)]);
  const map = sources(window, inside, outside, transposed);
  if (map.length === product(inside) && map.every((source, i) => source === i))
    return reshape(b, flat, [n, c, taps, places]);
  const zero = doubles(b, [n, c, 1], new Float64Array(n * c));
  const padded = b.op("Concat", [flat, zero], { attributes: { axis: 2 } });
  const indices = map.map((source) => (source < 0 ? product(inside) : source));
  return b.op("Gather", [padded, b.constant("places", Tensor.int64(indices, [taps, places]))], {
    attributes: { axis: 2 },
  });
}

// y (n, g, m/g, places) = W (g, m/g, c/g·taps) · patches (n, g, c/g·taps, places)
const conv: Form = (b, node) => {
  const [x, w, bias] = node.inputs;
  const [n = 1, c = 1, ...inside] = sizes(x);
  const [m = 1, , ...kernel] = sizes(w);
  const outside = sizes(node.outputs[0]).slice(2);
  const group = node.int("group", 1);
  const window = windowOf(node, inside, outside, kernel);
  const places = product(outside);
  const columns = reshape(b, patches(b, x as Value, window, outside), [
    n,
    group,
    (c / group) * product(kernel),
    places,
  ]);
  const matrix = reshape(b, w, [1, group, m / group, (c / group) * product(kernel)]);
  const y = reshape(b, b.op("MatMul", [matrix, columns]), [n, m, ...outside]);
  return bias ? b.op("Add", [y, reshape(b, bias, [1, m, ...outside.map(() => 1)])]) : y;
};

// the same with W (g, c/g, m/g, taps) and the positions whose windows hold the output's
const convTranspose: Form = (b, node) => {
  const [x, w, bias] = node.inputs;
  const [n = 1, c = 1, ...inside] = sizes(x);
  const [, perGroup = 1, ...kernel] = sizes(w);
  const outside = sizes(node.outputs[0]).slice(2);
  if ((node.string("auto_pad") ?? "NOTSET") !== "NOTSET" || node.ints("output_shape")) return undefined;
  const group = node.int("group", 1);
  const window = windowOf(node, inside, outside, kernel);
  const [taps, places] = [product(kernel), product(outside)];
  const columns = reshape(b, patches(b, x as Value, window, outside, true), [n, group, (c / group) * taps, places]);
  const turned = b.op("Transpose", [reshape(b, w, [group, c / group, perGroup, taps])], {
    attributes: { perm: [0, 2, 1, 3] },
  });
  const matrix = reshape(b, turned, [1, group, perGroup, (c / group) * taps]);
  const y = reshape(b, b.op("MatMul", [matrix, columns]), [n, perGroup * group, ...outside]);
  return bias ? b.op("Add", [y, reshape(b, bias, [1, perGroup * group, ...outside.map(() => 1)])]) : y;
};

// nearest neighbours of the leading 24 bits, and of the next 24: both exact
const resize: Form = (b, node) => {
  if ((node.string("mode") ?? "nearest") !== "nearest") return undefined;
  const cast = (x: Value | undefined, to: "float32" | "float64"): Value =>
    b.op("Cast", [x], { attributes: { to: dtypeCode(to) } });
  const [x, ...rest] = node.inputs;
  const resized = (part: Value): Value =>
    cast(b.op("Resize", [part, ...rest], { attributes: Object.fromEntries(node.attributes) }), "float64");
  const high = cast(x, "float32");
  const low = cast(b.op("Sub", [x, cast(high, "float64")]), "float32");
  return b.op("Add", [resized(high), resized(low)]);
};

// the mean over those taps that are counted
const averagePool: Form = (b, node) => {
  const x = node.inputs[0] as Value;
  const [n = 1, c = 1, ...inside] = sizes(x);
  const outside = sizes(node.outputs[0]).slice(2);
  const kernel = node.ints("kernel_shape") ?? inside;
  const window = windowOf(node, inside, outside, kernel);
  const [taps, places] = [product(kernel), product(outside)];
  const map = sources(window, inside, outside);
  const all = node.int("count_include_pad", 0) !== 0;
  const counts = Array.from({ length: places }, (_, place) =>
    all
      ? taps
      : Array.from({ length: taps }, (__, tap) => map[tap * places + place] ?? -1).filter((s) => s >= 0).length,
  );
  const ones = doubles(b, [1, 1, 1, taps], new Float64Array(taps).fill(1));
  const sums = b.op("MatMul", [ones, patches(b, x, window, outside)]);
  return reshape(b, b.op("Div", [sums, doubles(b, [places], counts)]), [n, c, ...outside]);
};

const globalAveragePool: Form = (b, node) => {
  const [n = 1, c = 1, ...inside] = sizes(node.inputs[0]);
  const flat = reshape(b, node.inputs[0], [n * c, product(inside)]);
  const mean = b.op("MatMul", [
    flat,
    doubles(b, [product(inside), 1], new Float64Array(product(inside)).fill(1 / product(inside))),
  ]);
  return reshape(b, mean, [n, c, ...inside.map(() => 1)]);
};

const globalMaxPool: Form = (b, node) =>
  b.op("MaxPool", [node.inputs[0]], { attributes: { kernel_shape: sizes(node.inputs[0]).slice(2) } });

/** Coefficients of the rational Chebyshev fit of erfc: relative error below 1.2e-7 everywhere (Press et al., Numerical Recipes). */
const ERFC = [
  -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
  0.17087277,
];

// erf x = sign(x)·(1 − t·exp(−x² + P(t))), t = 1 / (1 + |x|/2)
const erf: Form = (b, node) => {
  const x = node.inputs[0] as Value;
  const number = (value: number): Value => doubles(b, [], [value]);
  const size = b.op("Abs", [x]);
  const t = b.op("Div", [number(1), b.op("Add", [number(1), b.op("Mul", [size, number(0.5)])])]);
  let p = number(0);
  for (const coefficient of ERFC.slice().reverse()) p = b.op("Add", [b.op("Mul", [p, t]), number(coefficient)]);
  const exponent = b.op("Sub", [p, b.op("Mul", [x, x])]);
  const outside = b.op("Mul", [t, b.op("Exp", [exponent])]);
  return b.op("Mul", [b.op("Sign", [x]), b.op("Sub", [number(1), outside])]);
};

const prelu: Form = (b, node) => {
  const [x, slope] = node.inputs;
  const zero = doubles(b, [], [0]);
  return b.op("Add", [b.op("Max", [x, zero]), b.op("Mul", [slope, b.op("Min", [x, zero])])]);
};

const relu: Form = (b, node) => b.op("Max", [node.inputs[0], doubles(b, [], [0])]);

/** Forms of windows, which need every size. */
const sized =
  (form: Form): Form =>
  (b, node) =>
    [...sizes(node.inputs[0]), ...sizes(node.outputs[0])].every(Number.isInteger) && node.outputs[0]?.shape
      ? form(b, node)
      : undefined;

export const DOUBLE_FORMS: Readonly<Record<string, Form>> = {
  // x·clip(x/6 + ½, 0, 1)
  HardSwish(b, { inputs: [x] }) {
    const sixth = b.op("Add", [b.op("Mul", [x, doubles(b, [], [1 / 6])]), doubles(b, [], [0.5])]);
    return b.op("Mul", [x, b.op("Clip", [sixth, doubles(b, [], [0]), doubles(b, [], [1])])]);
  },
  Conv: sized(conv),
  ConvTranspose: sized(convTranspose),
  Resize: resize,
  AveragePool: sized(averagePool),
  GlobalAveragePool: sized(globalAveragePool),
  GlobalMaxPool: sized(globalMaxPool),
  Erf: erf,
  PRelu: prelu,
  Relu: relu,
};
