/** The report as one HTML file: script, style and data inside, nothing fetched. */
import type { Results } from "../search/results.ts";
import { resultsJson } from "../search/results-json.ts";
import { frontSvg } from "./front-svg.ts";
import { PAGE_SCRIPT } from "./gen/page-bundle.ts";
import { markdownTable } from "./markdown.ts";
import { pageFrame } from "./page-frame.ts";
import { summaryOf } from "./summary.ts";
import { escapeXml } from "./svg-text.ts";

/**
 * The page. Names of layers, labels and messages are untrusted: they travel as JSON in which no markup can start, and the page makes
 * text nodes of them. Readers without scripts get the static picture and the table.
 */
export function htmlReport(results: Results): string {
  const title = `${results.title}: compression report`;
  const main = `<noscript>
<h1>${escapeXml(results.title)}</h1>
${frontSvg(results)}<pre>${escapeXml(markdownTable(results))}</pre>
</noscript>`;
  const after = `<script type="application/json" id="data">${embeddedJson(results)}</script>
<script>${PAGE_SCRIPT}</script>
`;
  return pageFrame({ title, description: summaryOf(results), main, after, scripts: true });
}

/** JSON in which neither a tag nor a comment can begin, and no line separator breaks a script. */
export function embeddedJson(results: Results): string {
  const compact = JSON.stringify(JSON.parse(resultsJson(results)));
  return compact.replace(
    /[<>&\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
