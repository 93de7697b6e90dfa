/** Curves of a training run: in the terminal, and as a page. */
import { describe, expect, test } from "vitest";
import { textChart } from "../../src/report/text-chart.ts";
import { isTrainingResults, trainingPage, type TrainingResults } from "../../src/report/training-run.ts";

const results: TrainingResults = {
  output: "out/<b>net.onnx",
  epochs: [1, 2, 3].map((epoch) => ({
    epoch,
    loss: 1 / epoch,
    metrics: { accuracy: 1 - 1 / (epoch + 1), loss: 1.2 / epoch },
    seconds: 2,
  })),
  best: { epoch: 3, loss: 1 / 3, metrics: { accuracy: 0.75, loss: 0.4 }, seconds: 2 },
  secondsPerStep: 0.01,
};

describe("a chart of text", () => {
  const line = { label: "loss", xs: [0, 1, 2, 3], ys: [4, 3, 2, 1] };

  test("falls from the top left to the bottom right within its size", () => {
    const lines = textChart(line, { width: 30, height: 4 });
    expect(lines).toHaveLength(5);
    for (const text of lines) expect(text.length).toBeLessThanOrEqual(30);
    expect(lines[0]).toMatch(/^4 │[\u2801-\u28ff]/);
    expect(lines[3]).toMatch(/^1 │ +[\u2801-\u28ff]+$/);
  });

  test("gaps are left out, a flat line is drawn, one point is not", () => {
    expect(textChart({ ...line, ys: [1, Number.NaN, 1, 1] }, { height: 3 }).join("")).toContain("⣀");
    expect(textChart({ ...line, xs: [1], ys: [1] })).toEqual([]);
    expect(textChart({ ...line, ys: line.ys.map(() => Number.NaN) })).toEqual([]);
  });

  test("logarithmic axes need positive values", () => {
    const wide = { label: "", xs: [1e-6, 1e-3, 1], ys: [100, 10, 1] };
    const lines = textChart(wide, { logX: true, logY: true, height: 3, width: 20 });
    expect(lines.at(-1)).toMatch(/0\.000001.*1$/);
    expect(lines[0]?.trimStart().startsWith("100")).toBe(true);
    // On both logarithmic axes the line is straight: its middle is in the middle row
    expect(lines[1]?.slice(10, 14).trim()).not.toBe("");
  });
});

describe("the page of a run", () => {
  test("shows every curve and epoch, and fetches nothing", () => {
    const page = trainingPage(results);
    expect(page.match(/<polyline/g)).toHaveLength(3);
    expect(page.match(/<tr>/g)).toHaveLength(4);
    expect(page).toContain("Accuracy on the validation data");
    expect(page).not.toMatch(/<script|https?:\/\/(?!www\.w3\.org)|<b>net/);
    expect(page).toContain("&lt;b&gt;net");
  });

  test("knows its document from others", () => {
    expect(isTrainingResults(JSON.parse(JSON.stringify(results)))).toBe(true);
    expect(isTrainingResults({ ...results, epochs: [] })).toBe(false);
    expect(isTrainingResults({ ...results, epochs: [{ epoch: "1" }] })).toBe(false);
    expect(isTrainingResults({ version: 1, entries: [] })).toBe(false);
    expect(isTrainingResults(null)).toBe(false);
  });
});
