/** Tiny seeded models for tests: every kind of graph that techniques meet, all loadable in ONNX Runtime. */
import type { DType } from "../../src/base/dtype.ts";
import { Rng } from "../../src/base/rng.ts";
import { type Dim, elementCount } from "../../src/base/shape.ts";
import { float } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Graph, Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";

/** A model being built, with seeded weights. */
class Net {
  readonly model: Model;
  readonly b: Builder;
  readonly #rng: Rng;

  constructor(name: string, seed: number, opset = 21) {
    this.model = new Model(new Graph(name), opset, 10);
    this.model.producerName = "pare-tests";
    this.b = new Builder(this.model.graph);
    this.#rng = new Rng(seed).fork(name);
  }

  /** A weight of deviation √(2 / fanIn), drawn from a stream of its own name. */
  weight(name: string, shape: readonly number[], fanIn: number): Value {
    const rng = this.#rng.fork(name);
    const deviation = Math.sqrt(2 / fanIn);
    const data = Float32Array.from({ length: elementCount(shape) }, () => rng.normal(0, deviation));
    return this.b.constant(name, Tensor.float32(shape, data));
  }

  /** A vector of values uniform in [low, high). */
  vector(name: string, length: number, low: number, high: number): Value {
    const rng = this.#rng.fork(name);
    return this.b.constant(
      name,
      Tensor.float32(
        [length],
        Float32Array.from({ length }, () => rng.uniform(low, high)),
      ),
    );
  }

  constant(name: string, tensor: Tensor): Value {
    return this.b.constant(name, tensor);
  }

  /** y = x Wᵀ + b */
  gemm(name: string, x: Value, inputs: number, outputs: number): Value {
    const w = this.weight(`${name}.weight`, [outputs, inputs], inputs);
    const bias = this.vector(`${name}.bias`, outputs, -0.1, 0.1);
    return this.b.op("Gemm", [x, w, bias], { name, attributes: { transB: 1 } });
  }

  /** y = x W + b */
  linear(name: string, x: Value, inputs: number, outputs: number): Value {
    const y = this.b.op("MatMul", [x, this.weight(`${name}.weight`, [inputs, outputs], inputs)], { name });
    return this.b.op("Add", [y, this.vector(`${name}.bias`, outputs, -0.1, 0.1)], { name: `${name}.add` });
  }

  /** Convolution without bias, "same" padding, and BatchNormalization. */
  convBatchNorm(
    name: string,
    x: Value,
    inputs: number,
    outputs: number,
    options: { kernel?: number; stride?: number; group?: number } = {},
  ): Value {
    const { kernel = 3, stride = 1, group = 1 } = options;
    const pad = (kernel - 1) / 2;
    const perGroup = inputs / group;
    const w = this.weight(`${name}.weight`, [outputs, perGroup, kernel, kernel], perGroup * kernel * kernel);
    const y = this.b.op("Conv", [x, w], {
      name,
      attributes: { kernel_shape: [kernel, kernel], strides: [stride, stride], pads: [pad, pad, pad, pad], group },
    });
    return this.b.op(
      "BatchNormalization",
      [
        y,
        this.vector(`${name}.bn.scale`, outputs, 0.5, 1.5),
        this.vector(`${name}.bn.bias`, outputs, -0.5, 0.5),
        this.vector(`${name}.bn.mean`, outputs, -0.5, 0.5),
        this.vector(`${name}.bn.variance`, outputs, 0.5, 1.5),
      ],
      { name: `${name}.bn` },
    );
  }

  relu(x: Value): Value {
    return this.b.op("Relu", [x]);
  }

  finish(output: Value, name: string, dtype: DType, shape: readonly Dim[]): Model {
    [output.dtype, output.shape] = [dtype, shape];
    this.b.output(output, name);
    return this.model;
  }
}

/** input (batch, 16) → 32 → 32 → logits (batch, 10). Three Gemm layers, 1,930 parameters. */
export function mlpModel(seed = 1): Model {
  const net = new Net("mlp", seed);
  const x = net.b.input("input", "float32", ["batch", 16]);
  const h1 = net.relu(net.gemm("fc1", x, 16, 32));
  const h2 = net.relu(net.gemm("fc2", h1, 32, 32));
  return net.finish(net.gemm("fc3", h2, 32, 10), "logits", "float32", ["batch", 10]);
}

/**
 * image (batch, 3, 12, 12) → logits (batch, 10). Conv, BatchNormalization, a residual block whose sum ties channels, a
 * depthwise convolution, pooling and a Gemm.
 */
export function cnnModel(seed = 1): Model {
  const net = new Net("cnn", seed);
  const x = net.b.input("image", "float32", ["batch", 3, 12, 12]);
  const stem = net.relu(net.convBatchNorm("stem", x, 3, 8)); // (n, 8, 12, 12)
  const inner = net.relu(net.convBatchNorm("block.conv1", stem, 8, 12)); // (n, 12, 12, 12)
  const sum = net.b.op("Add", [net.convBatchNorm("block.conv2", inner, 12, 8), stem], { name: "block.add" });
  const depthwise = net.relu(net.convBatchNorm("depthwise", net.relu(sum), 8, 8, { group: 8, stride: 2 })); // (n, 8, 6, 6)
  const wide = net.relu(net.convBatchNorm("pointwise", depthwise, 8, 16, { kernel: 1 })); // (n, 16, 6, 6)
  const pooled = net.b.op("MaxPool", [wide], { attributes: { kernel_shape: [2, 2], strides: [2, 2] } }); // (n, 16, 3, 3)
  const mean = net.b.op("GlobalAveragePool", [pooled]);
  const flat = net.b.op("Flatten", [mean]);
  return net.finish(net.gemm("head", flat, 16, 10), "logits", "float32", ["batch", 10]);
}

/**
 * x (batch, sequence, 16) → y (batch, sequence, 16). One pre-norm transformer block with 2 heads: LayerNormalization,
 * MatMul projections, attention by Reshape, Transpose, MatMul and Softmax, and a GELU spelled out with Erf.
 */
export function transformerModel(seed = 1): Model {
  const [width, heads] = [16, 2];
  const net = new Net("transformer", seed);
  const { b } = net;
  const x = b.input("x", "float32", ["batch", "sequence", width]);
  const normalize = (name: string, value: Value): Value =>
    b.op(
      "LayerNormalization",
      [value, net.vector(`${name}.scale`, width, 0.8, 1.2), net.vector(`${name}.bias`, width, -0.1, 0.1)],
      {
        name,
        attributes: { axis: -1, epsilon: float(1e-5) },
      },
    );
  const split = net.constant("split", Tensor.int64([0, 0, heads, width / heads]));
  const merge = net.constant("merge", Tensor.int64([0, 0, width]));
  const h = normalize("norm1", x);
  const head = (name: string, perm: readonly number[]): Value =>
    b.op("Transpose", [b.op("Reshape", [net.linear(name, h, width, width), split])], { attributes: { perm } });
  const query = head("query", [0, 2, 1, 3]); // (n, heads, sequence, width / heads)
  const key = head("key", [0, 2, 3, 1]); // (n, heads, width / heads, sequence)
  const value = head("value", [0, 2, 1, 3]);
  const scale = net.constant("scale", Tensor.scalar("float32", 1 / Math.sqrt(width / heads)));
  const scores = b.op("Mul", [b.op("MatMul", [query, key], { name: "scores" }), scale]);
  const mixed = b.op("MatMul", [b.op("Softmax", [scores], { attributes: { axis: -1 } }), value], { name: "mix" });
  const joined = b.op("Reshape", [b.op("Transpose", [mixed], { attributes: { perm: [0, 2, 1, 3] } }), merge]);
  const attended = b.op("Add", [x, net.linear("out", joined, width, width)]);
  const up = net.linear("up", normalize("norm2", attended), width, 4 * width);
  // gelu(x) = x (1 + erf(x / √2)) / 2
  const erf = b.op("Erf", [b.op("Div", [up, net.constant("root2", Tensor.scalar("float32", Math.SQRT2))])]);
  const plus = b.op("Add", [erf, net.constant("one", Tensor.scalar("float32", 1))]);
  const gelu = b.op("Mul", [b.op("Mul", [up, plus]), net.constant("half", Tensor.scalar("float32", 0.5))]);
  const y = b.op("Add", [attended, net.linear("down", gelu, 4 * width, width)]);
  return net.finish(y, "y", "float32", ["batch", "sequence", width]);
}

/** input_ids (batch, sequence) int64 below 50 → logits (batch, 5). Gather from a table (50, 12), mean over the sequence, Gemm. */
export function embeddingModel(seed = 1): Model {
  const net = new Net("embedding", seed);
  const ids = net.b.input("input_ids", "int64", ["batch", "sequence"]);
  const table = net.weight("embedding.weight", [50, 12], 12);
  const rows = net.b.op("Gather", [table, ids], { name: "embedding" }); // (n, sequence, 12)
  const axes = net.constant("axes", Tensor.int64([1]));
  const mean = net.b.op("ReduceMean", [rows, axes], { attributes: { keepdims: 0 } }); // (n, 12)
  return net.finish(net.gemm("classifier", mean, 12, 5), "logits", "float32", ["batch", 5]);
}

/** x (sequence, batch, 8) → logits (batch, 6). One LSTM of 12 units, its last state through a Gemm. */
export function lstmModel(seed = 1): Model {
  const [inputs, units] = [8, 12];
  const net = new Net("lstm", seed);
  const x = net.b.input("x", "float32", ["sequence", "batch", inputs]);
  const w = net.weight("lstm.W", [1, 4 * units, inputs], inputs);
  const r = net.weight("lstm.R", [1, 4 * units, units], 2 * units);
  const bias = net.b.constant("lstm.B", Tensor.float32([1, 8 * units], new Float32Array(8 * units).fill(0.05)));
  const [, state] = net.b.ops("LSTM", [x, w, r, bias], {
    name: "lstm",
    outputs: 3,
    attributes: { hidden_size: units },
  });
  const last = net.b.op("Squeeze", [state, net.constant("axis0", Tensor.int64([0]))]); // (n, 12)
  return net.finish(net.gemm("head", last, units, 6), "logits", "float32", ["batch", 6]);
}

/**
 * x (batch, 4), flag bool scalar, times int64 scalar → y (batch, 4). An If whose branches capture `x` and outer weights
 * (then: x W + b; else: −x), and a Loop that runs `times` times y ← y / 2 + captured bias.
 */
export function controlFlowModel(seed = 1): Model {
  const net = new Net("control", seed);
  const { b } = net;
  const outer = net.model.graph;
  const x = b.input("x", "float32", ["batch", 4]);
  const flag = b.input("flag", "bool", []);
  const times = b.input("times", "int64", []);
  const weight = net.weight("weight", [4, 4], 4);
  const bias = net.vector("bias", 4, -0.5, 0.5);

  const branch = (name: string, build: (inner: Builder) => Value): Graph => {
    const graph = new Graph(name, outer);
    const inner = new Builder(graph, { prefix: `${name}_` });
    const output = build(inner);
    [output.dtype, output.shape] = ["float32", ["batch", 4]];
    inner.output(output);
    return graph;
  };
  const yes = branch("then", (inner) => inner.op("Add", [inner.op("MatMul", [x, weight]), bias]));
  const no = branch("else", (inner) => inner.op("Neg", [x]));
  const chosen = b.op("If", [flag], {
    attributes: { then_branch: { type: "graph", value: yes }, else_branch: { type: "graph", value: no } },
  });

  const body = new Graph("body", outer);
  const inner = new Builder(body, { prefix: "body_" });
  inner.input("body_index", "int64", []);
  const condition = inner.input("body_condition", "bool", []);
  const carried = inner.input("body_y", "float32", ["batch", 4]);
  const half = inner.constant("half", Tensor.scalar("float32", 0.5));
  const next = inner.op("Add", [inner.op("Mul", [carried, half]), bias]);
  const goOn = inner.op("Identity", [condition]);
  [goOn.dtype, goOn.shape] = ["bool", []];
  [next.dtype, next.shape] = ["float32", ["batch", 4]];
  inner.output(goOn);
  inner.output(next);
  const always = net.constant("always", Tensor.of("bool", [], Uint8Array.of(1)));
  const y = b.op("Loop", [times, always, chosen], { attributes: { body: { type: "graph", value: body } } });
  return net.finish(y, "y", "float32", ["batch", 4]);
}

/** How to build a model and what feeds it. */
export interface TestModel {
  readonly build: (seed?: number) => Model;
  /** Shapes with every symbol resolved; integers are to be `below` that bound. */
  readonly feeds: Readonly<
    Record<string, { readonly dtype: DType; readonly shape: readonly number[]; readonly below?: number }>
  >;
}

/** Every model of this file by name. */
export const MODELS: Readonly<Record<string, TestModel>> = {
  mlp: { build: mlpModel, feeds: { input: { dtype: "float32", shape: [3, 16] } } },
  cnn: { build: cnnModel, feeds: { image: { dtype: "float32", shape: [3, 3, 12, 12] } } },
  transformer: { build: transformerModel, feeds: { x: { dtype: "float32", shape: [2, 5, 16] } } },
  embedding: { build: embeddingModel, feeds: { input_ids: { dtype: "int64", shape: [2, 7], below: 50 } } },
  lstm: { build: lstmModel, feeds: { x: { dtype: "float32", shape: [5, 2, 8] } } },
  control: {
    build: controlFlowModel,
    feeds: {
      x: { dtype: "float32", shape: [2, 4] },
      flag: { dtype: "bool", shape: [] },
      times: { dtype: "int64", shape: [], below: 4 },
    },
  },
};
