/** The report page: safe whatever the names, and working in a real browser at desktop and phone width. Skipped without Chromium. */
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, type Page, chromium } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { embeddedJson, htmlReport } from "../../src/report/html.ts";
import type { Entry } from "../../src/search/results.ts";
import { sampleResults } from "./sample-results.ts";

const EVIL = `</script><!--<script>window.pwned=1</script><img src=x onerror="window.pwned=1">\u2028`;
const evilEntry: Entry = {
  id: "evil",
  label: EVIL,
  family: EVIL,
  recipe: [{ technique: EVIL, options: { [EVIL]: EVIL } }],
  command: EVIL,
  metrics: { accuracy: { value: 0.85, low: 0.84, high: 0.86, samples: 10 } },
  bytes: { file: 600_000, brotli: 500_000 },
  steps: [
    {
      technique: EVIL,
      options: {},
      seconds: 1,
      changed: [{ what: EVIL, how: EVIL }],
      skipped: [{ what: EVIL, why: EVIL }],
    },
  ],
  layers: [{ name: EVIL, op: EVIL, bytes: 1, bytesBefore: 2, error: Number.POSITIVE_INFINITY }],
  seconds: 1,
};

describe("the page as text", () => {
  it("holds everything inside, asks for nothing, and is small", () => {
    const page = htmlReport(sampleResults());
    expect(page).not.toMatch(/<(?:link|img|iframe)\b|<script[^>]+src=|@import|url\((?!#)/);
    expect(page).toContain("default-src 'none'");
    expect(page.length).toBeLessThan(600_000);
    expect(page).toContain("<noscript>");
  });

  it("lets no name end the script or begin markup", () => {
    const results = sampleResults([evilEntry]);
    const json = embeddedJson(results);
    expect(json).not.toMatch(/[<>&\u2028]/);
    expect(JSON.parse(json).entries.at(-1).label).toBe(EVIL);
    const page = htmlReport({ ...results, title: EVIL });
    const outside = page.replace(/<script>[\s\S]*<\/script>/, "");
    expect(outside).not.toContain("window.pwned=1</script>");
    expect(page.match(/<\/script>/g)).toHaveLength(2);
  });
});

/** Chromium where `apt install chromium` and others put it. */
const CHROMIUM = [
  process.env["CHROMIUM"],
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path !== undefined && existsSync(path));

describe.skipIf(!CHROMIUM)(`the page in a browser${CHROMIUM ? "" : " (skipped: needs chromium)"}`, () => {
  let browser: Browser;
  let folder: string;
  let errors: string[] = [];
  let requests: string[] = [];
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "pare-page-"));
    await writeFile(join(folder, "report.html"), htmlReport(sampleResults([evilEntry])));
    browser = await chromium.launch({
      executablePath: CHROMIUM ?? "",
      args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"],
    });
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    await rm(folder, { recursive: true, force: true });
  });

  const open = async (width: number, height: number, scheme: "light" | "dark" = "light"): Promise<Page> => {
    errors = [];
    requests = [];
    const page = await browser.newPage({ viewport: { width, height }, colorScheme: scheme });
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    page.on("request", (request) => requests.push(request.url()));
    await page.goto(pathToFileURL(join(folder, "report.html")).href);
    await page.waitForSelector(".plot svg");
    return page;
  };

  it("says the summary, draws every measured model, runs no foreign script, and fetches nothing", async () => {
    const page = await open(1280, 900);
    expect(await page.textContent(".summary")).toContain("3.8× smaller and 2.1× faster at −0.1 points accuracy");
    expect(await page.locator(".dot").count()).toBe(15);
    expect(await page.evaluate(() => "pwned" in window)).toBe(false);
    expect(errors).toEqual([]);
    expect(requests).toHaveLength(1);
    await page.close();
  }, 30_000);

  it("shows a tip under the pointer and opens a model on click", async () => {
    const page = await open(1280, 900);
    const dot = page.locator('[data-entry="w4"] .shape');
    await dot.hover();
    await expect.poll(() => page.textContent('[aria-label="tip"]')).toContain("int4 weights, block 32");
    expect(await page.textContent('[aria-label="tip"]')).toContain("90.4 % (88.4 – 92.4)");
    await dot.click();
    expect(await page.textContent("#details h2")).toBe("int4 weights, block 32");
    expect(await page.locator("#details .layers li").count()).toBe(21);
    expect(page.url()).toContain("#w4");
    await page.close();
  }, 30_000);

  it("opens a model from the table and by keyboard, with its journal", async () => {
    const page = await open(1280, 900);
    await page.locator("tr[data-id=evil] button").click();
    expect(await page.textContent("#details h2")).toBe(EVIL);
    expect(await page.evaluate(() => "pwned" in window)).toBe(false);
    await page.locator('[data-entry="sparse-int8"]').focus();
    await page.keyboard.press("Enter");
    expect(await page.textContent("#details h2")).toBe("80 % sparse + int8");
    expect(await page.evaluate(() => document.activeElement?.getAttribute("data-entry"))).toBe("sparse-int8");
    await page.locator("#details summary").first().click();
    expect(await page.textContent("#details details[open]")).toContain("too small to gain anything");
    expect(errors).toEqual([]);
    await page.close();
  }, 30_000);

  it("sorts by any column, failures last, and tells assistive technology", async () => {
    const page = await open(1280, 900);
    const labels = (): Promise<string[]> => page.locator(".models tbody .label-text").allTextContents();
    await page.locator("th button[data-key=brotli]").click();
    expect((await labels())[0]).toBe("80 % sparse + int8");
    expect((await labels()).at(-1)).toBe("int1 weights");
    expect(await page.locator("th:has(button[data-key=brotli])").getAttribute("aria-sort")).toBe("ascending");
    await page.locator("th button[data-key=brotli]").click();
    expect((await labels())[0]).toMatch(/Original|Simplified/);
    expect(await page.locator("td.best").first().textContent()).toContain("best");
    await page.close();
  }, 30_000);

  it("draws other quantities and scales when asked", async () => {
    const page = await open(1280, 900);
    await page.locator(".controls select").nth(1).selectOption("latency-ratio");
    expect(await page.textContent(".plot")).toContain("Time relative to the original");
    expect(await page.locator(".dot").count()).toBe(14); // one was not timed
    await page.getByLabel("log scale up").check();
    await page.getByLabel("broken models to scale").check();
    expect(await page.locator(".dot .arrow").count()).toBe(0);
    expect(errors).toEqual([]);
    await page.close();
  }, 30_000);

  it("fits a phone: nothing but the table scrolls sideways, in light and dark", async () => {
    for (const scheme of ["light", "dark"] as const) {
      const page = await open(360, 740, scheme);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(wide).toBeLessThanOrEqual(0);
      expect(await page.evaluate(() => (document.querySelector(".scroller")?.scrollWidth ?? 0) > 360)).toBe(true);
      const colours = await page.evaluate(() => {
        const style = getComputedStyle(document.documentElement);
        return [style.color, style.backgroundColor].map((colour) => (colour.match(/\d+/g) ?? []).map(Number));
      });
      expect(contrast(colours[0] ?? [], colours[1] ?? [])).toBeGreaterThan(7);
      await page.close();
    }
  }, 30_000);
});

/** WCAG contrast ratio: (L1 + 0.05) / (L2 + 0.05) of relative luminances. */
function contrast(a: readonly number[], b: readonly number[]): number {
  const luminance = (rgb: readonly number[]): number => {
    const [red = 0, green = 0, blue = 0] = rgb.map((value) => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [dark = 0, light = 0] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (light + 0.05) / (dark + 0.05);
}
