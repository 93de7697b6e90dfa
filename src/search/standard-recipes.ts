/** The recipes that a sweep tries when none are named: every technique, alone and combined, from gentle to harsh. */
import { type Recipe, type TechniqueTable, parseStep } from "../techniques/recipe.ts";

interface StandardRecipe {
  readonly id: string;
  readonly label: string;
  readonly steps: readonly string[];
}

/** Layers are fitted to the original before the whole is trained, and the original teaches it. */
const TUNED = ["prune-weights:ratio=0.8,scope=global", "recover", "finetune:epochs=2,teacher=original"];

/** Pruning happens before BatchNorm is folded, so that fine-tuning trains the network as it was trained before. */
const RECIPES: readonly StandardRecipe[] = [
  { id: "simplify", label: "Simplified", steps: ["simplify"] },
  { id: "fp16", label: "fp16", steps: ["simplify", "cast:to=fp16"] },
  { id: "weights-int8", label: "int8 weights", steps: ["simplify", "quantize-weights:bits=8"] },
  { id: "weights-int4", label: "int4 weights", steps: ["simplify", "quantize-weights:bits=4"] },
  { id: "weights-int4-b16", label: "int4 weights, block 16", steps: ["simplify", "quantize-weights:bits=4,block=16"] },
  { id: "weights-int2", label: "int2 weights", steps: ["simplify", "quantize-weights:bits=2,block=16"] },
  { id: "int8-dynamic", label: "int8 dynamic", steps: ["simplify", "quantize-dynamic"] },
  { id: "int8-static", label: "int8 static", steps: ["simplify", "quantize"] },
  { id: "prune-50", label: "Pruned 50 %", steps: ["prune-weights:ratio=0.5", "simplify"] },
  { id: "prune-2-4", label: "Pruned 2:4", steps: ["prune-weights:pattern=2:4", "simplify"] },
  {
    id: "prune-random-50",
    label: "Pruned 50 % at random",
    steps: ["prune-weights:ratio=0.5,score=random", "simplify"],
  },
  {
    id: "prune-70-recovered",
    label: "Pruned 70 %, recovered",
    steps: ["prune-weights:ratio=0.7,scope=global", "recover", "simplify"],
  },
  { id: "prune-80-tuned", label: "Pruned 80 %, tuned", steps: [...TUNED, "simplify"] },
  {
    id: "prune-80-tuned-int8",
    label: "Pruned 80 %, tuned, int8 weights",
    steps: [...TUNED, "simplify", "quantize-weights:bits=8"],
  },
  {
    id: "prune-80-tuned-int4",
    label: "Pruned 80 %, tuned, int4 weights",
    steps: [...TUNED, "simplify", "quantize-weights:bits=4"],
  },
  {
    id: "prune-80-tuned-static",
    label: "Pruned 80 %, tuned, int8 static",
    steps: [...TUNED, "simplify", "quantize"],
  },
];

/** The standard recipes that can run with what there is: calibration needs samples, fine-tuning needs labels. */
export function standardRecipes(
  techniques: TechniqueTable,
  have: { readonly samples: boolean; readonly labels: boolean },
): Recipe[] {
  return RECIPES.map(({ id, label, steps }) => ({
    id,
    label,
    steps: steps.map((step) => parseStep(step, techniques)),
  })).filter(({ steps }) =>
    steps.every(({ technique }) =>
      technique.needs.every((need) => (need === "calibration" ? have.samples : need === "teacher" || have.labels)),
    ),
  );
}
