import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { afterAll, describe, expect, it } from "vitest";
import { PareError, type ErrorCode } from "../../src/base/error.ts";
import { checkWeights } from "../../src/ir/check-weights.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { load } from "../../src/ir/load.ts";
import type { Model } from "../../src/ir/model.ts";
import {
  GraphProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  TensorProto_DataLocation,
  ValueInfoProtoSchema,
} from "../../src/onnx/gen/onnx_pb.js";
import { varint } from "../../src/onnx/wire.ts";
import { sharedData } from "../support/shared-data.ts";

const folder = mkdtempSync(join(tmpdir(), "pare-hostile-"));
afterAll(() => rmSync(folder, { recursive: true }));

const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const latin = (value: string): Uint8Array => Uint8Array.from(value, (c) => c.charCodeAt(0));

function concat(...parts: readonly (Uint8Array | readonly number[])[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** A length-prefixed field. */
function field(number: number, body: Uint8Array, length: number = body.length): Uint8Array {
  return concat(varint(number * 8 + 2), varint(length), body);
}

const IR_VERSION = [0x08, 0x0a];

function tensor(fields: Partial<Omit<TensorProto, "$typeName" | "$unknown">>): TensorProto {
  return create(TensorProtoSchema, { name: "w", ...fields });
}

type GraphInit = Parameters<typeof create<typeof GraphProtoSchema>>[1];

function fileOf(graph: GraphInit): Uint8Array<ArrayBuffer> {
  return new Uint8Array(
    toBinary(
      ModelProtoSchema,
      create(ModelProtoSchema, { irVersion: 10n, graph: create(GraphProtoSchema, { name: "g", ...graph }) }),
    ),
  );
}

function node(opType: string, input: string[], output: string[]): ReturnType<typeof create<typeof NodeProtoSchema>> {
  return create(NodeProtoSchema, { opType, input, output, name: `${opType}_node` });
}

/** The error of loading, which must come at once. */
async function errorOf(bytes: Uint8Array): Promise<PareError> {
  const start = performance.now();
  const error = await load(bytes).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(performance.now() - start).toBeLessThan(2000);
  expect(error).toBeInstanceOf(PareError);
  return error as PareError;
}

describe("files that are no models say what they are", () => {
  const safetensors = concat(
    new Uint8Array(new BigUint64Array([40n]).buffer),
    text(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}    `),
    [0, 0, 0, 0],
  );
  const cases: readonly [string, Uint8Array, RegExp][] = [
    ["empty", new Uint8Array(0), /empty file/],
    ["safetensors", safetensors, /safetensors/],
    ["GGUF", concat(text("GGUF"), [3, 0, 0, 0]), /GGUF/],
    ["PyTorch zip", concat([0x50, 0x4b, 3, 4], new Uint8Array(60)), /zip.*PyTorch/],
    ["pickle", concat([0x80, 2, 0x8a, 10], new Uint8Array(60)), /pickle/],
    ["TFLite", concat([0x1c, 0, 0, 0], text("TFL3"), new Uint8Array(60)), /TensorFlow Lite/],
    ["ORT format", concat([0x1c, 0, 0, 0], text("ORTM"), new Uint8Array(60)), /ONNX Runtime's own format/],
    ["HDF5", latin("\x89HDF\r\n\x1a\n"), /HDF5/],
    ["NumPy", latin("\x93NUMPY\x01\x00"), /NumPy/],
    ["PNG", latin("\x89PNG\r\n\x1a\n"), /PNG/],
    ["JPEG", Uint8Array.of(0xff, 0xd8, 0xff, 0xe0, 0, 16), /JPEG/],
    ["gzip", Uint8Array.of(0x1f, 0x8b, 8, 0, 0), /gzip/],
    ["JSON", text('{"architectures": ["Llama"]}'), /JSON/],
    ["HTML", text("<!DOCTYPE html><html><head><title>404</title>"), /web page/],
    ["HTML after blank lines", text("\n\n <html><body>"), /web page/],
    ["LFS pointer", text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"), /Git LFS/],
    ["text form", text("<\n  ir_version: 8,\n"), /text form.*pare convert/],
    ["protobuf text", text('ir_version: 8\ngraph {\n  name: "g"\n}'), /protobuf text/],
    [
      "GraphDef",
      concat(field(1, concat(field(1, text("input")), field(2, text("Placeholder")))), field(4, new Uint8Array(4))),
      /GraphDef/,
    ],
    [
      "a lone tensor",
      toBinary(TensorProtoSchema, tensor({ dims: [2n], dataType: 1, floatData: [1, 2] })),
      /single saved tensor/,
    ],
    ["noise", Uint8Array.from({ length: 5000 }, (_, i) => (i * 7919 + 13) & 255), /not an ONNX|no ONNX/],
    ["zeros", new Uint8Array(5000), /not an ONNX|no ONNX/],
    ["prose", text("This is a letter to you. ".repeat(40)), /not an ONNX|no ONNX/],
  ];
  for (const [name, bytes, message] of cases)
    it(name, async () => {
      const error = await errorOf(bytes);
      expect(error.code).toBe("not-onnx" satisfies ErrorCode);
      expect(error.message).toMatch(message);
      expect(error.message).not.toContain("\n");
    });

  for (const [path, message] of [
    ["models/containers/mnist.safetensors", /safetensors/],
    ["models/stories260k/tokenizer.json", /JSON/],
    ["mnist/t10k-labels-idx1-ubyte.gz", /gzip/],
    ["INDEX.md", /not an ONNX|no ONNX/],
  ] as const) {
    const found = sharedData(path);
    it.skipIf(!found)(`${path} (needs shared/data)`, async () => {
      await expect(loadFile(found ?? "")).rejects.toThrow(message);
    });
  }

  it("absent files, folders and unreadable paths are missing files", async () => {
    for (const path of [join(folder, "absent.onnx"), folder, "/dev/null/x"])
      await expect(loadFile(path)).rejects.toMatchObject({ code: "missing-file" });
  });
});

describe("damaged models", () => {
  const good = fileOf({
    initializer: [tensor({ dims: [1000n], dataType: 1, rawData: new Uint8Array(4000) })],
    node: [node("Relu", ["w"], ["y"])],
    output: [create(ValueInfoProtoSchema, { name: "y" })],
  });

  it("load when they are whole (the control)", async () => {
    expect((await load(good)).graph.nodes).toHaveLength(1);
  });

  it("cut off at any byte are refused at once", async () => {
    for (let length = 1; length < good.length; length += length < 100 || length > good.length - 100 ? 1 : 97) {
      const error = await errorOf(good.slice(0, length));
      expect(["bad-model", "not-onnx"]).toContain(error.code);
    }
  });

  const nested = (depth: number): Uint8Array => {
    let graph = new Uint8Array(0) as Uint8Array;
    for (let i = 0; i < depth; i++) graph = field(1, field(5, field(6, graph)));
    return concat(IR_VERSION, field(7, graph));
  };
  const overLong = concat(
    IR_VERSION,
    [0x28],
    Array.from({ length: 12 }, () => 0xff),
  );
  const huge = 2 ** 40;
  const cases: readonly [string, Uint8Array, RegExp][] = [
    ["a length beyond the file", concat(IR_VERSION, field(7, text("abc"), huge)), /ends in the middle/],
    [
      "a length of 2^63",
      concat(IR_VERSION, [0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
      /ends in the middle/,
    ],
    [
      "a length beyond its message",
      concat(IR_VERSION, field(7, concat(field(2, text("abc"), 90))), new Uint8Array(100)),
      /longer than the message/,
    ],
    ["nesting a thousand deep", nested(1000), /nested messages/],
    ["a varint without end", overLong, /more than ten bytes|ends in the middle/],
    ["a group", concat(IR_VERSION, [0x3b, 0x3c]), /[Ww]ire type/],
    ["a graph that is a number", concat(IR_VERSION, [0x38, 1]), /wrong wire type/],
    ["field number 0", concat(IR_VERSION, [0x02, 0x00]), /field number/],
  ];
  for (const [name, bytes, message] of cases)
    it(name, async () => {
      const error = await errorOf(bytes);
      expect(error.code).toBe("bad-model");
      expect(error.message).toMatch(message);
    });

  it("a million empty messages stay within memory, ten million are refused", async () => {
    const many = (count: number): Uint8Array => {
      const body = new Uint8Array(count * 2);
      for (let i = 0; i < body.length; i += 2) body[i] = 0x0a; // node, length 0
      return concat2(IR_VERSION, varint(7 * 8 + 2), varint(body.length), body);
    };
    const error = await load(many(5_000_000)).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "bad-model" });
  });
});

/** Like {@link concat}, for large parts. */
function concat2(...parts: readonly (Uint8Array | readonly number[])[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

describe("models that lie", () => {
  const y = create(ValueInfoProtoSchema, { name: "y" });
  const big = new Uint8Array(4000);
  const cases: readonly [string, GraphInit, RegExp][] = [
    ["dims of 2^63 − 1", { initializer: [tensor({ dims: [2n ** 63n - 1n], dataType: 1 })] }, /impossible dimensions/],
    [
      "dims whose product overflows",
      { initializer: [tensor({ dims: [2n ** 40n, 2n ** 40n], dataType: 1 })] },
      /impossible dimensions/,
    ],
    ["negative dims", { initializer: [tensor({ dims: [-4n], dataType: 1, rawData: big })] }, /impossible dimensions/],
    ["2^62 times zero", { initializer: [tensor({ dims: [2n ** 62n, 0n], dataType: 1 })] }, /impossible dimensions/],
    [
      "a thousand dimensions",
      { initializer: [tensor({ dims: Array.from({ length: 1000 }, () => 1n), dataType: 1 })] },
      /too many dimensions/,
    ],
    ["too few bytes", { initializer: [tensor({ dims: [2000n], dataType: 1, rawData: big })] }, /wrong size/],
    ["too many bytes", { initializer: [tensor({ dims: [1n], dataType: 1, rawData: big })] }, /wrong size/],
    ["no bytes at all for a terabyte", { initializer: [tensor({ dims: [2n ** 38n], dataType: 1 })] }, /wrong size/],
    [
      "floats in an int8 tensor",
      { initializer: [tensor({ dims: [2n], dataType: 3, floatData: [1, 2] })] },
      /another type/,
    ],
    [
      "many floats in an int8 tensor",
      { initializer: [tensor({ dims: [999n], dataType: 3, floatData: Array.from({ length: 999 }, () => 1) })] },
      /another type/,
    ],
    ["no element type", { initializer: [tensor({ dims: [2n] })] }, /element type/],
    [
      "duplicate initializers",
      { initializer: [tensor({ dims: [0n], dataType: 1 }), tensor({ dims: [0n], dataType: 1 })] },
      /same name/,
    ],
    ["duplicate outputs of nodes", { node: [node("A", [], ["y"]), node("B", [], ["y"])] }, /same name/],
    ["an input redefined by a node", { input: [y], node: [node("A", [], ["y"])] }, /same name/],
    ["an input that nothing defines", { node: [node("Relu", ["ghost"], ["y"])] }, /nothing defines/],
    ["an output that nothing computes", { output: [y] }, /nothing computes/],
    ["a cycle", { node: [node("A", ["b"], ["a"]), node("B", ["a"], ["b"])] }, /cycle/],
    ["a node that feeds itself", { node: [node("A", ["a"], ["a"])] }, /cycle/],
    [
      "external strings",
      { initializer: [tensor({ dims: [1n], dataType: 8, dataLocation: TensorProto_DataLocation.EXTERNAL })] },
      /Strings cannot/,
    ],
    [
      "external data without location",
      { initializer: [tensor({ dims: [1n], dataType: 1, dataLocation: TensorProto_DataLocation.EXTERNAL })] },
      /without a location/,
    ],
  ];
  for (const [name, graph, message] of cases)
    it(name, async () => {
      const error = await errorOf(fileOf(graph));
      expect(error.code).toBe("bad-model");
      expect(error.message).toMatch(message);
    });

  it("an element type of the future is unsupported, not damage", async () => {
    const error = await errorOf(
      fileOf({ initializer: [tensor({ dims: [1n], dataType: 99, rawData: big.slice(0, 4) })] }),
    );
    expect(error.code).toBe("unsupported");
  });

  it("varint data with too few or too many elements is refused when it is read", async () => {
    for (const count of [700, 999, 1001]) {
      const model = await load(
        fileOf({
          initializer: [tensor({ dims: [1000n], dataType: 6, int32Data: Array.from({ length: count }, () => -1) })],
        }),
      ).catch((error: unknown) => error);
      if (model instanceof PareError) expect(model.code).toBe("bad-model");
      else {
        const reading = (model as Model).graph.initializers.get("w")?.tensor?.bytes();
        await expect(reading).rejects.toMatchObject({ code: "bad-model" });
      }
    }
  });
});

describe("sparse tensors", () => {
  const sparse = (dims: bigint[], index: bigint): Uint8Array =>
    fileOf({
      sparseInitializer: [
        {
          values: tensor({ dims: [1n], dataType: 1, floatData: [5] }),
          indices: tensor({ name: "", dims: [1n], dataType: 7, int64Data: [index] }),
          dims,
        },
      ] as never,
    });
  const dense = async (bytes: Uint8Array): Promise<unknown> =>
    (await load(bytes)).graph.initializers.get("w")?.tensor?.data();

  it("become dense ones (the control)", async () => {
    expect(await dense(sparse([2n, 3n], 4n))).toEqual(Float32Array.of(0, 0, 0, 0, 5, 0));
  });

  it("with indices outside, or a few bytes that stand for gigabytes, are refused when they are read", async () => {
    await expect(dense(sparse([2n, 3n], 6n))).rejects.toMatchObject({ code: "bad-model" });
    await expect(dense(sparse([2n, 3n], -1n))).rejects.toMatchObject({ code: "bad-model" });
    await expect(dense(sparse([2n ** 29n], 0n))).rejects.toThrow(/too large to be made dense/);
    await expect(load(sparse([2n ** 62n], 0n))).rejects.toMatchObject({ code: "bad-model" });
  });
});

describe("external data", () => {
  function external(location: string, extra: Readonly<Record<string, string>> = {}, dims = [1000n]): Uint8Array {
    const entries = Object.entries({ location, ...extra }).map(([key, value]) => ({ key, value }));
    return fileOf({
      initializer: [
        tensor({
          dims,
          dataType: 1,
          dataLocation: TensorProto_DataLocation.EXTERNAL,
          externalData: entries as TensorProto["externalData"],
        }),
      ],
    });
  }

  async function reading(bytes: Uint8Array): Promise<unknown> {
    const path = join(folder, "external.onnx");
    writeFileSync(path, bytes);
    const model = await loadFile(path); // a hostile model can still be inspected
    expect(model.graph.initializers.size).toBe(1);
    return model.graph.initializers.get("w")?.tensor?.bytes();
  }

  writeFileSync(join(folder, "good.bin"), new Uint8Array(5000).fill(7));
  writeFileSync(join(tmpdir(), "pare-outside.bin"), new Uint8Array(5000));
  afterAll(() => rmSync(join(tmpdir(), "pare-outside.bin"), { force: true }));
  symlinkSync(join(tmpdir(), "pare-outside.bin"), join(folder, "link.bin"));
  symlinkSync(tmpdir(), join(folder, "linked-folder"));
  mkdirSync(join(folder, "sub"));
  writeFileSync(join(folder, "sub", "deep.bin"), new Uint8Array(4000).fill(9));

  it("is read where it may be (the control)", async () => {
    expect(((await reading(external("good.bin", { offset: "8" }))) as Uint8Array)[0]).toBe(7);
    expect(((await reading(external("sub/deep.bin", { length: "4000" }))) as Uint8Array)[0]).toBe(9);
  });

  for (const location of [
    "../pare-outside.bin",
    "sub/../../pare-outside.bin",
    "/etc/passwd",
    "\\\\server\\share",
    "C:\\x.bin",
    "file:///etc/passwd",
    "http://127.0.0.1/x",
    "a\0b",
    "",
    "x".repeat(5000),
    "link.bin",
    "linked-folder/pare-outside.bin",
  ])
    it(`never leaves its folder: ${JSON.stringify(location.slice(0, 40))}`, async () => {
      await expect(reading(external(location))).rejects.toMatchObject({ code: "unsafe-path" });
    });

  it("that is not there is a missing file, named", async () => {
    await expect(reading(external("absent.bin"))).rejects.toMatchObject({ code: "missing-file" });
    await expect(reading(external("absent.bin"))).rejects.toThrow(/absent\.bin/);
    await expect(load(external("good.bin")).then((model) => checkWeights(model))).resolves.toMatchObject([
      { code: "unreadable-weights", severity: "error" },
    ]);
  });

  it("that is too short, or of an absurd size, is refused before anything is allocated", async () => {
    await expect(reading(external("good.bin", { offset: "2000" }))).rejects.toMatchObject({ code: "bad-model" });
    await expect(reading(external("good.bin", {}, [2n ** 40n]))).rejects.toMatchObject({ code: "bad-model" });
  });

  it("with a nonsensical offset or length is refused on loading", async () => {
    for (const extra of [{ offset: "-8" }, { offset: "1e3" }, { length: "99999999999999999999" }, { length: "5" }]) {
      const error = await errorOf(external("good.bin", extra));
      expect(error.code).toBe("bad-model");
    }
  });
});

describe("NaN weights", () => {
  it("are found and counted; a lone infinity is a mask", async () => {
    const floats = (values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
    const model = await load(
      fileOf({
        initializer: [
          tensor({
            name: "bad",
            dims: [4n],
            dataType: 1,
            rawData: floats([1, Number.NaN, Number.POSITIVE_INFINITY, 2]),
          }),
          tensor({ name: "half", dims: [2n], dataType: 10, rawData: Uint8Array.of(0, 0x7e, 0, 0x3c) }),
          tensor({ name: "mask", dims: [], dataType: 1, rawData: floats([Number.NEGATIVE_INFINITY]) }),
          tensor({ name: "good", dims: [2n], dataType: 1, rawData: floats([1, 2]) }),
        ],
      }),
    );
    const problems = await checkWeights(model);
    expect(problems.map(({ where, message }) => [where, message])).toEqual([
      ["tensor 'bad'", "2 of 4 elements are NaN or infinite"],
      ["tensor 'half'", "1 of 2 elements are NaN or infinite"],
    ]);
  });
});
