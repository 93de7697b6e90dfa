/** What layers cost: textbook counts, compressed forms that count like what they replace, and known networks. */
import { describe, expect, it } from "vitest";
import { type Cost, costOf } from "../../src/analyse/cost.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Graph, type Value } from "../../src/ir/graph.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { describeWithData } from "../support/shared-data.ts";

const floats = (...shape: number[]): Tensor =>
  Tensor.float32(shape, new Float32Array(shape.reduce((a, b) => a * b, 1)));
const int8 = (...shape: number[]): Tensor => Tensor.of("int8", shape, new Int8Array(shape.reduce((a, b) => a * b, 1)));
const uint8 = (...shape: number[]): Tensor =>
  Tensor.of("uint8", shape, new Uint8Array(shape.reduce((a, b) => a * b, 1)));

function costOfGraph(build: (b: Builder, constant: (tensor: Tensor) => Value) => Value): Cost {
  const model = new Model(new Graph(), 21);
  model.opsets.set("com.microsoft", 1);
  const b = new Builder(model.graph);
  b.output(build(b, (tensor) => b.constant("w", tensor)));
  return costOf(model);
}

describe("cost", () => {
  // 16 outputs of 8 channels, each from 4 channels of a 3x3 window: 16 · 8 · 4 · 9 MACs.
  const convMacs = 16 * 8 * 4 * 9;

  it("counts a convolution, and its quantized forms alike", () => {
    const plain = costOfGraph((b, c) =>
      b.op("Conv", [b.input("x", "float32", ["n", 4, 6, 6]), c(floats(8, 4, 3, 3)), c(floats(8))]),
    );
    expect(plain).toMatchObject({ macs: convMacs, parameters: 8 * 36 + 8, assumed: { n: 1 }, unknown: [] });
    expect(plain.bops).toBe(convMacs * 32 * 32);
    expect(plain.weightBytes).toBe(4 * (8 * 36 + 8));

    const qdq = costOfGraph((b, c) => {
      const x = b.op("DequantizeLinear", [b.input("x", "uint8", [1, 4, 6, 6]), c(floats()), c(uint8())]);
      const w = b.op("DequantizeLinear", [c(int8(8, 4, 3, 3)), c(floats(8)), c(int8(8))], { attributes: { axis: 0 } });
      return b.op("Conv", [x, w]);
    });
    expect(qdq).toMatchObject({ macs: convMacs, parameters: 8 * 36, bops: convMacs * 64 });
    expect(qdq.weightBytes).toBe(8 * 36 + 8 * 4 + 8);

    const weightOnly = costOfGraph((b, c) => {
      const w = b.op("DequantizeLinear", [c(int8(8, 4, 3, 3)), c(floats(8))], { attributes: { axis: 0 } });
      return b.op("Conv", [b.input("x", "float32", [1, 4, 6, 6]), w]);
    });
    expect(weightOnly.bops).toBe(convMacs * 8 * 32);

    const integer = costOfGraph((b, c) =>
      b.op("QLinearConv", [
        b.input("x", "uint8", [1, 4, 6, 6]),
        c(floats()),
        c(uint8()),
        c(int8(8, 4, 3, 3)),
        c(floats(8)),
        c(int8(8)),
        c(floats()),
        c(uint8()),
      ]),
    );
    expect(integer).toMatchObject({ macs: convMacs, parameters: 8 * 36, bops: convMacs * 64 });
  });

  it("counts a matrix product, packed or through a codebook", () => {
    const macs = 3 * 64 * 8;
    const plain = costOfGraph((b, c) => b.op("MatMul", [b.input("x", "float32", [3, 64]), c(floats(64, 8))]));
    expect(plain).toMatchObject({ macs, parameters: 512, bops: macs * 1024 });
    const packed = costOfGraph((b, c) =>
      b.op("MatMulNBits", [b.input("x", "float32", [3, 64]), c(uint8(8, 2, 16)), c(floats(16))], {
        domain: "com.microsoft",
        attributes: { K: 64, N: 8, bits: 4, block_size: 32 },
      }),
    );
    expect(packed).toMatchObject({ macs, parameters: 512, bops: macs * 4 * 32 });
    expect(packed.weightBytes).toBe(256 + 64);
    const codebook = costOfGraph((b, c) => {
      const codes = c(Tensor.of("uint4", [64, 8], new Uint8Array(256)));
      const indices = b.op("Cast", [codes], { attributes: { to: 6 } });
      return b.op("MatMul", [b.input("x", "float32", [3, 64]), b.op("Gather", [c(floats(16)), indices])]);
    });
    expect(codebook).toMatchObject({ macs, parameters: 512, bops: macs * 4 * 32 });
    const dynamic = costOfGraph((b, c) =>
      b.op("DynamicQuantizeMatMul", [b.input("x", "float32", [3, 64]), c(int8(64, 8)), c(floats(8))], {
        domain: "com.microsoft",
      }),
    );
    expect(dynamic).toMatchObject({ macs, parameters: 512, bops: macs * 64 });
  });

  it("counts a shared weight once, and both its uses", () => {
    const tied = costOfGraph((b, c) => {
      const w = c(floats(64, 64));
      return b.op("MatMul", [b.op("MatMul", [b.input("x", "float32", [1, 64]), w]), w]);
    });
    expect(tied).toMatchObject({ macs: 2 * 4096, parameters: 4096, weightBytes: 4 * 4096 });
  });

  it("counts a loop's body as often as it runs, and the dearer branch of an If", () => {
    const model = new Model(new Graph(), 21);
    const b = new Builder(model.graph);
    const x = b.input("x", "float32", [2, 4]);
    const w = b.constant("w", floats(4, 4));
    const body = new Graph("body", model.graph);
    const inner = new Builder(body, { prefix: "body_" });
    inner.input("i", "int64", []);
    const go = inner.input("go", "bool", []);
    const state = inner.input("state", "float32");
    body.outputs.push(inner.op("Identity", [go]), inner.op("MatMul", [state, w]));
    const trips = b.constant("trips", Tensor.scalar("int64", 5));
    b.output(b.op("Loop", [trips, undefined, x], { attributes: { body: { type: "graph", value: body } } }));
    expect(costOf(model).macs).toBe(5 * 2 * 16);

    const branch = (name: string, times: number): Graph => {
      const graph = new Graph(name, model.graph);
      const t = new Builder(graph, { prefix: `${name}_` });
      let y = x;
      for (let i = 0; i < times; i++) y = t.op("MatMul", [y, w]);
      graph.outputs.push(y);
      return graph;
    };
    const condition = b.input("condition", "bool", []);
    b.output(
      b.op("If", [condition], {
        attributes: {
          then_branch: { type: "graph", value: branch("then", 1) },
          else_branch: { type: "graph", value: branch("else", 3) },
        },
      }),
    );
    expect(costOf(model).macs).toBe((5 + 3) * 2 * 16);
  });

  it("names what it cannot tell instead of throwing", () => {
    const cost = costOfGraph((b) =>
      b.op("Mystery", [b.input("x", "float32", [2])], { domain: "com.example", name: "odd" }),
    );
    expect(cost).toMatchObject({ macs: 0, unknown: ["odd"] });
  });
});

/** Published or counted by other tools: parameters without running statistics, multiply-accumulates of one image. */
const KNOWN: readonly (readonly [string, number, number])[] = [
  ["lenet5-mnist.onnx", 431_080, 2_293_000],
  ["resnet20-cifar10.onnx", 269_722, 40_551_040],
  ["mobilenetv2-imagenet.onnx", 3_487_816, 300_774_272],
  ["squeezenet1.1-imagenet.onnx", 1_235_496, 349_151_936],
];

describeWithData("cost of known networks", "models", (root) => {
  it.each(KNOWN)("%s", async (file, parameters, macs) => {
    expect(costOf(await loadFile(`${root}/${file}`))).toMatchObject({ parameters, macs, unknown: [] });
  });

  it("scales with the batch", async () => {
    const model = await loadFile(`${root}/resnet20-cifar10.onnx`);
    expect(costOf(model, { batch: 8 }).macs).toBe(8 * costOf(model).macs);
  });
});

describe("what runs", () => {
  const weights = Tensor.float32([8, 4, 3, 3], new Float32Array(288).fill(0.5));
  const codes = Tensor.of("int8", [8, 4, 3, 3], new Int8Array(288).fill(1));
  const conv = (b: Builder, x: Value, w: Value) => b.op("Conv", [x, w], { attributes: { kernel_shape: [3, 3] } });

  it("does not count the unpacking of weights, which happens at load", () => {
    const plain = costOfGraph((b) => conv(b, b.input("x", "float32", [1, 4, 9, 9]), b.constant("w", weights)));
    const folded = costOfGraph((b) => {
      const wide = b.op("Cast", [b.constant("q", codes)], { attributes: { to: 1 } });
      const w = b.op("Mul", [wide, b.constant("s", Tensor.scalar("float32", 0.5))]);
      return conv(b, b.input("x", "float32", [1, 4, 9, 9]), w);
    });
    expect(folded.flops).toBe(plain.flops);
    expect(folded.macs).toBe(plain.macs);
    expect(folded.bytesMoved).toBeLessThan(plain.bytesMoved); // weights are read as stored
  });

  it("moves codes, not floats, between operators that the engine runs on integers", () => {
    const quantized = costOfGraph((b) => {
      const scale = b.constant("scale", Tensor.scalar("float32", 0.1));
      const zero = b.constant("zero", Tensor.of("uint8", [], Uint8Array.of(3)));
      const weightZero = b.constant("wzero", Tensor.of("int8", [], Int8Array.of(0)));
      const x = b.input("x", "uint8", [1, 4, 9, 9]);
      const w = b.op("DequantizeLinear", [b.constant("q", codes), scale, weightZero]);
      return b.op("QuantizeLinear", [conv(b, b.op("DequantizeLinear", [x, scale, zero]), w), scale, zero]);
    });
    expect(quantized.bytesMoved).toBe(4 * 81 + 8 * 49 + 288 + 4 + 1); // input, output, kernel with its scale and zero point
  });
});
