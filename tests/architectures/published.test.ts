/** Published sizes: parameters and multiply-accumulates of every architecture that somebody else has counted. */
import { describe, expect, test } from "vitest";
import { costOf } from "../../src/analyse/cost.ts";
import { type BuildOptions, buildArchitecture } from "../../src/architectures/build.ts";

interface Published {
  readonly name: string;
  readonly options?: BuildOptions;
  /** Exact number of learned parameters. */
  readonly parameters: number;
  /** Millions of multiply-accumulates, to the digits that were published. */
  readonly megaMacs?: number;
  readonly source: string;
}

const PUBLISHED: readonly Published[] = [
  { name: "lenet-300-100", parameters: 266_610, source: "Han et al. 2015: 267 thousand" },
  { name: "lenet-5", parameters: 431_080, source: "Han et al. 2015: 431 thousand" },
  { name: "resnet-20", parameters: 269_722, megaMacs: 41, source: "He et al. 2016: 0.27 million" },
  {
    name: "mobilenet-v2",
    parameters: 3_504_872,
    megaMacs: 301,
    source: "torchvision; Sandler et al. 2018: 3.4 M, 300 M",
  },
];

describe("published sizes", () => {
  for (const { name, options = {}, parameters, megaMacs, source } of PUBLISHED)
    test(`${name} ${JSON.stringify(options)}: ${source}`, () => {
      const cost = costOf(buildArchitecture(name, options));
      expect(cost.parameters).toBe(parameters);
      if (megaMacs === undefined) return;
      const digits = 10 ** Math.max(0, String(megaMacs).split(".")[1]?.length ?? 0);
      expect(Math.round((cost.macs / 1e6) * digits) / digits).toBe(megaMacs);
      expect(cost.unknown).toEqual([]);
    });
});
