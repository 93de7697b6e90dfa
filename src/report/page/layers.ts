/** Layer by layer: bytes of weights before and after, and the error of each layer's output. */
import type { Entry, LayerRecord } from "../../search/results.ts";
import { formatBytes } from "../format.ts";
import { h, select } from "./dom.ts";

const SHORT_LIST = 24;

type Order = "graph" | "bytes" | "error";

export function layerChart(entry: Entry): HTMLElement {
  const hasErrors = entry.layers.some((layer) => layer.error !== undefined);
  let order: Order = "graph";
  let all = entry.layers.length <= SHORT_LIST + 4;
  const rows = h("ol", { class: hasErrors ? "layers with-errors" : "layers" });
  const maxBytes = Math.max(1, ...entry.layers.map((layer) => Math.max(layer.bytes, layer.bytesBefore)));
  const finite = entry.layers.flatMap((layer) =>
    layer.error !== undefined && Number.isFinite(layer.error) ? [layer.error] : [],
  );
  const maxError = Math.max(1e-9, ...finite);
  const more = h(
    "button",
    {
      type: "button",
      class: "more",
      onclick: () => {
        all = true;
        draw();
      },
    },
    `Show all ${entry.layers.length} layers`,
  );
  const draw = (): void => {
    const sorted = sortLayers(entry.layers, order);
    rows.replaceChildren(
      h(
        "li",
        { class: "head", "aria-hidden": "true" },
        h("span", {}, "Layer"),
        h("span", {}, "Weights, before and after"),
        hasErrors && h("span", {}, "Output error, added and so far"),
      ),
      ...(all ? sorted : sorted.slice(0, SHORT_LIST)).map((layer) => layerRow(layer, maxBytes, maxError, hasErrors)),
    );
    more.hidden = all;
  };
  draw();
  const orders = [
    { value: "graph", text: "order of computation" },
    { value: "bytes", text: "bytes" },
    ...(hasErrors ? [{ value: "error", text: "error" }] : []),
  ];
  return h(
    "section",
    {},
    h(
      "div",
      { class: "section-head" },
      h("h3", {}, "Layers"),
      select("by", orders, order, (value) => {
        order = value as Order;
        draw();
      }),
    ),
    rows,
    more,
  );
}

function sortLayers(layers: readonly LayerRecord[], order: Order): LayerRecord[] {
  const copy = [...layers];
  if (order === "bytes") return copy.sort((a, b) => b.bytes - a.bytes);
  if (order === "error") return copy.sort((a, b) => (b.localError ?? b.error ?? -1) - (a.localError ?? a.error ?? -1));
  return copy;
}

function layerRow(layer: LayerRecord, maxBytes: number, maxError: number, hasErrors: boolean): HTMLElement {
  const bytes =
    layer.bytes === layer.bytesBefore
      ? formatBytes(layer.bytes)
      : `${formatBytes(layer.bytesBefore)} → ${formatBytes(layer.bytes)}`;
  const share = (value: number | undefined, most: number): number => Math.min(100, ((value ?? 0) / most) * 100);
  const bar = (name: string, size: number): HTMLElement => {
    const element = h("span", { class: name });
    element.style.width = `${size}%`;
    return element;
  };
  const errorText =
    layer.error === undefined
      ? "–"
      : [layer.localError === undefined ? "" : `+${percent(layer.localError)}`, percent(layer.error)]
          .filter((text) => text !== "")
          .join(" · ");
  return h(
    "li",
    {},
    h(
      "span",
      { class: "layer-name" },
      h("span", { class: "path", title: layer.name }, shortName(layer)),
      h("small", {}, layer.op),
    ),
    h(
      "span",
      { class: "cell" },
      h(
        "span",
        { class: "track" },
        bar("before", share(layer.bytesBefore, maxBytes)),
        bar("after", share(layer.bytes, maxBytes)),
      ),
      h("span", { class: "value" }, bytes),
    ),
    hasErrors &&
      h(
        "span",
        { class: "cell" },
        h(
          "span",
          { class: "track" },
          bar("so-far", Number.isFinite(layer.error ?? 0) ? share(layer.error, maxError) : 100),
          layer.localError !== undefined && bar("added", share(layer.localError, maxError)),
        ),
        h("span", { class: "value" }, errorText),
      ),
  );
}

function percent(share: number): string {
  if (!Number.isFinite(share)) return "∞";
  const value = share * 100;
  return value === 0
    ? "0 %"
    : `${value >= 10 ? value.toFixed(0) : value >= 0.01 ? value.toPrecision(2) : value.toExponential(0)} %`;
}

/** Exporters put a slash before and the operator behind: neither tells anything here. The full name is the element's title. */
function shortName(layer: LayerRecord): string {
  const tail = `/${layer.op}`;
  const name = layer.name.endsWith(tail) ? layer.name.slice(0, -tail.length) : layer.name;
  const bare = name.replace(/^\//, "") || layer.name;
  return bare.length > 28 ? `…${bare.slice(-27)}` : bare;
}
