/** What every page of ours is around its contents: one file, nothing fetched whatever its data holds. */
import { PAGE_STYLE } from "./gen/page-bundle.ts";
import { escapeXml } from "./svg-text.ts";

export interface PageParts {
  /** Plain text. */
  readonly title: string;
  /** Plain text. */
  readonly description?: string;
  /** Rules beside those that all pages share. */
  readonly style?: string;
  /** Markup of the main part. */
  readonly main: string;
  /** Markup behind it. */
  readonly after?: string;
  /** Whether scripts in the page may run; default false. */
  readonly scripts?: boolean;
}

export function pageFrame({ title, description, style = "", main, after = "", scripts = false }: PageParts): string {
  const allowed = [
    "default-src 'none'",
    ...(scripts ? ["script-src 'unsafe-inline'"] : []),
    "style-src 'unsafe-inline'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
  ];
  const about = description === undefined ? "" : `<meta name="description" content="${escapeXml(description)}">\n`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${allowed.join("; ")}">
<meta name="viewport" content="width=device-width, initial-scale=1">
${about}<title>${escapeXml(title)}</title>
<style>${PAGE_STYLE}${style}</style>
</head>
<body>
<main id="app">
${main}
</main>
${after}</body>
</html>
`;
}

/** The end of a page without scripts. */
export const FOOTER = "<footer>Made by pare. This page is one file: everything it shows is inside it.</footer>";
