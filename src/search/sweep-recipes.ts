/** What a sweep knows of its recipes before it runs them: identifiers, labels, families, and which beginnings they share. */
import type { Recipe } from "../techniques/recipe.ts";
import { formatStep } from "../techniques/recipe.ts";
import type { Step } from "../techniques/technique.ts";
import type { RecipeStep } from "./results.ts";

export interface NamedRecipe {
  readonly id: string;
  readonly label: string;
  readonly family: string;
  readonly steps: readonly Step[];
}

/** Gives each recipe an id that is unique and safe in file names, a label and a family. */
export function nameRecipes(recipes: readonly Recipe[]): NamedRecipe[] {
  const used = new Set(["baseline"]);
  return recipes.map((recipe) => {
    const text = recipe.steps.map(formatStep).join(" + ");
    const stem = slug(recipe.id ?? recipe.label ?? text) || "recipe";
    let id = stem;
    for (let i = 2; used.has(id); i++) id = `${stem}-${i}`;
    used.add(id);
    return { id, label: recipe.label ?? recipe.id ?? text, family: familyOf(recipe.steps), steps: recipe.steps };
  });
}

function slug(text: string): string {
  return text
    .toLowerCase()
    .replace(/%/g, "pct")
    .replace(/[^a-z0-9._]+/g, "-")
    .replace(/^[-.]+|[-.]+$/g, "")
    .slice(0, 60);
}

/** The family of the techniques that compress; preparation and training count only when there is nothing else. Several: "combined". */
export function familyOf(steps: readonly Step[]): string {
  const families = steps.map((step) => step.technique.family);
  const core = new Set(families.filter((family) => family !== "simplify" && family !== "tune"));
  if (core.size > 1) return "combined";
  return [...core][0] ?? families.at(-1) ?? "simplify";
}

export function recipeAsData(steps: readonly Step[]): RecipeStep[] {
  return steps.map((step) => ({ technique: step.technique.name, options: step.options, text: formatStep(step) }));
}

/** A text that is equal for equal beginnings of recipes. */
export function prefixKey(steps: readonly Step[]): string {
  return JSON.stringify(recipeAsData(steps));
}

/** Beginnings that at least two recipes share, with the number of recipes that begin so. The whole recipe is a beginning too. */
export function sharedPrefixes(recipes: readonly { readonly steps: readonly Step[] }[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { steps } of recipes)
    for (let length = 1; length <= steps.length; length++) {
      const key = prefixKey(steps.slice(0, length));
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  return new Map([...counts].filter(([, count]) => count > 1));
}
