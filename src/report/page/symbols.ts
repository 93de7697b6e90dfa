/** The sign of an entry's family: its shape in its colour. */
import { familiesOf, familyStyle, shapePath } from "../families.ts";
import type { Entry } from "../../search/results.ts";
import { s } from "./dom.ts";

/** Colours as custom properties `--f0`, `--f1`, …: numbered, because names of families are untrusted. */
export function familyCss(entries: readonly Entry[]): string {
  const families = familiesOf(entries);
  const rules = (dark: boolean): string =>
    `:root{${families.map((family, index) => `--f${index}:${dark ? family.dark : family.light}`).join(";")}}`;
  return `${rules(false)}@media (prefers-color-scheme:dark){${rules(true)}}`;
}

export function familyColor(entries: readonly Entry[], family: string): string {
  return `var(--f${familiesOf(entries).findIndex(({ name }) => name === family)})`;
}

/** The sign alone, 14 pixels, for tables and legends. */
export function familySign(entries: readonly Entry[], family: string): SVGElement {
  return s(
    "svg",
    { class: "sign", viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" },
    s("path", { d: shapePath(familyStyle(entries, family).shape, 5), fill: familyColor(entries, family) }),
  );
}
