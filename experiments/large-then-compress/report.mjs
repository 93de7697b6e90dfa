/**
 * Tables of the studies from their recorded runs: rewrites what lies between the markers of README.md.
 * `node experiments/large-then-compress/report.mjs`; no figure in it is typed.
 */
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { percentWithin, readStudy, table, writeSection } from "../report.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const count = (number) => number.toLocaleString("en");

const cifar = readStudy(here, "cifar10");
if (cifar) {
  const body = cifar.rows.map((row) => [
    row.network,
    percentWithin(row.accuracy),
    count(row.parameters),
    `${(row.macs / 1e6).toFixed(1)} M`,
    count(row.bytes),
  ]);
  writeSection(here, "cifar10", table(["network", "accuracy (95 %)", "parameters", "MACs", "bytes"], body));
}

const language = readStudy(here, "language");
if (language) {
  const body = language.rows.map((row) => {
    const [value, low, high] = row.loss.map((each) => each.toFixed(3));
    return [row.network, `${value} (${low} to ${high})`, count(row.parameters), count(row.nonzero), count(row.bytes)];
  });
  const head = ["network", "nats per character (95 %)", "parameters", "not zero", "bytes"];
  writeSection(here, "language", table(head, body));
}
