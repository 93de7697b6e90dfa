/** The report as one HTML file: script, style and data inside, nothing fetched. */
import type { Results } from "../search/results.ts";
import { resultsJson } from "../search/results-json.ts";
import { frontSvg } from "./front-svg.ts";
import { PAGE_SCRIPT, PAGE_STYLE } from "./gen/page-bundle.ts";
import { markdownTable } from "./markdown.ts";
import { summaryOf } from "./summary.ts";
import { escapeXml } from "./svg-text.ts";

/** Forbids the page every request, whatever the data holds. */
const POLICY =
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/**
 * The page. Names of layers, labels and messages are untrusted: they travel as JSON in which no markup can start, and the page makes
 * text nodes of them. Readers without scripts get the static picture and the table.
 */
export function htmlReport(results: Results): string {
  const title = `${results.title}: compression report`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description" content="${escapeXml(summaryOf(results))}">
<title>${escapeXml(title)}</title>
<style>${PAGE_STYLE}</style>
</head>
<body>
<main id="app">
<noscript>
<h1>${escapeXml(results.title)}</h1>
${frontSvg(results)}<pre>${escapeXml(markdownTable(results))}</pre>
</noscript>
</main>
<script type="application/json" id="data">${embeddedJson(results)}</script>
<script>${PAGE_SCRIPT}</script>
</body>
</html>
`;
}

/** JSON in which neither a tag nor a comment can begin, and no line separator breaks a script. */
export function embeddedJson(results: Results): string {
  const compact = JSON.stringify(JSON.parse(resultsJson(results)));
  return compact.replace(
    /[<>&\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
