/** Numbers, summaries and the tables for terminal and Markdown: what they say, how wide they are, what they do with hostile names. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bestOf, columnsOf } from "../../src/report/columns.ts";
import {
  formatBytes,
  formatInterval,
  formatPoints,
  formatSeconds,
  formatTimes,
  formatValue,
} from "../../src/report/format.ts";
import { markdownReport, markdownTable } from "../../src/report/markdown.ts";
import { gainOf, recommended, summaryOf } from "../../src/report/summary.ts";
import { cells, terminalReport, terminalTable } from "../../src/report/terminal.ts";
import type { Entry, Results } from "../../src/search/results.ts";
import { sampleResults } from "./sample-results.ts";

const hostile: Entry = {
  id: "hostile",
  label: "a|b\n| <img src=x onerror=alert(1)> \u001b[31m日本",
  family: "odd family",
  recipe: [],
  error: { code: "engine", message: "line one\nline | two \u001b]0;title\u0007" },
  metrics: {},
  steps: [],
  layers: [],
  seconds: 0,
};

describe("numbers", () => {
  it("are written in decimal units with three digits", () => {
    expect([0, 999, 1000, 999_999, 1_234_567, 5e9].map(formatBytes)).toEqual([
      "0 B",
      "999 B",
      "1.00 kB",
      "1.00 MB",
      "1.23 MB",
      "5.00 GB",
    ]);
    expect([0, 2.5e-6, 0.0123, 1.5, 125, 3700].map(formatSeconds)).toEqual([
      "0 s",
      "2.50 µs",
      "12.3 ms",
      "1.50 s",
      "2 min 5 s",
      "1 h 1 min",
    ]);
    expect([0.051, 0.97, 1.5, 3.94, 12.3, 123].map(formatTimes)).toEqual([
      "0.051×",
      "0.97×",
      "1.50×",
      "3.9×",
      "12.3×",
      "123×",
    ]);
    expect([-0.002, 0.0004, 0.013].map(formatPoints)).toEqual(["−0.2", "±0.0", "+1.3"]);
    expect(formatInterval({ value: 0.914, low: 0.9, high: 0.92 }, "share")).toBe("91.4 % (90.0 – 92.0)");
    expect(formatInterval({ value: 5, low: 5, high: 5 }, "number")).toBe("5.000");
    expect(formatValue(Number.POSITIVE_INFINITY, "decibels")).toBe("∞");
    expect(formatValue(1.9e-7, "joules")).toBe("190 nJ");
  });
});

describe("the verdict", () => {
  it("takes what gains most among those within a point, and says what it costs", () => {
    const results = sampleResults();
    expect(recommended(results)?.id).toBe("int8-static");
    expect(summaryOf(results)).toBe(
      "int8 static makes it 3.8× smaller and 2.1× faster at −0.1 points accuracy. 1 of 14 recipes failed; its reason is in the table.",
    );
  });

  it("does not recommend what loses more than a point, nor what gains nothing", () => {
    const results = sampleResults();
    const lossy = results.entries.map(
      (entry, index): Entry =>
        index === 0 || entry.error
          ? entry
          : { ...entry, metrics: { accuracy: { value: 0.9, low: 0.9, high: 0.9, samples: 846 } } },
    );
    const bad: Results = { ...results, entries: lossy };
    expect(recommended(bad)).toBeUndefined();
    expect(summaryOf(bad)).toMatch(
      /^None of 13 compressed models stays within one point of the original in accuracy\./,
    );
    expect(recommended({ ...results, entries: results.entries.slice(0, 1) })).toBeUndefined();
  });

  it("calls a time that cannot be told from the original's 'as fast'", () => {
    const results = sampleResults();
    const entry = results.entries.find(({ id }) => id === "w8") as Entry;
    expect(gainOf(results, entry)).toBe("3.7× smaller and as fast at ±0.0 points accuracy");
  });
});

describe("terminal", () => {
  it("never exceeds the width, whatever the labels, and aligns its columns", () => {
    fc.assert(
      fc.property(fc.integer({ min: 40, max: 180 }), fc.string({ unit: "grapheme", maxLength: 60 }), (width, label) => {
        const results = sampleResults([{ ...hostile, label, error: { code: "x", message: label } }]);
        const lines = terminalTable(results, { width }).split("\n");
        expect(lines).toHaveLength(results.entries.length + 1);
        for (const line of lines) expect(cells(line)).toBeLessThanOrEqual(width);
      }),
      { numRuns: 60, seed: 9 },
    );
    const lines = terminalTable(sampleResults(), { width: 120 }).split("\n");
    const accuracy = (line: string | undefined): number => (line ?? "").indexOf(" % (");
    expect(new Set(lines.slice(1, -1).map(accuracy)).size).toBe(1);
  });

  it("says below the table what is to be known of an entry", () => {
    const results = sampleResults();
    const entries = results.entries.map((entry, i) => (i === 1 ? { ...entry, notes: ["Slower.", "Why."] } : entry));
    const said = `${entries[1]?.label}: Slower. Why.`;
    expect(terminalReport({ ...results, entries }, { width: 100 })).toContain(said);
    expect(markdownReport({ ...results, entries })).toContain("Slower. Why.");
    expect(terminalReport(results, { width: 100 })).not.toContain("Slower.");
  });

  it("has no escape codes unless asked, and never those of a name", () => {
    const results = sampleResults([hostile]);
    expect(terminalReport(results, { width: 100 })).not.toContain("\u001b");
    const coloured = terminalReport(results, { width: 100, color: true });
    expect(coloured).toContain("\u001b[1m");
    expect(coloured).not.toContain("\u001b]0;");
    expect(terminalReport(results, { width: 100 })).toContain("failed: line one");
  });

  it("counts wide characters as two cells and marks as none", () => {
    expect([cells("abc"), cells("日本"), cells("e\u0301")]).toEqual([3, 4, 1]);
  });
});

describe("Markdown", () => {
  it("has one row per entry, bold bests, stars on the front, and survives hostile names", () => {
    const results = sampleResults([hostile]);
    const rows = markdownTable(results).split("\n");
    expect(rows).toHaveLength(results.entries.length + 2);
    const columns = (row: string): number => row.replace(/\\\|/g, "").split("|").length;
    expect(new Set(rows.map(columns)).size).toBe(1);
    expect(rows.filter((row) => row.startsWith("| ★"))).toHaveLength(results.front.length);
    expect(rows.find((row) => row.includes("80 % sparse + int8"))).toContain("**81.6 kB**");
    expect(rows.at(-1)).toContain("&lt;img");
    expect(markdownReport(results)).toContain("npx pare demo -o pare-demo");
  });

  it("marks no best where most share it", () => {
    const results = sampleResults();
    const macs = columnsOf(results).find(({ title }) => title === "MACs");
    expect(macs && bestOf(macs, results.entries)).toBeUndefined();
  });
});
