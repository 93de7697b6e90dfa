/** How weights are drawn: the standard schemes of initialization, by name. */
import type { Rng } from "../../base/rng.ts";
import { Tensor } from "../../ir/tensor.ts";

export type Scheme =
  | "he-normal"
  | "he-uniform"
  | "he-normal-out"
  | "glorot-uniform"
  | "glorot-normal"
  | "normal-0.01"
  | "truncated-0.02"
  | "uniform-0.1";

interface Law {
  /** Variance from the number of inputs that a unit sums over and the number of units that an input reaches. */
  variance(fanIn: number, fanOut: number): number;
  readonly shape: "normal" | "uniform" | "truncated";
}

const he = (fanIn: number): number => 2 / fanIn;
const glorot = (fanIn: number, fanOut: number): number => 2 / (fanIn + fanOut);

/**
 * He et al. 2015 keeps the variance through ReLUs, forwards (fan in) or backwards (fan out); Glorot and Bengio 2010 is the
 * mean of both for layers without one; 0.01 and 0.02 are fixed deviations, as in
 * MobileNet's classifier and in transformers (Radford et al. 2018, Devlin et al. 2019), the latter cut at two deviations; ±0.1 is
 * the range of recurrent language models (Zaremba et al. 2014).
 */
const LAWS: Readonly<Record<Scheme, Law>> = {
  "he-normal": { variance: he, shape: "normal" },
  "he-uniform": { variance: he, shape: "uniform" },
  "he-normal-out": { variance: (_, fanOut) => 2 / fanOut, shape: "normal" },
  "glorot-uniform": { variance: glorot, shape: "uniform" },
  "glorot-normal": { variance: glorot, shape: "normal" },
  "normal-0.01": { variance: () => 0.01 ** 2, shape: "normal" },
  "truncated-0.02": { variance: () => 0.02 ** 2, shape: "truncated" },
  "uniform-0.1": { variance: () => 0.1 ** 2 / 3, shape: "uniform" },
};

/**
 * Random weights; a uniform law of variance v lies within ±√(3v), a truncated one within two deviations. The deviation of
 * the scheme is multiplied by `gain`.
 */
export function drawWeights(
  rng: Rng,
  shape: readonly number[],
  fanIn: number,
  fanOut: number,
  scheme: Scheme,
  gain = 1,
): Tensor {
  const law = LAWS[scheme];
  const data = new Float32Array(shape.reduce((n, size) => n * size, 1));
  const deviation = gain * Math.sqrt(law.variance(fanIn, fanOut));
  const bound = deviation * Math.sqrt(3);
  for (let i = 0; i < data.length; i++) {
    if (law.shape === "uniform") data[i] = rng.uniform(-bound, bound);
    else {
      let w = rng.normal(0, deviation);
      while (law.shape === "truncated" && Math.abs(w) > 2 * deviation) w = rng.normal(0, deviation);
      data[i] = w;
    }
  }
  return Tensor.of("float32", shape, data);
}

/** A vector of one value. */
export function filled(length: number, value: number): Tensor {
  return Tensor.of("float32", [length], new Float32Array(length).fill(value));
}
