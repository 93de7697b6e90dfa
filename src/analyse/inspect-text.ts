/** The inspection as text: a few lines of facts and a table of layers. */
import { formatShape } from "../base/shape.ts";
import type { InspectedLayer, InspectedPort, Inspection } from "./inspect.ts";

/** Lines for people. `layers: false` leaves the table out. */
export function inspectText(inspection: Inspection, options: { readonly layers?: boolean | undefined } = {}): string {
  const { parameters, nonzero } = inspection;
  const facts: readonly (readonly [string, string])[] = [
    ["model", inspection.path ?? "(in memory)"],
    [
      "bytes",
      `${formatBytes(inspection.bytes)}${inspection.gzipBytes === undefined ? "" : `, ${formatBytes(inspection.gzipBytes)} gzipped`}`,
    ],
    [
      "format",
      `opset ${inspection.opset}, IR ${inspection.irVersion}${inspection.producer && `, from ${inspection.producer}`}`,
    ],
    ...inspection.inputs.map((port) => ["input", formatPort(port)] as const),
    ...inspection.outputs.map((port) => ["output", formatPort(port)] as const),
    [
      "nodes",
      `${inspection.nodes}: ${Object.entries(inspection.operators)
        .map(([op, count]) => `${op} ${count}`)
        .join(", ")}`,
    ],
    [
      "parameters",
      nonzero === null
        ? inFull(parameters)
        : `${inFull(parameters)}, ${inFull(nonzero)} not zero (${percent(parameters - nonzero, parameters)} sparse)`,
    ],
    ["macs", `${inFull(inspection.macs)} for one sample`],
  ];
  const head = facts.map(([name, text]) => `${name.padEnd(11)}${text}`).join("\n");
  return options.layers === false || inspection.layers.length === 0
    ? head
    : `${head}\n\n${layerTable(inspection.layers)}`;
}

/** One line per layer, columns aligned, shares of the whole in per cent. */
export function layerTable(layers: readonly InspectedLayer[]): string {
  const macs = layers.reduce((sum, layer) => sum + layer.macs, 0);
  const bytes = layers.reduce((sum, layer) => sum + layer.bytes, 0);
  const rows = [
    ["layer", "operator", "dtype", "parameters", "bytes", "", "macs", ""],
    ...layers.map((layer) => [
      shorten(layer.name),
      layer.op,
      layer.dtype ?? "",
      formatCount(layer.parameters),
      formatBytes(layer.bytes),
      percent(layer.bytes, bytes),
      formatCount(layer.macs),
      percent(layer.macs, macs),
    ]),
  ];
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column < 3 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

function formatPort({ name, dtype, shape, scale, zeroPoint = 0 }: InspectedPort): string {
  const grid = scale === undefined ? "" : `, standing for (code − ${zeroPoint}) × ${scale.toPrecision(6)}`;
  return `${name}: ${dtype ?? "?"} ${formatShape(shape ?? undefined)}${grid}`;
}

/** Long names keep their end, which is what tells layers apart. */
function shorten(name: string): string {
  return name.length <= 48 ? name : `…${name.slice(-47)}`;
}

function percent(part: number, whole: number): string {
  return whole === 0 ? "0 %" : `${((100 * part) / whole).toFixed(1)} %`;
}

/** 1234567 as 1,234,567. */
function inFull(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

/** 1234567 as 1.23 M; numbers below ten thousand in full. */
function formatCount(value: number): string {
  for (const [unit, size] of [
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ] as const)
    if (value >= 10 * size || (size > 1e3 && value >= size)) return `${(value / size).toPrecision(3)} ${unit}`;
  return String(Math.round(value));
}

function formatBytes(bytes: number): string {
  for (const [unit, size] of [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ] as const)
    if (bytes >= size) return `${(bytes / size).toFixed(bytes >= 100 * size ? 0 : 2)} ${unit}`;
  return `${bytes} B`;
}
