/** Symbolic dimensions: canonical texts, exact division, and agreement with arithmetic on numbers. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Dim } from "../../src/base/shape.ts";
import {
  add,
  broadcast,
  canonical,
  ceilDivide,
  evaluate,
  floorDivide,
  isEqual,
  isLess,
  maximum,
  minimum,
  multiply,
  product,
  signOf,
  substitute,
  subtract,
  symbolsOf,
} from "../../src/ops/symbolic.ts";

describe("symbolic dimensions", () => {
  it("prints readable, canonical texts", () => {
    expect(add(multiply(2, "batch"), 1)).toBe("2*batch + 1");
    expect(add("past", "seq")).toBe(add("seq", "past"));
    expect(multiply(add("past", "seq"), 8)).toBe("8*past + 8*seq");
    expect(subtract(add("n", 3), "n")).toBe(3);
    expect(canonical("1 + past_length")).toBe("past_length + 1");
    expect(subtract(0, "n")).toBe("-1*n");
    expect(canonical("-1*n")).toBe("-1*n");
  });

  it("divides exactly where it can, and leaves a floor where it cannot", () => {
    expect(floorDivide("12*n", 4)).toBe("3*n");
    expect(floorDivide(product(["b", "s", 64]), product(["b", 8]))).toBe("8*s");
    expect(floorDivide(multiply(add("past", "seq"), "b"), add("past", "seq"))).toBe("b");
    expect(floorDivide(add("n", 7), 2)).toBe("floor((n + 1) / 2) + 3");
    expect(floorDivide(add("4*n", 3), 4)).toBe("n");
    expect(ceilDivide("n", 2)).toBe("floor((n + 1) / 2)");
    expect(floorDivide("n", 0)).toBeNull();
  });

  it("knows signs and order of what cannot be negative", () => {
    expect(signOf("n")).toBe("non-negative");
    expect(signOf("n - 1")).toBeUndefined();
    expect(signOf(-2)).toBe("negative");
    expect(isLess("n", add("n", 1))).toBe(true);
    expect(isLess("n", "m")).toBeUndefined();
    expect(isEqual("n", -1)).toBe(false);
    expect(isEqual("n", 1)).toBeUndefined();
    expect(maximum(0, "n")).toBe("n");
    expect(minimum("n", add("n", "m"))).toBe("n");
  });

  it("broadcasts symbols without guessing", () => {
    expect(broadcast("n", 1)).toBe("n");
    expect(broadcast("n", 5)).toBe(5);
    expect(broadcast(null, 1)).toBeNull();
    const both = broadcast("n", "m");
    expect(evaluate(both, { n: 1, m: 4 })).toBe(4);
    expect(evaluate(both, { n: 4, m: 1 })).toBe(4);
    expect(broadcast(both, "n")).toBe(both);
  });

  it("keeps odd names whole", () => {
    expect(add("batch-size", 1)).toBe("batch-size + 1");
    expect([...symbolsOf("unk__7 + floor(batch-size / 2)")]).toEqual(["unk__7", "batch-size"]);
    expect(evaluate("a ) b", { "a ) b": 3 })).toBe(3);
    expect(substitute("n + m", { n: 2 })).toBe("m + 2");
  });

  it("gives up on what grows without bound instead of slowing down", () => {
    let dim: Dim = "n";
    for (let i = 0; i < 200; i++) dim = add(multiply(dim, `s${i}`), floorDivide(dim, 3));
    expect(dim).toBeNull();
    const bomb = Array.from({ length: 30 }, (_, i) => `(a${i} + b)`).join("*");
    expect(canonical(bomb)).toBe(bomb);
    expect(canonical("(".repeat(100_000))).toBe("(".repeat(100_000));
  });

  /** An expression of n and m, with the same expression as a function of numbers. */
  type Pair = { readonly dim: Dim; readonly value: (n: number, m: number) => number };
  const leaf = fc.oneof(
    fc.constant<Pair>({ dim: "n", value: (n) => n }),
    fc.constant<Pair>({ dim: "m", value: (_, m) => m }),
    fc.integer({ min: 0, max: 9 }).map<Pair>((c) => ({ dim: c, value: () => c })),
  );
  const expression = fc.letrec<{ tree: Pair }>((tie) => ({
    tree: fc.oneof(
      { maxDepth: 3 },
      leaf,
      fc
        .tuple(tie("tree"), tie("tree"))
        .map<Pair>(([a, b]) => ({ dim: add(a.dim, b.dim), value: (n, m) => a.value(n, m) + b.value(n, m) })),
      fc
        .tuple(tie("tree"), tie("tree"))
        .map<Pair>(([a, b]) => ({ dim: multiply(a.dim, b.dim), value: (n, m) => a.value(n, m) * b.value(n, m) })),
      fc
        .tuple(tie("tree"), leaf)
        .map<Pair>(([a, b]) => ({ dim: subtract(a.dim, b.dim), value: (n, m) => a.value(n, m) - b.value(n, m) })),
      fc
        .tuple(tie("tree"), fc.integer({ min: 1, max: 5 }))
        .map<Pair>(([a, k]) => ({ dim: floorDivide(a.dim, k), value: (n, m) => Math.floor(a.value(n, m) / k) })),
      fc.tuple(tie("tree"), tie("tree")).map<Pair>(([a, b]) => ({
        dim: maximum(a.dim, b.dim),
        value: (n, m) => Math.max(a.value(n, m), b.value(n, m)),
      })),
      fc.tuple(tie("tree"), tie("tree")).map<Pair>(([a, b]) => ({
        dim: minimum(a.dim, b.dim),
        value: (n, m) => Math.min(a.value(n, m), b.value(n, m)),
      })),
    ),
  }));

  it("is the arithmetic of numbers, whatever the symbols are", () => {
    fc.assert(
      fc.property(expression.tree, fc.nat(20), fc.nat(20), ({ dim, value }, n, m) => {
        if (dim === null) return;
        // Minus zero is zero.
        expect(evaluate(dim, { n, m })).toBe(value(n, m) + 0);
        expect(evaluate(canonical(dim), { n, m })).toBe(value(n, m) + 0);
      }),
      { numRuns: 500, seed: 1 },
    );
  });
});
