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
  { name: "vgg-small", parameters: 4_660_106, source: "Zhang et al. 2018 (LQ-Nets): 4.66 million" },
  { name: "resnet-20", parameters: 269_722, megaMacs: 41, source: "He et al. 2016: 0.27 million, 41 million" },
  { name: "resnet-32", parameters: 464_154, megaMacs: 69, source: "He et al. 2016: 0.46 million, 69 million" },
  { name: "resnet-56", parameters: 853_018, megaMacs: 125, source: "He et al. 2016: 0.85 million, 125 million" },
  { name: "resnet-18", parameters: 11_689_512, megaMacs: 1814, source: "torchvision: 11,689,512, 1.814 billion" },
  { name: "resnet-50", parameters: 25_557_032, megaMacs: 4089, source: "torchvision: 25,557,032, 4.089 billion" },
  {
    name: "mobilenet-v1",
    parameters: 4_231_976,
    megaMacs: 569,
    source: "Howard et al. 2017: 4.2 million, 569 million",
  },
  {
    name: "mobilenet-v1",
    options: { width: 0.5 },
    parameters: 1_331_592,
    megaMacs: 149.5,
    source: "Howard et al. 2017: 1.3 million, 149 million",
  },
  { name: "mobilenet-v2", parameters: 3_504_872, megaMacs: 301, source: "torchvision: 3,504,872, 0.301 billion" },
  { name: "mobilenet-v3-large", parameters: 5_483_032, megaMacs: 217, source: "torchvision: 5,483,032, 0.217 billion" },
  { name: "mobilenet-v3-small", parameters: 2_542_856, megaMacs: 57, source: "torchvision: 2,542,856, 0.057 billion" },
  { name: "squeezenet", parameters: 1_235_496, megaMacs: 349, source: "torchvision 1.1: 1,235,496, 0.349 billion" },
  { name: "efficientnet-b0", parameters: 5_288_548, megaMacs: 386, source: "torchvision: 5,288,548, 0.386 billion" },
  {
    name: "efficientnet-b0",
    options: { phi: 1 },
    parameters: 7_794_184,
    megaMacs: 687,
    source: "torchvision B1: 7,794,184, 0.687 billion",
  },
  {
    name: "efficientnet-b0",
    options: { phi: 3 },
    parameters: 12_233_232,
    megaMacs: 1827,
    source: "torchvision B3: 12,233,232, 1.827 billion",
  },
  {
    name: "shufflenet-v2",
    options: { width: 0.5 },
    parameters: 1_366_792,
    megaMacs: 40,
    source: "torchvision x0.5: 1,366,792, 0.04 billion",
  },
  { name: "shufflenet-v2", parameters: 2_278_604, megaMacs: 145, source: "torchvision x1.0: 2,278,604, 0.145 billion" },
  {
    name: "shufflenet-v2",
    options: { width: 2 },
    parameters: 7_393_996,
    megaMacs: 583,
    source: "torchvision x2.0: 7,393,996, 0.583 billion",
  },
  { name: "convnext-tiny", parameters: 28_589_128, megaMacs: 4456, source: "torchvision: 28,589,128, 4.456 billion" },
  {
    name: "vit-tiny",
    parameters: 5_717_416 - 192,
    megaMacs: 1254,
    source: "DeiT-Ti: 5,717,416, 1.3 billion; its class token, 192 numbers, is the first position's row here",
  },
  {
    name: "bert-mini",
    options: { sequence: 512, classes: 2 },
    parameters: 11_170_560 + 2 * 257,
    source: "Turc et al. 2019: 11,170,560 with the pooling layer, and the head's own",
  },
  {
    name: "kws",
    parameters: 24_908 - 9 * 2 * 64 - 9 * 64,
    megaMacs: 2.7,
    source:
      "MLPerf Tiny: 24,908, of them nine layers' running statistics and biases that BatchNorm cancels; 2.7 million",
  },
];

describe("published sizes", () => {
  for (const { name, options = {}, parameters, megaMacs, source } of PUBLISHED)
    test(`${name} ${JSON.stringify(options)}, ${source}`, () => {
      const cost = costOf(buildArchitecture(name, options));
      expect(cost.parameters).toBe(parameters);
      if (megaMacs === undefined) return;
      const digits = 10 ** Math.max(0, String(megaMacs).split(".")[1]?.length ?? 0);
      expect(Math.round((cost.macs / 1e6) * digits) / digits).toBe(megaMacs);
      expect(cost.unknown).toEqual([]);
    });
});
