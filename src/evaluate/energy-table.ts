/** Energy of one inference from operation counts, by a published table. An estimate: it knows nothing of this machine. */
import type { Cost, LayerCost } from "../analyse/cost.ts";

/** Where the figures come from. */
export const ENERGY_SOURCE =
  "Horowitz, Computing's energy problem, ISSCC 2014 (45 nm, 0.9 V): operations and DRAM traffic, nothing else";

const PICOJOULE = 1e-12;
/** Multiplication and addition in pJ. Integer additions accumulate in 32 bits. */
const FLOAT32 = { multiply: 3.7, add: 0.9 };
const FLOAT16 = { multiply: 1.1, add: 0.4 };
const INT32 = { multiply: 3.1, add: 0.1 };
const INT8 = { multiply: 0.2, add: 0.1 };
/** 1.3 to 2.6 nJ for 64 bits from DRAM; the middle, per byte. */
const DRAM_PICOJOULES_PER_BYTE = 1950 / 8;

export interface EnergyParts {
  readonly arithmeticJoules: number;
  /** Weights once and activations in and out of each layer, as if no cache held them. */
  readonly memoryJoules: number;
  readonly joules: number;
}

/** Σ over layers of macs · (multiply + add) + other operations · add + bytes moved · DRAM. */
export function energyFromCounts(cost: Cost): EnergyParts {
  let arithmetic = 0;
  let memory = 0;
  for (const layer of cost.layers) {
    const { multiply, add } = unitOf(layer);
    arithmetic += (layer.macs * (multiply + add) + layer.flops * add) * PICOJOULE;
    memory += layer.bytesMoved * DRAM_PICOJOULES_PER_BYTE * PICOJOULE;
  }
  return { arithmeticJoules: arithmetic, memoryJoules: memory, joules: arithmetic + memory };
}

/** The arithmetic that a layer runs in. Weights of few bits with float activations are multiplied as floats. */
function unitOf(layer: LayerCost): { readonly multiply: number; readonly add: number } {
  if (layer.activationBits <= 8) return INT8;
  if (layer.activationBits === 16) return FLOAT16;
  return /^u?int(32|64)$/.test(layer.dtype ?? "") ? INT32 : FLOAT32;
}
