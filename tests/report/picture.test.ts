/** Axes, staircases, labels and the static picture. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { axisFor, bestKind, kindsFor } from "../../src/report/axis.ts";
import { familiesOf, familyStyle } from "../../src/report/families.ts";
import { chartPoints, offScale, staircase } from "../../src/report/front-points.ts";
import { frontSvg } from "../../src/report/front-svg.ts";
import { placeLabels, textWidth } from "../../src/report/labels.ts";
import { quantityOf } from "../../src/search/quantities.ts";
import type { Entry } from "../../src/search/results.ts";
import { sampleResults } from "./sample-results.ts";

describe("axes", () => {
  it("place values in order inside 0..1, with ticks inside and in order", () => {
    const unit = fc.constantFrom("bytes", "share", "seconds", "number") as fc.Arbitrary<"bytes" | "share">;
    fc.assert(
      fc.property(
        unit,
        fc.array(fc.double({ min: 1e-6, max: 0.999, noNaN: true }), { minLength: 1, maxLength: 9 }),
        (kind, raw) => {
          const values = kind === "bytes" ? raw.map((value) => value * 1e8) : raw;
          const axis = axisFor({ unit: kind }, values);
          const places = [...values].sort((a, b) => a - b).map((value) => axis.place(value));
          for (const place of places) {
            expect(place).toBeGreaterThanOrEqual(-1e-9);
            expect(place).toBeLessThanOrEqual(1 + 1e-9);
          }
          expect([...places].sort((a, b) => a - b)).toEqual(places);
          const ticks = axis.ticks.map(({ at }) => at);
          expect([...ticks].sort((a, b) => a - b)).toEqual(ticks);
          expect(ticks.length).toBeLessThan(20);
        },
      ),
      { numRuns: 300, seed: 2 },
    );
  });

  it("go logarithmic when values span a lot, by the error for shares, and never where they cannot", () => {
    expect(bestKind("bytes", [1e5, 1e6])).toBe("log");
    expect(bestKind("bytes", [8e5, 1e6])).toBe("linear");
    expect(bestKind("share", [0.9, 0.99])).toBe("log-error");
    expect(kindsFor("share", [0.9, 1])).toEqual(["linear"]);
    expect(kindsFor("number", [-1, 5])).toEqual(["linear"]);
  });

  it("write ticks that people would write", () => {
    expect(axisFor({ unit: "bytes" }, [1e5, 1e6], { count: 6 }).ticks.map(({ text }) => text)).toContain("200 kB");
    const shares = axisFor({ unit: "share" }, [0.3, 0.92], { kind: "log-error" }).ticks.map(({ text }) => text);
    expect(shares).toContain("90 %");
  });
});

describe("the staircase", () => {
  const entry = (id: string, accuracy: number, brotli: number): Entry => ({
    id,
    label: id,
    family: "quantize",
    recipe: [],
    metrics: { accuracy: { value: accuracy, low: accuracy, high: accuracy, samples: 1 } },
    bytes: { file: brotli, brotli },
    steps: [],
    layers: [],
    seconds: 0,
  });
  const entries = [entry("a", 0.5, 10), entry("b", 0.8, 20), entry("worse", 0.7, 30), entry("c", 0.9, 40)];

  it("runs between what is dominated and what is not, in either direction", () => {
    const [size, accuracy] = [quantityOf("brotli"), quantityOf("accuracy")];
    const points = chartPoints(entries, size, accuracy);
    expect(points.map(({ front }) => front)).toEqual([true, true, false, true]);
    expect(staircase(points, size)).toEqual([
      { x: 10, y: 0.5 },
      { x: 20, y: 0.5 },
      { x: 20, y: 0.8 },
      { x: 40, y: 0.8 },
      { x: 40, y: 0.9 },
    ]);
    const turned = staircase(chartPoints(entries, accuracy, size), accuracy);
    expect(turned).toEqual([
      { x: 0.5, y: 10 },
      { x: 0.5, y: 20 },
      { x: 0.8, y: 20 },
      { x: 0.8, y: 40 },
      { x: 0.9, y: 40 },
    ]);
  });

  it("leaves out failures and what was not measured; only broken shares go off the scale", () => {
    const size = quantityOf("brotli");
    const accuracy = quantityOf("accuracy");
    const failed: Entry = { ...entry("f", 0.9, 1), error: { code: "engine", message: "no" } };
    const { bytes: _, ...unmeasured } = entry("u", 0.9, 1);
    expect(chartPoints([failed, unmeasured], size, accuracy)).toEqual([]);
    const points = chartPoints(entries, size, accuracy);
    expect([...offScale(points, accuracy)].map((point) => point.entry.id)).toEqual(["a"]);
    expect(offScale(points, size).size).toBe(0);
  });
});

describe("labels", () => {
  it("overlap neither each other nor points, and stay inside", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 20, max: 380 }), fc.integer({ min: 20, max: 280 })), { maxLength: 15 }),
        (spots) => {
          const requests = spots.map(([x, y], i) => ({ x, y, text: `label ${i}` }));
          const options = { fontSize: 12, width: 400, height: 300, obstacles: requests, radius: 6 };
          const boxes = placeLabels(requests, options).map((label) => {
            const width = textWidth(label.text, 12);
            const left =
              label.anchor === "start"
                ? label.textX
                : label.anchor === "end"
                  ? label.textX - width
                  : label.textX - width / 2;
            return { left, right: left + width, top: label.textY - 11, bottom: label.textY + 2 };
          });
          for (const [i, a] of boxes.entries()) {
            expect(a.left).toBeGreaterThanOrEqual(0);
            expect(a.right).toBeLessThanOrEqual(400);
            for (const b of boxes.slice(i + 1))
              expect(a.left < b.right && b.left < a.right && a.top + 1 < b.bottom && b.top + 1 < a.bottom).toBe(false);
          }
        },
      ),
      { numRuns: 100, seed: 8 },
    );
  });
});

describe("the static picture", () => {
  it("is well-formed, shows every measured entry once, and follows light and dark", () => {
    const results = sampleResults();
    const svg = frontSvg(results);
    expect(svg.startsWith("<svg xmlns=")).toBe(true);
    expect(svg.match(/<path class="mark[^>]*><title>/g)).toHaveLength(
      results.entries.filter(({ error }) => !error).length,
    );
    expect(svg).toContain("prefers-color-scheme:dark");
    expect(frontSvg(results, { adaptive: false })).not.toContain("prefers-color-scheme");
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  });

  it("escapes names, also of families", () => {
    const evil = '</title><script>alert("x")</script>\u0000';
    const [first] = sampleResults().entries.slice(1);
    const svg = frontSvg(sampleResults([{ ...(first as Entry), id: "evil", label: evil, family: evil }]));
    expect(svg).not.toContain("<script");
    expect(svg).not.toContain("\u0000");
    expect(svg).toContain("&lt;script&gt;");
    expect(familiesOf([{ family: evil }, { family: "prune" }]).map(({ name }) => name)).toEqual(["prune", evil]);
    expect(familyStyle([{ family: "prune" }], "prune").shape).toBe("triangle");
  });

  it("gives every family a shape of its own", () => {
    const names = ["quantize", "prune", "combined", "simplify", "sparsify", "factorize", "share", "distill", "tune"];
    const shapes = ["baseline", ...names].map((name) => familyStyle([{ family: name }], name).shape);
    expect(new Set(shapes).size).toBe(shapes.length);
  });

  it("tells families that it does not know apart, as long as shapes are left", () => {
    const entries = ["quantize", "8 bits", "4 bits", "2 bits"].map((family) => ({ family }));
    const styles = familiesOf(entries);
    expect(styles.map(({ label }) => label)).toEqual(["Quantization", "8 bits", "4 bits", "2 bits"]);
    expect(new Set(styles.map(({ shape }) => shape)).size).toBe(4);
    expect(new Set(styles.map(({ light }) => light)).size).toBe(4);
  });

  it("draws nothing but axes when nothing was measured", () => {
    const results = { ...sampleResults(), entries: [], front: [] };
    expect(frontSvg(results)).not.toMatch(/NaN|Infinity/);
  });
});
