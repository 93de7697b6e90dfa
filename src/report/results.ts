/** The types of results.json, under the name that readers of reports look for; they are declared where they are measured. */
export type * from "../search/results.ts";
export { RESULTS_VERSION } from "../search/results.ts";
