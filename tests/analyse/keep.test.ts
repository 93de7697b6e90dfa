/** The vocabulary of `--keep`. */
import { describe, expect, it } from "vitest";
import { exactPattern, matchKeep } from "../../src/analyse/keep.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { unary } from "../support/small-models.ts";

function sample(): Model {
  const model = new Model();
  const b = new Builder(model.graph);
  const x = b.input("image", "float32", ["batch", 3, 8, 8]);
  const w1 = b.constant("conv1.weight", Tensor.float32([4, 3, 1, 1], new Float32Array(12)));
  const w2 = b.constant("fc.weight[0]", Tensor.float32([4, 2], new Float32Array(8)));
  const y = b.op("Conv", [x, w1], { name: "/block/conv1/Conv" });
  const pooled = b.op("GlobalAveragePool", [y], { name: "/block/pool/" });
  const flat = b.op("Flatten", [pooled], { name: "/flatten" });
  b.output(b.op("MatMul", [flat, w2], { name: "/head/MatMul" }));
  return model;
}

function nodesOf(...patterns: string[]): readonly string[] {
  const model = sample();
  const keep = matchKeep(patterns, model);
  return model.graph.nodes.filter((node) => keep.node(node)).map((node) => node.name);
}

describe("keep", () => {
  it("takes exact names, also those with signs that globs use", () => {
    expect(nodesOf("/head/MatMul")).toEqual(["/head/MatMul"]);
    const model = sample();
    const weight = model.graph.initializers.get("fc.weight[0]");
    if (!weight) throw new Error("no weight");
    expect(matchKeep(["fc.weight[0]"], model).value(weight)).toBe(true);
    expect(matchKeep(["fc.*"], model).value(weight)).toBe(true);
    expect(matchKeep(["conv1.*"], model).value(weight)).toBe(false);
  });

  it("takes globs whose star crosses slashes", () => {
    expect(nodesOf("*conv*")).toEqual(["/block/conv1/Conv"]);
    expect(nodesOf("/block/*")).toEqual(["/block/conv1/Conv", "/block/pool/"]);
    expect(nodesOf("/{head,flatten}*")).toEqual(["/flatten", "/head/MatMul"]);
  });

  it("takes regular expressions, and a node that is called like one", () => {
    expect(nodesOf("/Conv$|MatMul$/")).toEqual(["/block/conv1/Conv", "/head/MatMul"]);
    expect(nodesOf("/block/pool/")).toContain("/block/pool/");
    expect(() => nodesOf("/(/")).toThrow(/does not parse/);
  });

  it("takes operators", () => {
    expect(nodesOf("op:MatMul")).toEqual(["/head/MatMul"]);
    expect(nodesOf("op:Global*")).toEqual(["/block/pool/"]);
    expect(nodesOf("MatMul")).toEqual([]);
  });

  it("says what matched, and warns with the nearest name where nothing did", () => {
    const keep = matchKeep(["op:Conv", "fc.weigth[0]", "op:Matmul", "zzz"], sample());
    expect(keep.matches[0]).toEqual({ pattern: "op:Conv", nodes: ["/block/conv1/Conv"], weights: [] });
    expect(keep.warnings).toEqual([
      "keep 'fc.weigth[0]' matches nothing in this model; did you mean 'fc.weight[0]'?",
      "keep 'op:Matmul' matches nothing in this model; did you mean 'op:MatMul'?",
      "keep 'zzz' matches nothing in this model",
    ]);
  });

  it("keeps nothing without patterns", () => {
    expect(nodesOf()).toEqual([]);
    expect(matchKeep([], sample()).warnings).toEqual([]);
  });
});

describe("a pattern for one name", () => {
  it("names that one and nothing else, and survives in lists of texts", () => {
    const names = [
      "w",
      "/layer/",
      "a[0]",
      "a0",
      "op:Conv",
      "x*y",
      "xzy",
      "a+b,c=d",
      "/a.b/w",
      "ü.weight",
      "{a,b}",
      "a",
    ];
    const model = unary("float32", ["n", 1], (b, x) => {
      for (const name of names) b.graph.addInitializer(name, Tensor.float32([1], [1]));
      return b.op("Relu", [x], { name: "relu" });
    });
    for (const name of names) {
      const pattern = exactPattern(name);
      expect(matchKeep([pattern], model).matches[0]?.weights).toEqual([name]);
      expect(pattern).not.toMatch(/[+,=]/);
    }
    // A plain name is no such pattern.
    expect(matchKeep(["a[0]"], model).matches[0]?.weights).toEqual(["a[0]", "a0"]);
  });
});
