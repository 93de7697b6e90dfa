/** Static quantization with other formats for single layers. */
import { describe, expect, it } from "vitest";
import { TECHNIQUES } from "../../src/catalog.ts";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Model } from "../../src/ir/model.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { parseStep } from "../../src/techniques/recipe.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, unary } from "../support/small-models.ts";

/** stem → block1.a → block1.b → pool → head. */
function network(): Model {
  return unary(
    "float32",
    ["n", 4, 8, 8],
    (b, x) => {
      const conv = (name: string, from: typeof x): typeof x =>
        b.op("Relu", [
          b.op("Conv", [from, b.constant(`${name}.w`, randomTensor([4, 4, 3, 3], name.length, 0.3))], { name }),
        ]);
      const image = b.op("GlobalAveragePool", [conv("block1.b", conv("block1.a", conv("stem", x)))]);
      return b.op("Gemm", [b.op("Flatten", [image]), b.constant("head.w", randomTensor([4, 3], 5))], { name: "head" });
    },
    { shape: ["n", 3] },
    17,
  );
}

const rng = new Rng(2);
const data = datasetOf({
  fields: {
    x: { dtype: "float32", shape: [8, 4, 8, 8], data: Float32Array.from({ length: 8 * 256 }, () => rng.normal()) },
  },
});

/** How each layer's weights are stored: "float", or bits and the number of scales. */
async function stored(options: object): Promise<{ formats: Record<string, string>; skipped: string[]; notes: string }> {
  const { model, journal } = await runTechnique(
    quantize,
    network(),
    { calibration: "min-max", equalize: "never", ...options },
    data,
  );
  await (await openSession(model, { inProcess: true, threads: 1 })).close();
  const formats = Object.fromEntries(
    model.graph.nodes
      .filter(({ opType }) => opType === "Conv" || opType === "Gemm")
      .map(({ name, inputs }) => {
        const dequantize = inputs[1]?.producer;
        const scales = dequantize?.inputs[1]?.tensor?.elements;
        const bits = dequantize?.inputs[0]?.tensor ? "int8" : "int4"; // packed codes are unpacked by nodes
        return [name, dequantize ? `${bits} ${scales}` : "float"];
      }),
  );
  return {
    formats,
    skipped: journal.skipped.map(({ what, why }) => `${what}: ${why}`),
    notes: journal.notes.join("\n"),
  };
}

describe("formats of single layers", () => {
  it("are what the patterns say, the last that matches", async () => {
    const layers = { "block1.*": "int4", "block1.b": "float", head: "int8:per-tensor" };
    const { formats, skipped } = await stored({ layers });
    expect(formats).toEqual({ stem: "int8 4", "block1.a": "int4 4", "block1.b": "float", head: "int8 1" });
    expect(skipped).toContain("block1.b: layers 'block1.b'");
  });

  it("name the ends, the key layers, and what stays as it is", async () => {
    const ends = await stored({ to: "int4", ends: "int8" });
    expect(ends.formats).toEqual({ stem: "int8 4", "block1.a": "int4 4", "block1.b": "int4 4", head: "int8 3" });
    const key = await stored({ only: ["block1.*"], keep: ["block1.a"] });
    expect(key.formats).toEqual({ stem: "float", "block1.a": "float", "block1.b": "int8 4", head: "float" });
    expect(key.skipped).toEqual(
      expect.arrayContaining(["stem: none of the key layers", "block1.a: kept", "head: none of the key layers"]),
    );
  });

  it("can be said of operators without weights, and are noted where they match nothing", async () => {
    const { notes } = await stored({ layers: { "op:GlobalAveragePool": "float", steem: "int4" } });
    expect(notes).toMatch(/layers 'steem' matches nothing in this model; did you mean 'stem'\?/);
    expect(notes).not.toMatch(/operators between them run on int8/); // Flatten reads what the pool gives, which is a float now
  });

  it("are read from texts, and unknown ones refused", () => {
    const step = parseStep("quantize:layers=stem=float+head=int8:per-tensor", TECHNIQUES);
    expect(step.options["layers"]).toEqual({ stem: "float", head: "int8:per-tensor" });
    expect(() => parseStep("quantize:layers=stem=int5", TECHNIQUES)).toThrow(/No format 'int5': one of float, int8/);
  });
});
