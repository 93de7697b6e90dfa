/** results.json as text and back: infinities survive as strings, and a file of another version or kind is refused with a reason. */
import { PareError } from "../base/error.ts";
import { type Entry, RESULTS_VERSION, type Results } from "./results.ts";

/** The document as JSON, two spaces deep. JSON has no infinities: they are written as "Infinity" and "-Infinity", NaN as null. */
export function resultsJson(results: Results): string {
  return `${JSON.stringify(
    results,
    (_, value: unknown) =>
      typeof value === "number" && !Number.isFinite(value) ? (Number.isNaN(value) ? null : String(value)) : value,
    2,
  )}\n`;
}

/** Reads {@link resultsJson}. `where` names the file in errors. @throws PareError `bad-data` */
export function parseResults(text: string, where = "results.json"): Results {
  let data: unknown;
  try {
    data = JSON.parse(text, (_, value: unknown) =>
      value === "Infinity" ? Number.POSITIVE_INFINITY : value === "-Infinity" ? Number.NEGATIVE_INFINITY : value,
    );
  } catch (cause) {
    throw new PareError("bad-data", "Not JSON", { where, cause, help: "Name a results.json written by pare" });
  }
  const found = data as Partial<Results> | null;
  if (typeof found !== "object" || found?.format !== "pare-results")
    throw new PareError("bad-data", "Not a results document", {
      where,
      expected: '"format": "pare-results"',
      help: "Name a results.json written by 'pare demo' or a sweep",
    });
  if (found.version !== RESULTS_VERSION)
    throw new PareError("bad-data", "This version of results.json cannot be read", {
      where,
      found: `version ${String(found.version)}`,
      expected: `version ${RESULTS_VERSION}`,
      help: "Make the results again with this version of pare",
    });
  const entries = found.entries;
  const bad = Array.isArray(entries) ? entries.findIndex((entry: Partial<Entry> | null) => !isEntry(entry)) : undefined;
  if (bad !== -1 || !Array.isArray(found.objectives) || !Array.isArray(found.front))
    throw new PareError("bad-data", "Incomplete results document", {
      where: bad === undefined || bad < 0 ? where : `${where}: entries[${bad}]`,
      expected: "entries (each with id, label, metrics, steps and layers), objectives and front",
    });
  return found as Results;
}

function isEntry(entry: Partial<Entry> | null): boolean {
  return (
    typeof entry === "object" &&
    entry !== null &&
    typeof entry.id === "string" &&
    typeof entry.label === "string" &&
    typeof entry.metrics === "object" &&
    entry.metrics !== null &&
    Array.isArray(entry.steps) &&
    Array.isArray(entry.layers) &&
    Array.isArray(entry.recipe)
  );
}
