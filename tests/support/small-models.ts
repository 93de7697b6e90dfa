/** Small models built by hand for tests of running and measuring. */
import type { DType } from "../../src/base/dtype.ts";
import { Rng } from "../../src/base/rng.ts";
import type { Dim } from "../../src/base/shape.ts";
import { Builder } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";

/** A model with one input `x` and one output `y` made by `body`. */
export function unary(
  dtype: DType,
  shape: readonly Dim[],
  body: (b: Builder, x: Value) => Value,
  out: { readonly dtype?: DType; readonly shape?: readonly Dim[] } = {},
  opset = 21,
): Model {
  const model = new Model(undefined, opset);
  const b = new Builder(model.graph);
  const y = body(b, b.input("x", dtype, shape));
  y.dtype = out.dtype ?? dtype;
  y.shape = out.shape ?? shape;
  b.output(y, "y");
  return model;
}

/** y = x + x. */
export function doubler(dtype: DType = "float32", shape: readonly Dim[] = ["n", 3]): Model {
  return unary(dtype, shape, (b, x) => b.op("Add", [x, x], { name: "twice" }));
}

export function randomTensor(shape: readonly number[], seed: number, scale = 1): Tensor {
  const rng = new Rng(seed);
  const data = Float32Array.from({ length: shape.reduce((a, c) => a * c, 1) }, () => scale * rng.normal());
  return Tensor.float32(shape, data);
}

/** A linear classifier of `inputs` numbers: logits = x·W, W seeded. With `softmax`, probabilities. */
export function classifier(inputs: number, classes: number, options: { softmax?: boolean; seed?: number } = {}): Model {
  return unary(
    "float32",
    ["n", inputs],
    (b, x) => {
      const w = b.constant("w", randomTensor([inputs, classes], options.seed ?? 1));
      const logits = b.op("MatMul", [x, w], { name: "logits" });
      return options.softmax ? b.op("Softmax", [logits], { attributes: { axis: -1 } }) : logits;
    },
    { shape: ["n", classes] },
  );
}

/** Conv 3×3 → Relu → global average pool → Flatten → MatMul. Inner values: `conv`, `relu`, `pool`, `flat`. */
export function smallCnn(options: { batch?: Dim; group?: number } = {}): Model {
  const group = options.group ?? 1;
  return unary(
    "float32",
    [options.batch ?? "n", 4, 8, 8],
    (b, x) => {
      const w = b.constant("w", randomTensor([6, 4 / group, 3, 3], 2, 0.3));
      const conv = b.op("Conv", [x, w], { name: "conv", attributes: { pads: [1, 1, 1, 1], strides: [2, 2], group } });
      const relu = b.op("Relu", [conv], { name: "relu" });
      const pool = b.op("GlobalAveragePool", [relu], { name: "pool" });
      const flat = b.op("Flatten", [pool], { name: "flat" });
      return b.op("MatMul", [flat, b.constant("head", randomTensor([6, 3], 3))], { name: "logits" });
    },
    { shape: [options.batch ?? "n", 3] },
  );
}

/** Many matrix products in a row: a run takes long enough to be interrupted. */
export function heavy(layers = 40, width = 768): Model {
  return unary("float32", [width, width], (b, x) => {
    const w = b.constant("w", randomTensor([width, width], 4, 1 / Math.sqrt(width)));
    let value = x;
    for (let i = 0; i < layers; i++) value = b.op("MatMul", [value, w]);
    return value;
  });
}
