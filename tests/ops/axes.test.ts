/** The notation of tied axes: parsing, rules that read shapes, and the check that equal letters are equal sizes. */
import { describe, expect, it } from "vitest";
import { inferShapes } from "../../src/analyse/shapes.ts";
import type { Dim } from "../../src/base/shape.ts";
import type { AttributeInput } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { type Axis, axesAgree, axesOf, parseAxes } from "../../src/ops/axes.ts";
import { specOf } from "../../src/ops/registry.ts";

/** The expanded terms of a call as text; stored inputs are shapes in an object. */
function axes(
  op: string,
  inputs: readonly (readonly Dim[] | { readonly stored: readonly number[] } | { readonly ints: readonly number[] })[],
  attributes: Record<string, AttributeInput> = {},
  outputs = 1,
): string {
  const model = new Model();
  const b = new Builder(model.graph);
  const values = inputs.map((input, i) => {
    if ("ints" in input) return b.constant(`c${i}`, Tensor.int64(input.ints));
    if ("stored" in input) {
      const size = input.stored.reduce((x, y) => x * y, 1);
      return b.constant(`w${i}`, Tensor.float32(input.stored, new Float32Array(size)));
    }
    return b.input(`x${i}`, "float32", input);
  });
  const [output] = b.ops(op, values, { attributes, outputs });
  const node = output?.producer;
  const spec = node && specOf(node, model.opset);
  if (!spec) throw new Error("no record");
  inferShapes(model);
  const terms = axesOf(node, spec);
  const text = (axis: Axis): string => {
    if (axis.kind === "name" || axis.kind === "rest") return axis.name;
    if (axis.kind === "merge") return `(${axis.parts.join(" ")})`;
    if (axis.kind === "concat") return axis.parts.join("+");
    return axis.kind === "one" ? "1" : "_";
  };
  const side = (list: readonly (readonly Axis[])[]): string => list.map((term) => term.map(text).join(" ")).join(", ");
  return terms ? `${side(terms.inputs)} -> ${side(terms.outputs)}` : "opaque";
}

describe("tied axes", () => {
  it("ties channels of convolutions, whole, depthwise and in groups", () => {
    expect(axes("Conv", [["n", 3, 8, 8], { stored: [4, 3, 3, 3] }, { stored: [4] }])).toBe(
      "n i s0 s1, o i k0 k1, o -> n o z0 z1",
    );
    expect(axes("Conv", [["n", 4, 8, 8], { stored: [4, 1, 3, 3] }], { group: 4 })).toBe(
      "n c s0 s1, c 1 k0 k1,  -> n c z0 z1",
    );
    expect(axes("Conv", [["n", 4, 8, 8], { stored: [6, 2, 3, 3] }], { group: 2 })).toBe(
      "n (g i) s0 s1, (g o) i k0 k1,  -> n (g o) z0 z1",
    );
  });

  it("merges and splits in Reshape, and ties nothing where it is neither", () => {
    expect(axes("Reshape", [["b", "s", 64], { ints: [0, 0, 8, 8] }])).toBe("a0 a1 (a2x0 a2x1) -> a0 a1 a2x0 a2x1");
    expect(axes("Flatten", [["n", 16, 5, 5]])).toBe("a0 a1x0 a1x1 a1x2 -> a0 (a1x0 a1x1 a1x2)");
    expect(axes("Reshape", [[2, 6], { ints: [3, 4] }])).toBe("_ _ -> _ _");
    expect(axes("Reshape", [["n", 12, 10], { ints: [0, 4, 30] }])).toBe("a0 (a1x0 a1x1) a1x2 -> a0 a1x0 (a1x1 a1x2)");
    expect(axes("Unsqueeze", [["n", 3], { ints: [1] }])).toBe("a0 a1 -> a0 _ a1");
  });

  it("adds the axes of Concat and divides those of Split", () => {
    expect(
      axes(
        "Concat",
        [
          ["n", 3],
          ["n", 5],
        ],
        { axis: 1 },
      ),
    ).toBe("a0 c0, a0 c1 -> a0 c0+c1");
    expect(axes("Split", [["n", 8], { ints: [3, 5] }], { axis: 1 }, 2)).toBe("a0 c0+c1,  -> a0 c0, a0 c1");
  });

  it("ties only sizes that are known to be equal when it broadcasts", () => {
    expect(axes("Add", [["n", 4, 8, 8], { stored: [4, 1, 1] }])).toBe("a0 a1 a2 a3, a1 _ _ -> a0 a1 a2 a3");
    expect(
      axes("Add", [
        ["n", 4],
        ["m", 4],
      ]),
    ).toBe("_ a1, _ a1 -> _ a1");
    expect(axes("MatMul", [["b", "s", 8], { stored: [8, 5] }])).toBe("b0 m k, k n -> b0 m n");
  });

  it("follows permutations, reductions and look-ups", () => {
    expect(axes("Transpose", [[2, 3, 4]], { perm: [2, 0, 1] })).toBe("a0 a1 a2 -> a2 a0 a1");
    expect(axes("ReduceMean", [[2, 3, 4, 5], { ints: [2, 3] }])).toBe("a0 a1 a2 a3 -> a0 a1 1 1");
    expect(axes("Slice", [[2, 8], { ints: [0] }, { ints: [4] }, { ints: [1] }])).toBe("a0 a1x0+4 -> a0 a1x0");
    expect(
      axes("GatherND", [
        [2, 3],
        [1, 1],
      ]),
    ).toBe("opaque");
  });

  it("notices sizes that are tied and differ", () => {
    const terms = parseAxes("n (g i) s, (g o) i k -> n (g o) z");
    expect(
      axesAgree(
        terms,
        [
          [2, 4, 9],
          [6, 2, 3],
        ],
        [[2, 6, 7]],
      ),
    ).toBe(true);
    expect(
      axesAgree(
        terms,
        [
          [2, 4, 9],
          [6, 2, 3],
        ],
        [[2, 5, 7]],
      ),
    ).toBe(false);
    expect(
      axesAgree(
        terms,
        [
          [2, 4, 9],
          [6, 2, 3],
        ],
        [[3, 6, 7]],
      ),
    ).toBe(false);
    expect(
      axesAgree(
        parseAxes("a b, a c -> a b+c"),
        [
          [2, 3],
          [2, 4],
        ],
        [[2, 8]],
      ),
    ).toBe(false);
    expect(axesAgree(parseAxes("a b -> (a b)"), [[2, 3]], [[6]])).toBe(true);
    expect(axesAgree(parseAxes("a b -> (a b)"), [[2, 3]], [[5]])).toBe(false);
    expect(() => parseAxes("a b")).toThrow(/->/);
  });
});
