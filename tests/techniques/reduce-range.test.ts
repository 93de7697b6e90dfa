/** 8-bit products that saturate, and the 7-bit weights that cannot make them do so. */
import { afterEach, describe, expect, it } from "vitest";
import fc from "fast-check";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import { hasInt8Instructions, machineInfo } from "../../src/evaluate/machine.node.ts";
import type { Model } from "../../src/ir/model.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { productsSaturate } from "../../src/run/saturation.ts";
import type { Session, SessionOptions } from "../../src/run/session.ts";
import { engine, installEngine } from "../../src/techniques/engine.ts";
import { REDUCED_HIGH } from "../../src/techniques/quantize/reduce-range.ts";
import { quantizeDynamic } from "../../src/techniques/quantize/quantize-dynamic.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, unary } from "../support/small-models.ts";

/** Σ a·b as VPMADDUBSW and VPMADDWD compute it: pairs of products are added in 16 bits with saturation, the pairs in 32 bits. */
function saturatingDot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i += 2) {
    const pair = (a[i] ?? 0) * (b[i] ?? 0) + (a[i + 1] ?? 0) * (b[i + 1] ?? 0);
    sum += Math.max(-32768, Math.min(32767, pair));
  }
  return sum;
}

const exactDot = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a, (x, i) => x * (b[i] ?? 0)).reduce((sum, x) => sum + x, 0);

const pairsOf = (high: number) =>
  fc.array(fc.tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: -high, max: high })), { maxLength: 64 });

const INPUTS = 32;
const OUTPUTS = 8;

/** A matrix product of rectified inputs. */
function product(): Model {
  return unary(
    "float32",
    ["n", INPUTS],
    (b, x) => b.op("Gemm", [x, b.constant("w", randomTensor([INPUTS, OUTPUTS], 3, 0.3))], { name: "fc" }),
    { shape: ["n", OUTPUTS] },
    17,
  );
}

/** Inputs that are mostly large, as behind a rectifier with bias. */
function samples(): Float32Array {
  const rng = new Rng(4);
  return Float32Array.from({ length: 16 * INPUTS }, () => Math.max(0, 3 + 0.4 * rng.normal()));
}

const data = datasetOf({ fields: { x: { dtype: "float32", shape: [16, INPUTS], data: samples() } } });
const PLAIN = { calibration: "min-max", equalize: "never" };

/** ‖ŷ − y‖/‖y‖ of the product of codes, computed by `dot`, against the float product. */
async function errorWith(dot: typeof exactDot, reduceRange: boolean): Promise<number> {
  const { model } = await runTechnique(quantize, product(), { ...PLAIN, reduceRange }, data);
  const initializers = [...model.graph.initializers.values()];
  const codes = initializers.find(({ name }) => name === "w.codes");
  const scales = initializers.find(({ name }) => name === "w.scales");
  const [, step] = model.graph.nodes.find(({ opType }) => opType === "QuantizeLinear")?.inputs ?? [];
  const w = (await codes?.tensor?.data()) as Int8Array;
  const s = (await scales?.tensor?.data()) as Float32Array;
  const steps = (await step?.tensor?.data()) as Float32Array;
  const scale = steps[0] as number;
  const floats = (await product().graph.initializers.get("w")?.tensor?.data()) as Float32Array;
  const x = samples();
  let [difference, size] = [0, 0];
  for (let row = 0; row < 16; row++)
    for (let o = 0; o < OUTPUTS; o++) {
      const own = x.subarray(row * INPUTS, (row + 1) * INPUTS);
      const quantized = Uint8Array.from(own, (value) => Math.min(255, Math.round(value / scale)));
      const column = (from: ArrayLike<number>): number[] =>
        Array.from({ length: INPUTS }, (_, i) => from[i * OUTPUTS + o] ?? 0);
      const y = exactDot(own, column(floats));
      difference += (dot(quantized, column(w)) * scale * (s[o] ?? 1) - y) ** 2;
      size += y * y;
    }
  return Math.sqrt(difference / size);
}

describe("8-bit products in 16-bit sums", () => {
  it("never saturate with weights of the reduced range", () => {
    fc.assert(
      fc.property(pairsOf(REDUCED_HIGH), (pairs) => {
        const [a, b] = [pairs.map(([x]) => x), pairs.map(([, x]) => x)];
        expect(saturatingDot(a, b)).toBe(exactDot(a, b));
      }),
    );
    expect(saturatingDot([255, 255], [127, 127])).not.toBe(exactDot([255, 255], [127, 127]));
  });

  it("spoil a layer with 8-bit weights, and leave one with 7-bit weights as it is", async () => {
    const [full, saturated] = [await errorWith(exactDot, false), await errorWith(saturatingDot, false)];
    const [reduced, safe] = [await errorWith(exactDot, true), await errorWith(saturatingDot, true)];
    expect(safe).toBe(reduced);
    expect(full).toBeLessThan(reduced); // a bit less of precision is the price
    expect(saturated).toBeGreaterThan(3 * reduced);
  });

  it("are tried on the engine: with VNNI they are exact", async () => {
    const saturates = await productsSaturate(openSession, { inProcess: true, threads: 1 });
    if (hasInt8Instructions(machineInfo())) expect(saturates).toBe(false);
    expect(await productsSaturate(saturatingEngine)).toBe(true);
  });
});

/** The engine, with the sums of integer products as a processor without VNNI gives them. */
async function saturatingEngine(model: Model, options: SessionOptions = {}): Promise<Session> {
  const session = await openSession(model, { ...options, inProcess: true });
  if (!model.graph.nodes.some(({ opType }) => opType === "MatMulInteger")) return session;
  const [, b] = model.graph.nodes[0]?.inputs ?? [];
  const w = (await b?.tensor?.data()) as Int8Array;
  return {
    inputs: session.inputs,
    outputs: session.outputs,
    time: (feeds, times) => session.time(feeds, times),
    resident: (state, links) => session.resident(state, links),
    close: () => session.close(),
    async run(feeds) {
      const x = feeds["x"];
      const [rows = 1, k = 1] = x?.shape ?? [];
      const n = w.length / k;
      const codes = x?.data as Uint8Array;
      const data = Int32Array.from({ length: rows * n }, (_, at) =>
        saturatingDot(
          codes.subarray(Math.floor(at / n) * k, (Math.floor(at / n) + 1) * k),
          Array.from({ length: k }, (_, i) => w[i * n + (at % n)] ?? 0),
        ),
      );
      return { y: { dtype: "int32", shape: [rows, n], data } };
    },
  };
}

describe("reduce-range auto", () => {
  afterEach(async () => {
    const { openSession: _, ...rest } = await engine();
    installEngine({ ...rest, openSession });
  });

  const largest = async (model: Model, name: string): Promise<number> => {
    const codes = [...model.graph.initializers.values()].find((value) => value.name.includes(name));
    return Math.max(...Array.from((await codes?.tensor?.data()) as Int8Array, Math.abs));
  };

  it.each([
    [quantize, PLAIN, "w.codes"],
    [quantizeDynamic, { minElements: 1, rest: "leave" }, "w"],
  ] as const)("reduces where products saturate, and says so: $0.name", async (technique, options, name) => {
    installEngine({ ...(await engine()), openSession: saturatingEngine });
    const { model, journal } = await runTechnique(technique, product(), options, data);
    expect(await largest(model, name)).toBe(REDUCED_HIGH);
    expect(journal.notes.join("\n")).toMatch(/7 bits \(reduce-range auto\)/);
    const asked = await runTechnique(technique, product(), { ...options, reduceRange: false }, data);
    expect(await largest(asked.model, name)).toBe(127);
  });
});
