/** The number formats of weights, by the names that options use. */

/** `float` leaves a weight as it is. */
export const WEIGHT_FORMATS = ["int8", "int4", "int3", "int2", "float"] as const;

export type WeightFormat = (typeof WEIGHT_FORMATS)[number];
