/** Makes DOM elements. Texts become text nodes only: names from models are untrusted and never read as HTML. */

export type Child = globalThis.Node | string | undefined | false;

type Properties = Readonly<Record<string, string | number | boolean | undefined | ((event: Event) => void)>>;

/** An element: `class`, `aria-…` and other attributes as given, functions as listeners (`onclick`), false and undefined left out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Properties = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  assign(element, properties);
  for (const child of children) if (child !== undefined && child !== false) element.append(child);
  return element;
}

/** The same for SVG. */
export function s(tag: string, properties: Properties = {}, ...children: readonly Child[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  assign(element, properties);
  for (const child of children) if (child !== undefined && child !== false) element.append(child);
  return element;
}

function assign(element: Element, properties: Properties): void {
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.replace(/^on/, ""), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
}

/** A labelled select box. */
export function select(
  label: string,
  options: readonly { readonly value: string; readonly text: string }[],
  value: string,
  onChange: (value: string) => void,
): HTMLElement {
  const box = h("select", {
    onchange: () => onChange(box.value),
  });
  for (const option of options)
    box.append(h("option", { value: option.value, selected: option.value === value }, option.text));
  return h("label", { class: "field" }, h("span", {}, label), box);
}

/** A labelled check box. */
export function checkbox(label: string, checked: boolean, onChange: (checked: boolean) => void): HTMLElement {
  const box = h("input", { type: "checkbox", checked, onchange: () => onChange(box.checked) });
  return h("label", { class: "check" }, box, label);
}
