/**
 * The table of the study from its recorded runs: rewrites what lies between the markers of README.md.
 * `node experiments/quantization-aware/report.mjs`; no figure in it is typed.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const { rows } = JSON.parse(readFileSync(join(here, "runs", "cifar10.json"), "utf8"));
/** Points that may be lost against the float network trained by the same recipe. */
const WANTED = { W4A4: 1, W3A3: 2, W2A2: 5, "ternary weights, A8": 3 };
const percent = (share) => `${(100 * share).toFixed(2)} %`;
const points = (share) => (100 * share).toFixed(2);
const line = (cells) => `| ${cells.join(" | ")} |`;
const head = ["network", "epochs", "accuracy (95 %)", "points lost (95 %, paired)", "wanted", "met", "bytes", "brotli", "training"];
const body = rows.map((row) => {
  const [value, low, high] = row.accuracy;
  const wanted = WANTED[row.network];
  const lost = row.lost && row.network !== "float" ? row.lost : undefined;
  return line([
    row.network,
    row.epochs ?? "",
    `${percent(value)} (${points(low)} to ${points(high)})`,
    lost ? `${points(lost[0])} (${points(lost[1])} to ${points(lost[2])})` : "",
    wanted === undefined ? "" : `≤ ${wanted.toFixed(1)}`,
    wanted === undefined || !lost ? "" : 100 * lost[0] <= wanted ? "yes" : "no",
    row.bytes.toLocaleString("en"),
    row.brotliBytes.toLocaleString("en"),
    row.trainSeconds === undefined ? "" : `${(row.trainSeconds / 60).toFixed(1)} min`,
  ]);
});
const recipe = rows.find(({ network }) => network === "float")?.recipe;
const section = [line(head), line(head.map(() => "---")), ...body, ...(recipe ? ["", `Recipe, but for the epochs: \`${recipe}\`.`] : [])].join("\n");
const readme = join(here, "README.md");
const text = readFileSync(readme, "utf8");
writeFileSync(readme, text.replace(/(<!-- cifar10 -->\n)[\s\S]*?(<!-- end -->)/, (_, a, b) => `${a}${section}\n${b}`));
