/** The types of results.json and its reader and writer, under the name that readers of reports look for. */
export type * from "../search/results.ts";
export { RESULTS_VERSION } from "../search/results.ts";
export { parseResults, resultsJson } from "../search/results-json.ts";
