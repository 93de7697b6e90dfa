/**
 * Simulated low-bit numbers: operators of pare's own that exist only while a model is trained for low bits. No engine knows
 * them; their lowered forms run everywhere.
 */
import {
  fakeBinaryGrad,
  fakeQuantizeGrad,
  fakeTernaryGrad,
  fakeTrainedTernaryGrad,
  lowerFakeBinary,
  lowerFakeQuantize,
  lowerFakeTernary,
  lowerFakeTrainedTernary,
} from "./gradients/simulated.ts";
import { dtypeOf, type OpTable, perOutput, shapeOf } from "./helpers.ts";
import type { Grad, Lower, OpSpec, Weights } from "./spec.ts";

/** Domain of operators that only training knows. */
export const SIMULATED_DOMAIN = "pare.train";

/** The stored tensor that is quantized, and scales and offsets that learn. */
const weights: Weights = (node) => [
  { input: 0, role: "kernel", channelAxis: node.int("axis") },
  ...(node.int("learned", 0) === 1
    ? node.inputs.slice(1).map((_, i) => ({ input: i + 1, role: "scale", channelAxis: undefined }) as const)
    : []),
];

function simulated(grad: Grad, lower: Lower): OpSpec {
  return {
    since: 1,
    infer: (context) => [{ dtype: dtypeOf(context, 0), shape: shapeOf(context, 0) }],
    cost: perOutput(4),
    axes: "opaque",
    weights,
    grad,
    lower,
    traits: { elementwise: true },
  };
}

/**
 * Inputs: the data; a scale of one number, or of (channels) along `axis`; then what the operator says. `learned` 1: these
 * learn, their gradients times `gradient_scale`.
 */
export const simulatedTable: OpTable = {
  /** Codes `low`..`high` in steps of the scale, less an offset; `nonnegative` 1: the data never lies below the range. */
  [`${SIMULATED_DOMAIN}::FakeQuantize`]: simulated(fakeQuantizeGrad, lowerFakeQuantize),
  /** Two codes; without a scale the mean magnitude is it. */
  [`${SIMULATED_DOMAIN}::FakeBinary`]: simulated(fakeBinaryGrad, lowerFakeBinary),
  /** Three codes, threshold and scale from the data (TWN). */
  [`${SIMULATED_DOMAIN}::FakeTernary`]: simulated(fakeTernaryGrad, lowerFakeTernary),
  /** Three codes with a learned magnitude for each sign (TTQ). */
  [`${SIMULATED_DOMAIN}::FakeTrainedTernary`]: simulated(fakeTrainedTernaryGrad, lowerFakeTrainedTernary),
};
