import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { float } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Graph } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { parseFloatText, printFloat32, printFloat64 } from "../../src/ir/text-literal.ts";
import { parseModel } from "../../src/ir/text-parse.ts";
import { printModel } from "../../src/ir/text-print.ts";

const SMALL = `<
  ir_version: 10,
  opset_import: ["": 21, "com.microsoft": 1],
  producer_name: "by hand",
  metadata_props: ["a": "b", "quote\\"": "line\\nbreak"]
>
main (float32[batch, 3] x, seq(int64[]) list, none any) => (float32[batch, ?] y)
<
  float32[3] bias = {0.1, -0, nan},
  int4[3] packed = 0x2103,
  string[2] words = {"a b", 0xff},
  float32[batch, 3] h
> {
  [first] h = Add (x, bias)
  a, "" = com.microsoft::Odd/Op <axis: int = -1, scale: float = 0.00001, flags: ints = [1, 9223372036854775807], name: string = "n"> (h, "", "odd name:0")
  "odd name:0" = Constant <value: tensor = float32[] "" = {inf}> ()
  y = Identity (a)
}
`;

describe("the text form", () => {
  it("is what printing a parsed text gives back", async () => {
    const sorted = SMALL.replace(/( {2}a, "" = [^\n]*\n)( {2}"odd name:0" = [^\n]*\n)/, "$2$1");
    const model = parseModel(SMALL);
    expect(await printModel(model)).toBe(sorted); // nodes are put in order
    expect(await printModel(parseModel(sorted))).toBe(sorted);
    expect(model.graph.initializers.get("packed")?.tensor?.dtype).toBe("int4");
    expect(model.graph.inputs[0]?.shape).toEqual(["batch", 3]);
    expect(model.metadata.get('quote"')).toBe("line\nbreak");
  });

  it("elides large weights by a hash, and takes a resolver to parse them", async () => {
    const model = new Model(new Graph("g"));
    const b = new Builder(model.graph);
    const w = Tensor.float32(
      [100],
      Float32Array.from({ length: 100 }, (_, i) => i),
    );
    b.output(b.op("Mul", [b.input("x", "float32", [100]), b.constant("w", w)]));
    const text = await printModel(model, { weights: "elide" });
    expect(text).toMatch(/float32\[100\] w = ref "[0-9a-f]{16}"/);
    expect(text.length).toBeLessThan(500);
    expect(() => parseModel(text)).toThrow(/leaves this tensor's elements out/);
    const back = parseModel(text, { resolve: ({ name }) => (name === "w" ? w : undefined) });
    expect(back.graph.initializers.get("w")?.tensor?.source).toBe(w.source);
    // The hash follows the contents.
    model.graph.initializers.get("w")!.tensor = Tensor.float32([100], new Float32Array(100));
    expect(await printModel(model, { weights: "elide" })).not.toBe(text);
  });

  for (const [name, text, message] of [
    ["an unclosed string", '< ir_version: 1 > "g', /closing quote/],
    ["a missing bracket", "< ir_version: 1 > g (float32[2 x) => () {}", /line 1, column .*found 'x'; expected '\]'/],
    ["an unknown type", "< ir_version: 1 > g (floaty x) => () {}", /found 'floaty'; expected a type/],
    ["an unknown field", "< version: 1 > g () => () {}", /ir_version/],
    ["a wrong number", "< ir_version: 1 > g () => () < int8[1] w = {300} > {}", /elements of int8/],
    ["too few elements", "< ir_version: 1 > g () => () < int8[2] w = {3} > {}", /wrong size/],
    ["an unknown attribute type", "< ir_version: 1 > g () => () { y = A <k: real = 1> () }", /found 'real'/],
    ["text after the end", "< ir_version: 1 > g () => () {} more", /end of the text/],
    ["bottomless nesting", `< ir_version: 1 > g (${"seq(".repeat(5000)}`, /levels of nesting/],
    ["nothing", "", /the end of the text/],
  ] as const)
    it(`says where ${name} is`, () => {
      expect(() => parseModel(text)).toThrow(message);
    });

  it("prints floats that read back exactly, and as short as they can be", () => {
    const rng = new Rng(5);
    const view = new DataView(new ArrayBuffer(8));
    for (let i = 0; i < 20_000; i++) {
      view.setUint32(0, rng.bits());
      view.setUint32(4, rng.bits());
      const single = view.getFloat32(0);
      const wide = view.getFloat64(0);
      expect(Object.is(Math.fround(parseFloatText(printFloat32(single)) ?? 0), single)).toBe(true);
      expect(Object.is(parseFloatText(printFloat64(wide)), wide)).toBe(true);
    }
    expect(printFloat32(Math.fround(0.1))).toBe("0.1");
    expect(parseFloatText("0x10")).toBeUndefined();
  });

  it("keeps float attributes that are whole numbers floats", async () => {
    const model = new Model(new Graph("g"));
    const b = new Builder(model.graph);
    b.output(b.op("Elu", [b.input("x", "float32", [1])], { attributes: { alpha: float(2) } }));
    const back = parseModel(await printModel(model));
    expect(back.graph.nodes[0]?.attributes.get("alpha")).toEqual({ type: "float", value: 2 });
  });
});
