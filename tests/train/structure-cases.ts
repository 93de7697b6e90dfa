/** Gradient cases of operators that move, look up, resample, quantize and repeat, by family. */
import type { GradientCase } from "./gradient-check.ts";
import { ATTENTION_CASES } from "./cases/attention.ts";
import { CONTROL_CASES } from "./cases/control.ts";
import { MOVEMENT_CASES } from "./cases/movement.ts";
import { QUANTIZATION_CASES } from "./cases/quantization.ts";
import { RECURRENT_CASES } from "./cases/recurrent.ts";
import { RESAMPLING_CASES } from "./cases/resampling.ts";

export const STRUCTURE_CASES: Readonly<Record<string, readonly GradientCase[]>> = {
  movement: MOVEMENT_CASES,
  resampling: RESAMPLING_CASES,
  control: CONTROL_CASES,
  quantization: QUANTIZATION_CASES,
  recurrent: RECURRENT_CASES,
  attention: ATTENTION_CASES,
};
