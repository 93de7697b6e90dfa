import { describe, expect, it } from "vitest";
import { lookAhead, prefetch } from "../../src/run/prefetch.ts";

const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe("prefetch", () => {
  it("keeps order and runs the source one ahead", async () => {
    const log: string[] = [];
    const source = async function* (): AsyncGenerator<number> {
      for (let i = 0; i < 3; i++) {
        log.push(`made ${i}`);
        yield i;
      }
    };
    for await (const i of prefetch(source())) {
      await wait(2);
      log.push(`used ${i}`);
    }
    expect(log).toEqual(["made 0", "made 1", "used 0", "made 2", "used 1", "used 2"]);
  });

  it("passes errors on in their place and closes the source when left", async () => {
    const seen: number[] = [];
    const failing = function* (): Generator<number> {
      yield 1;
      throw new Error("broken");
    };
    const read = async (): Promise<void> => {
      for await (const i of prefetch(failing())) {
        await wait(2);
        seen.push(i);
      }
    };
    await expect(read()).rejects.toThrow("broken");
    expect(seen).toEqual([1]);
    let closed = false;
    const endless = function* (): Generator<number> {
      try {
        for (;;) yield 1;
      } finally {
        closed = true;
      }
    };
    for await (const _ of prefetch(endless())) break;
    expect(closed).toBe(true);
  });
});

describe("lookAhead", () => {
  it("shows the beginning and passes on everything", async () => {
    for (const most of [0, 1, 2, 5]) {
      const { first, all } = await lookAhead([1, 2, 3], most);
      expect(first).toEqual([1, 2, 3].slice(0, most));
      const seen: number[] = [];
      for await (const i of all) seen.push(i);
      expect(seen).toEqual([1, 2, 3]);
    }
  });

  it("closes the source when left", async () => {
    let closed = false;
    const source = function* (): Generator<number> {
      try {
        for (let i = 0; ; i++) yield i;
      } finally {
        closed = true;
      }
    };
    const { all } = await lookAhead(source(), 2);
    for await (const i of all) if (i === 3) break;
    expect(closed).toBe(true);
  });
});
