/** Plain double-precision references of operators without float64 kernels in the engine, by operator. */
import { ACTIVATION_REFERENCES } from "./activation.ts";
import type { Reference } from "./arrays.ts";
import { NORMALIZATION_REFERENCES } from "./normalization.ts";
import { PRODUCT_REFERENCES } from "./product.ts";
import { SIGNAL_REFERENCES } from "./signal.ts";
import { WINDOW_REFERENCES } from "./windows.ts";

export const REFERENCES: Readonly<Record<string, Reference>> = {
  ...ACTIVATION_REFERENCES,
  ...PRODUCT_REFERENCES,
  ...WINDOW_REFERENCES,
  ...SIGNAL_REFERENCES,
  ...NORMALIZATION_REFERENCES,
};
