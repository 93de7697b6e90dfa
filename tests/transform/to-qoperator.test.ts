/** Models of QDQ pairs written with operators on integers: the same codes, from the same kernels. */
import { join } from "node:path";
import * as web from "onnxruntime-web";
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import type { Model } from "../../src/ir/model.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { inferTypes } from "../../src/analyse/shapes.ts";
import { asNumbers } from "../../src/run/arrays.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { kernelsOf } from "../../src/analyse/engine-kernels.ts";
import { optimizedGraph } from "../../src/run/optimized-graph.node.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { toQOperators } from "../../src/transform/to-qoperator.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { syntheticFeeds } from "../../src/run/synthetic.ts";
import { inputPorts } from "../../src/run/feed-stream.ts";
import { bits, runOnSynthetic } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { describeWithData } from "../support/shared-data.ts";
import { randomTensor, unary } from "../support/small-models.ts";

/** Every operator that has a form on integers, and those that pass codes through. */
function network(): Model {
  return unary(
    "float32",
    ["n", 3, 16, 16],
    (b, x) => {
      const conv = (name: string, from: typeof x, i: number, o: number): typeof x =>
        b.op(
          "Conv",
          [
            from,
            b.constant(`${name}.w`, randomTensor([o, i, 3, 3], i + 3 * o, 0.3)),
            b.constant(`${name}.b`, randomTensor([o], o, 0.1)),
          ],
          { name, attributes: { pads: [1, 1, 1, 1] } },
        );
      const ints = (name: string, list: number[]): typeof x => b.constant(name, Tensor.int64(list));
      const stem = b.op("LeakyRelu", [conv("stem", x, 3, 8)], { name: "leaky", attributes: { alpha: 0.1 } });
      const gate = b.op("Sigmoid", [conv("gate", stem, 8, 8)], { name: "sigmoid" });
      const swish = b.op("Mul", [stem, gate], { name: "mul" });
      const pooled = b.op("MaxPool", [swish], { name: "max", attributes: { kernel_shape: [2, 2], strides: [2, 2] } });
      const small = b.op("AveragePool", [conv("a", swish, 8, 8)], {
        name: "average",
        attributes: { kernel_shape: [2, 2], strides: [2, 2] },
      });
      const both = b.op("Concat", [conv("c", pooled, 8, 8), small, pooled], {
        name: "concat",
        attributes: { axis: 1 },
      });
      const large = b.op(
        "Resize",
        [conv("d", both, 24, 8), undefined, b.constant("scales", Tensor.float32([4], [1, 1, 2, 2]))],
        {
          name: "resize",
          attributes: { mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" },
        },
      );
      const sum = b.op("Relu", [b.op("Add", [conv("e", large, 8, 8), swish], { name: "add" })], { name: "relu" });
      const flat = b.op("Flatten", [b.op("GlobalAveragePool", [sum], { name: "global" })], { name: "flat" });
      const hidden = b.op("MatMul", [flat, b.constant("mm.w", randomTensor([8, 8], 7))], { name: "matmul" });
      const moved = b.op("Reshape", [hidden, ints("shape", [-1, 4, 2])], { name: "reshape" });
      const back = b.op("Flatten", [b.op("Transpose", [moved], { name: "turn", attributes: { perm: [0, 2, 1] } })], {
        name: "flat2",
      });
      return b.op(
        "Gemm",
        [back, b.constant("fc.w", randomTensor([8, 3], 5)), b.constant("fc.b", randomTensor([3], 6))],
        {
          name: "gemm",
        },
      );
    },
    { shape: ["n", 3] },
    17,
  );
}

function samples(): Dataset {
  const rng = new Rng(2);
  let x = 0;
  const data = Float32Array.from({ length: 16 * 768 }, () => (x = 0.8 * x + 0.5 * rng.normal()));
  return datasetOf({ fields: { x: { dtype: "float32", shape: [16, 3, 16, 16], data } } });
}

async function outputs(model: Model): Promise<number[]> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  try {
    const { x } = (await samples().take(Array.from({ length: 16 }, (_, i) => i))).fields;
    const [y] = Object.values(await session.run({ x: x as NonNullable<typeof x> }));
    return Array.from(asNumbers(y as NonNullable<typeof y>));
  } finally {
    await session.close();
  }
}

/** Outputs in onnxruntime-web's WebAssembly. */
async function outputsInWasm(model: Model): Promise<number[]> {
  web.env.wasm.numThreads = 1;
  const session = await web.InferenceSession.create(await encodeModel(model), { executionProviders: ["wasm"] });
  const { x } = (await samples().take(Array.from({ length: 16 }, (_, i) => i))).fields;
  const [y] = Object.values(
    await session.run({ x: new web.Tensor("float32", x?.data as Float32Array, [16, 3, 16, 16]) }),
  );
  await session.release();
  return Array.from(y?.data as Float32Array);
}

const SIGNED = { activations: "int8" };
const PLAIN = { calibration: "min-max", equalize: "never" };

async function quantized(model: Model, options: object = {}): Promise<Model> {
  return (await runTechnique(quantize, model, { ...PLAIN, ...options }, samples())).model;
}

const operators = (model: Model): string[] => model.graph.nodes.map(({ opType }) => opType);

describe("operators on integers", () => {
  it.each([{}, SIGNED, { perChannel: false }, { to: "int4" }])(
    "give the bits that the pairs give: %o",
    async (options) => {
      const pairs = await quantized(network(), options);
      const integers = await quantized(network(), { ...options, form: "qoperator" });
      expect(operators(integers).filter((op) => op === "QuantizeLinear")).toHaveLength(1); // of the input
      for (const op of [
        "Conv",
        "MatMul",
        "Gemm",
        "Add",
        "Mul",
        "Concat",
        "Relu",
        "LeakyRelu",
        "Sigmoid",
        "AveragePool",
      ])
        expect(operators(integers)).not.toContain(op);
      expect(operators(integers)).toEqual(
        expect.arrayContaining(["QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat"]),
      );
      const [wanted, got] = [await outputs(pairs), await outputs(integers)];
      expect(got).toEqual(wanted);
      // The engine fuses the pairs to the same kernels; pairs of int8 on ARM only.
      const kinds = async (model: Model): Promise<(string | undefined)[]> =>
        kernelsOf(model, (await optimizedGraph(model, { inProcess: true, threads: 1 })).model)
          .filter(({ kind }) => kind === "float")
          .map(({ name }) => name);
      if (options !== SIGNED || process.arch === "arm64") expect(await kinds(pairs)).toEqual([]);
      expect(await kinds(integers)).toEqual([]);
    },
    60_000,
  );

  it("run in WebAssembly as here", async () => {
    const integers = await quantized(network(), { form: "qoperator" });
    const [here, there] = [await outputs(integers), await outputsInWasm(integers)];
    // Sums of products are the same integers; the scaling after them is rounded in another order.
    const step = Math.max(...here.map(Math.abs)) / 255;
    for (const [i, y] of here.entries()) expect(Math.abs(y - (there[i] ?? 0))).toBeLessThanOrEqual(2 * step);
  });

  it("keep the names of operators, and types that inference agrees with", async () => {
    const model = await quantized(network(), { form: "qoperator" });
    const before = network();
    for (const node of model.graph.nodes)
      if (/^Q(Linear|Gemm)/.test(node.opType))
        expect(before.graph.nodes.some(({ name }) => name === node.name)).toBe(true);
    const { types, problems } = inferTypes(model, { fresh: true });
    expect(problems).toEqual([]);
    expect(types.get(model.graph.outputs[0] as NonNullable<(typeof model.graph.outputs)[0]>)).toMatchObject({
      dtype: "float32",
    });
  });

  it("are compared with something: another code is noticed", async () => {
    const integers = await quantized(network(), { form: "qoperator" });
    const codes = [...integers.graph.initializers.values()].find(({ name }) => name === "fc.w.codes");
    const old = (await codes?.tensor?.data()) as Int8Array;
    const data = old.map((code) => (code === 127 ? 126 : code + 1));
    if (codes?.tensor) codes.tensor = Tensor.of("int8", codes.tensor.shape, data);
    expect(await outputs(integers)).not.toEqual(await outputs(await quantized(network())));
  });

  it("leave what has no such form between its pairs, and say why", async () => {
    const model = await quantized(
      unary(
        "float32",
        ["n", 3, 16, 16],
        (b, x) => {
          const conv = (name: string, from: typeof x): typeof x =>
            b.op("Conv", [from, b.constant(`${name}.w`, randomTensor([3, 3, 1, 1], name.length))], { name });
          return conv("last", b.op("Tanh", [conv("first", x)], { name: "tanh" }));
        },
        { shape: ["n", 3, 16, 16] },
        17,
      ),
    );
    const clone = cloneModel(model);
    const { converted, left } = toQOperators(clone);
    expect(converted).toBe(2);
    expect(left).toEqual([{ what: "tanh", why: "no integer operator stands for it" }]);
    expect(await outputs(clone)).toEqual(await outputs(model));
  });
});

/** Plain, residual, depthwise, gated and branched networks, a detector with resizing, one with shuffled channels, a transformer. */
const REAL = [
  "resnet20-cifar10",
  "dscnn-kws",
  "squeezenet1.1-imagenet",
  "ultraface-rfb-320",
  "fastestdet",
  "yolox-nano",
  "mobilenetv2-imagenet",
  "tiny-distilbert-cls",
];

describeWithData("operators on integers in real networks", "models", (folder) => {
  it.each(REAL)(
    "give the bits that the pairs give: %s",
    async (file) => {
      const model = await loadFile(join(folder, `${file}.onnx`));
      const feeds = syntheticFeeds(inputPorts(model), { batch: 1 });
      const data = datasetOf({ fields: feeds });
      const { model: pairs } = await runTechnique(quantize, model, { ...PLAIN, method: "range" }, data);
      const integers = cloneModel(pairs);
      expect(toQOperators(integers).converted).toBeGreaterThan(10);
      expect(bits(await runOnSynthetic(integers))).toEqual(bits(await runOnSynthetic(pairs)));
    },
    60_000,
  );
});
