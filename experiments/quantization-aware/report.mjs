/**
 * The table of the study from its recorded runs: rewrites what lies between the markers of README.md.
 * `node experiments/quantization-aware/report.mjs`; no figure in it is typed.
 */
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { percentWithin, pointsWithin, readStudy, table, writeSection } from "../report.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const { rows } = readStudy(here, "cifar10");
/** Points that may be lost against the float network trained by the same recipe. */
const WANTED = { W4A4: 1, W3A3: 2, W2A2: 5, "ternary weights, A8": 3 };
const head = ["network", "epochs", "accuracy (95 %)", "points lost (95 %, paired)", "wanted", "met", "bytes", "brotli", "training"];
const body = rows.map((row) => {
  const wanted = WANTED[row.network];
  const lost = row.lost && row.network !== "float" ? row.lost : undefined;
  return [
    row.network,
    row.epochs ?? "",
    percentWithin(row.accuracy),
    lost ? pointsWithin(lost) : "",
    wanted === undefined ? "" : `≤ ${wanted.toFixed(1)}`,
    wanted === undefined || !lost ? "" : 100 * lost[0] <= wanted ? "yes" : "no",
    row.bytes.toLocaleString("en"),
    row.brotliBytes.toLocaleString("en"),
    row.trainSeconds === undefined ? "" : `${(row.trainSeconds / 60).toFixed(1)} min`,
  ];
});
const recipe = rows.find(({ network }) => network === "float")?.recipe;
writeSection(here, "cifar10", `${table(head, body)}${recipe ? `\n\nRecipe, but for the epochs: \`${recipe}\`.` : ""}`);
