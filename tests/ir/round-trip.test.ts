import { create, toBinary } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { DTYPES, type DType, byteLengthOf, dtypeBits, dtypeCode } from "../../src/base/dtype.ts";
import { elementCount } from "../../src/base/shape.ts";
import { float } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { checkModel } from "../../src/ir/check.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { Graph } from "../../src/ir/graph.ts";
import { load } from "../../src/ir/load.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor, memorySource } from "../../src/ir/tensor.ts";
import { parseModel } from "../../src/ir/text-parse.ts";
import { printModel } from "../../src/ir/text-print.ts";
import { GraphProtoSchema, ModelProtoSchema, TensorProtoSchema } from "../../src/onnx/gen/onnx_pb.js";
import { bits, runOnSynthetic } from "../support/run-model.ts";
import { randomBytes, strangeFile } from "../support/strange-file.ts";

const FIXED = DTYPES.filter((dtype) => dtypeBits(dtype) > 0);

function randomTensor(dtype: DType, shape: readonly number[]): Tensor {
  const bytes = randomBytes(byteLengthOf(dtype, elementCount(shape)));
  return new Tensor(dtype, shape, memorySource(dtype === "bool" ? bytes.map((byte) => byte & 1) : bytes));
}

/** The model after encoding and loading, and after printing and parsing. */
async function trips(model: Model): Promise<Model[]> {
  return [await load(await encodeModel(model)), parseModel(await printModel(model)), cloneModel(model)];
}

describe("tensors", () => {
  for (const dtype of FIXED)
    for (const shape of [[], [3], [7, 5], [0, 4], [37, 41]])
      it(`of ${dtype} [${shape}] keep every bit`, async () => {
        const model = new Model();
        const tensor = randomTensor(dtype, shape);
        model.graph.addInitializer("w", tensor);
        const b = new Builder(model.graph);
        b.output(b.op("Constant", [], { attributes: { value: tensor } }));
        for (const copy of await trips(model)) {
          const attribute = copy.graph.nodes[0]?.attributes.get("value");
          const constant = attribute?.type === "tensor" ? attribute.value : undefined;
          for (const back of [copy.graph.initializers.get("w")?.tensor, constant]) {
            expect(back?.dtype).toBe(dtype);
            expect(back?.shape).toEqual(shape);
            expect(Buffer.compare((await back?.bytes()) ?? new Uint8Array(1), await tensor.bytes())).toBe(0);
          }
        }
      });

  it("of strings keep every byte, also ones that are not UTF-8", async () => {
    const strings = [new TextEncoder().encode('häß\n"#'), Uint8Array.of(0xff, 0, 0x80), new Uint8Array(0)];
    const model = new Model();
    model.graph.addInitializer("s", new Tensor("string", [3], memorySource(new Uint8Array(0)), strings));
    for (const copy of await trips(model))
      expect(copy.graph.initializers.get("s")?.tensor?.strings?.map((text) => [...text])).toEqual(
        strings.map((text) => [...text]),
      );
  });

  /** Typed data fields of TensorProto and the bytes they stand for. */
  const typed: readonly [DType, object, Uint8Array][] = [
    ["float32", { floatData: [1.5, -0, Number.NaN] }, new Uint8Array(Float32Array.of(1.5, -0, Number.NaN).buffer)],
    ["float64", { doubleData: [1e300, -2, 0] }, new Uint8Array(Float64Array.of(1e300, -2, 0).buffer)],
    ["int64", { int64Data: [-1n, 2n ** 62n, 5n] }, new Uint8Array(BigInt64Array.of(-1n, 2n ** 62n, 5n).buffer)],
    [
      "uint64",
      { uint64Data: [2n ** 64n - 1n, 0n, 1n] },
      new Uint8Array(BigUint64Array.of(2n ** 64n - 1n, 0n, 1n).buffer),
    ],
    ["uint32", { uint64Data: [2n ** 32n - 1n, 0n, 1n] }, new Uint8Array(Uint32Array.of(2 ** 32 - 1, 0, 1).buffer)],
    [
      "int32",
      { int32Data: [-5, 2 ** 31 - 1, -(2 ** 31)] },
      new Uint8Array(Int32Array.of(-5, 2 ** 31 - 1, -(2 ** 31)).buffer),
    ],
    ["int16", { int32Data: [-5, 32767, -32768] }, new Uint8Array(Int16Array.of(-5, 32767, -32768).buffer)],
    ["uint16", { int32Data: [5, 65535, 0] }, new Uint8Array(Uint16Array.of(5, 65535, 0).buffer)],
    ["float16", { int32Data: [0x3c00, 0xfc00, 1] }, new Uint8Array(Uint16Array.of(0x3c00, 0xfc00, 1).buffer)],
    ["bfloat16", { int32Data: [0x3f80, 0x8000, 1] }, new Uint8Array(Uint16Array.of(0x3f80, 0x8000, 1).buffer)],
    ["int8", { int32Data: [-128, 127, -1] }, Uint8Array.of(128, 127, 255)],
    ["uint8", { int32Data: [255, 0, 1] }, Uint8Array.of(255, 0, 1)],
    ["bool", { int32Data: [1, 0, 1] }, Uint8Array.of(1, 0, 1)],
    ["float8e4m3fn", { int32Data: [0x7e, 0xff, 0] }, Uint8Array.of(0x7e, 0xff, 0)],
    ["int4", { int32Data: [0x21, 0x0f] }, Uint8Array.of(0x21, 0x0f)],
    ["uint2", { int32Data: [0x1b] }, Uint8Array.of(0x1b)],
  ];
  for (const [dtype, data, bytes] of typed)
    for (const repeats of [1, 999])
      it(`of ${dtype} come out of their typed field (${repeats === 1 ? "small" : "large, left in the file"})`, async () => {
        const packed = dtypeBits(dtype) < 8;
        if (packed && repeats > 1) return; // packed rows do not repeat on byte borders
        const long = Object.fromEntries(
          Object.entries(data as Record<string, unknown[]>).map(([key, list]) => [
            key,
            Array.from({ length: repeats }, () => list).flat(),
          ]),
        );
        const tensor = create(TensorProtoSchema, {
          name: "w",
          dims: [BigInt(3 * repeats)],
          dataType: dtypeCode(dtype),
          ...long,
        });
        const graph = create(GraphProtoSchema, { name: "g", initializer: [tensor] });
        const model = await load(toBinary(ModelProtoSchema, create(ModelProtoSchema, { irVersion: 10n, graph })));
        const found = model.graph.initializers.get("w")?.tensor;
        const expected = Buffer.concat(Array.from({ length: repeats }, () => bytes));
        expect(Buffer.compare((await found?.bytes()) ?? new Uint8Array(0), expected)).toBe(0);
        // A part of them, too.
        if (repeats > 1) expect([...(await found!.source.read(3, 4))]).toEqual([...expected.subarray(3, 7)]);
      });
});

describe("what pare does not understand", () => {
  it("survives loading, cloning and saving byte for byte, up to the order of fields", async () => {
    const file = strangeFile();
    const model = await load(file);
    const saved = await encodeModel(cloneModel(model));
    const sorted = (bytes: Uint8Array) => [...bytes].sort((a, b) => a - b);
    // Payloads of typed fields become raw_data; here all are raw, so the same bytes must be there, only in other order.
    expect(saved.length).toBe(file.length);
    expect(sorted(saved)).toEqual(sorted(file));
    expect(Buffer.compare(await encodeModel(await load(saved)), saved)).toBe(0);
  });

  it("is not what the lengths alone say: a change of one byte is seen", async () => {
    const file = strangeFile();
    const changed = file.slice();
    const at = Buffer.from(file).indexOf("graph doc");
    changed[at] = 0x47;
    const saved = await encodeModel(await load(changed));
    expect(Buffer.compare(saved, await encodeModel(await load(file)))).not.toBe(0);
  });

  it("is there for reading: sparse initializers as dense tensors, lists of tensors, sequences without dtype", async () => {
    const model = await load(strangeFile());
    const dense = model.graph.initializers.get("sp")?.tensor;
    expect(dense?.shape).toEqual([1000]);
    const values = (await dense?.data()) as Float32Array;
    expect(values.filter((value) => value !== 0).length).toBeGreaterThan(250);
    expect(values[1]).toBe(0);
    const list = model.graph.nodes[0]?.attributes.get("list");
    expect(list?.type === "tensors" && list.value.map((tensor) => tensor.elements)).toEqual([500, 500]);
    expect(model.graph.outputs[1]?.dtype).toBeUndefined();
    expect(model.graph.nodes[0]?.attributes.get("huge")).toEqual({ type: "int", value: 2n ** 62n });
  });

  it("prints types and functions that parse back", async () => {
    const model = await load(strangeFile());
    const text = await printModel(model);
    expect(text).toContain("seq(float32[n]) s");
    expect(text).toContain("my.domain::Strange::v2");
    expect(text).toContain("alpha: reference = 1 alpha");
    const back = parseModel(text);
    expect(await printModel(back)).toBe(text);
    expect(back.functions[0]?.defaults?.get("alpha")).toEqual({ type: "float", value: 0.5 });
  });
});

describe("subgraphs", () => {
  /** y = if c then x·w + x else -x, with w and x captured. */
  function withIf(): Model {
    const model = new Model();
    const b = new Builder(model.graph);
    const c = b.input("c", "bool", []);
    const x = b.input("x", "float32", [4]);
    const w = b.constant("w", Tensor.float32([4], [1, 2, 3, 4]));
    const thenGraph = new Graph("then", model.graph);
    const tb = new Builder(thenGraph);
    tb.output(tb.op("Add", [tb.op("Mul", [x, w]), x]));
    const elseGraph = new Graph("else", model.graph);
    const eb = new Builder(elseGraph);
    eb.output(eb.op("Neg", [x]));
    const y = b.op("If", [c], {
      attributes: {
        then_branch: { type: "graph", value: thenGraph },
        else_branch: { type: "graph", value: elseGraph },
      },
    });
    y.dtype = "float32";
    y.shape = [4];
    b.output(y, "y");
    return model;
  }

  it("capture the very values of the outer graph, in every copy", async () => {
    const model = withIf();
    expect(checkModel(model)).toEqual([]);
    for (const copy of [...(await trips(model)), cloneModel(await load(await encodeModel(model)))]) {
      expect(checkModel(copy)).toEqual([]);
      const [x, w] = [copy.graph.inputs[1], copy.graph.initializers.get("w")];
      const [branch] = [...(copy.graph.nodes[0]?.subgraphs() ?? [])];
      expect(branch?.parent).toBe(copy.graph);
      expect(branch?.nodes[0]?.inputs).toEqual([x, w]);
      expect(branch?.nodes[0]?.inputs[0]).toBe(x);
      expect(w?.uses.map(({ node }) => node)).toEqual([branch?.nodes[0]]);
    }
  });

  it("compute the same before and after", async () => {
    const model = withIf();
    const before = bits(await runOnSynthetic(await encodeModel(model)));
    for (const copy of await trips(model)) expect(bits(await runOnSynthetic(await encodeModel(copy)))).toEqual(before);
  });

  it("leave the original alone when a clone changes", () => {
    const model = withIf();
    const copy = cloneModel(model);
    for (const node of copy.graph.allNodes()) node.attributes.set("extra", float(1));
    copy.graph.inputs[1]!.name = "renamed";
    expect([...model.graph.allNodes()].some((node) => node.attributes.has("extra"))).toBe(false);
    expect(model.graph.inputs[1]?.name).toBe("x");
  });

  it("nested in loops use names that an outer graph defines later, and are sorted", async () => {
    // The file lists the If before the node whose value its branch captures.
    const model = withIf();
    const b = new Builder(model.graph);
    const late = b.op("Abs", [model.graph.inputs[1]]);
    const branch = [...model.graph.nodes[0]!.subgraphs()][0]!;
    branch.nodes[0]!.setInput(0, late);
    const loaded = await load(await encodeModel(model));
    expect(loaded.graph.nodes.map(({ opType }) => opType)).toEqual(["Abs", "If"]);
    expect(checkModel(loaded).map(({ code, severity }) => [code, severity])).toEqual([["unsorted", "warning"]]);
    expect(checkModel(model).map(({ code }) => code)).toContain("unsorted");
  });
});

describe("sources", () => {
  it("load from a Blob and from a range reader without touching the weights", async () => {
    const model = new Model();
    const b = new Builder(model.graph);
    const w = randomTensor("float32", [1000, 1000]);
    b.output(b.op("MatMul", [b.input("x", "float32", [1, 1000]), b.constant("w", w)]));
    const bytes = await encodeModel(model);
    let read = 0;
    const source = {
      name: "counted",
      byteLength: bytes.length,
      read: async (offset: number, length: number) => {
        read += length;
        return bytes.slice(offset, offset + length);
      },
      readInto: async (target: Uint8Array, offset: number) => {
        read += target.length;
        target.set(bytes.subarray(offset, offset + target.length));
      },
    };
    const loaded = await load(source);
    expect(read).toBeLessThan(200_000); // two windows of a file of 4 MB
    const tensor = loaded.graph.initializers.get("w")?.tensor;
    expect(tensor?.peek()).toBeUndefined();
    expect(Buffer.compare((await tensor?.bytes()) ?? new Uint8Array(0), await w.bytes())).toBe(0);
    const fromBlob = await load(new Blob([bytes]));
    expect(Buffer.compare(await encodeModel(fromBlob), bytes)).toBe(0);
  });

  it("read through windows of any alignment: large text fields cross them", async () => {
    const model = new Model();
    model.docString = "é".repeat(200_000);
    model.metadata.set("k", "x".repeat(100_000));
    model.graph.addInitializer("w", randomTensor("int8", [5000]));
    const bytes = await encodeModel(model);
    const loaded = await load(new Blob([bytes]));
    expect(loaded.docString).toBe(model.docString);
    expect(Buffer.compare(await encodeModel(loaded), bytes)).toBe(0);
  });
});
