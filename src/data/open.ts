/** Opens a data set by its name on any host. */
import { nearest, PareError } from "../base/error.ts";
import type { Dataset, Reader } from "./dataset.ts";
import type { Host } from "./host.ts";
import { indexedDataset, VIEW_OPTIONS } from "./indexed.ts";
import { parseName } from "./name.ts";
import { NameOptions } from "./options.ts";
import { READERS } from "./readers.ts";
import { isSetsFile, openSetsFile, SETS_FILE_OPTIONS } from "./sets-file.ts";

export interface OpenOptions {
  /** Split of a YAML file with several, when the name gives none. */
  readonly defaultSplit?: string | undefined;
}

/**
 * Opens `reader:path?option=value&…`, or a YAML file that names data sets. An unknown reader or option is `bad-data`
 * and names the nearest known one; so is anything wrong with the files, except that an absent file is `missing-file`.
 */
export async function openDatasetOn(host: Host, name: string, how: OpenOptions = {}): Promise<Dataset> {
  const parsed = parseName(name);
  if (parsed.scheme === "" && isSetsFile(parsed.path)) {
    checkOptions(parsed.options, "YAML file", SETS_FILE_OPTIONS, name);
    const options = new NameOptions(name, parsed.options);
    const open = (split: string): Promise<Dataset> => openDatasetOn(host, split);
    const source = await openSetsFile(parsed.path, options, host, open, how.defaultSplit);
    return indexedDataset(source, parsed, options);
  }
  // `glyphs` alone is `glyphs:`.
  const named =
    parsed.scheme === "" && READERS.some((reader) => reader.scheme === parsed.path)
      ? { ...parsed, scheme: parsed.path, path: "" }
      : parsed;
  const reader = findReader(named.scheme, name);
  checkOptions(named.options, `reader '${reader.scheme}'`, reader.options, name);
  const options = new NameOptions(name, named.options);
  return indexedDataset(await reader.open(named.path, options, host), named, options);
}

function findReader(scheme: string, name: string): Reader {
  const reader = READERS.find((each) => each.scheme === scheme);
  if (reader) return reader;
  const schemes = READERS.map((each) => each.scheme);
  const near = nearest(scheme, schemes);
  throw new PareError("bad-data", scheme === "" ? "The data name has no reader" : `There is no reader '${scheme}'`, {
    where: name,
    expected: `reader:path?option=value with one of ${schemes.join(", ")}; or a .yaml file`,
    help: near ? `Did you mean ${near}: ?` : "For example idx:data/mnist?split=test&scale=255",
  });
}

/** Throws `bad-data` for an option that neither `who` nor every data set has. */
function checkOptions(
  options: Readonly<Record<string, string>>,
  who: string,
  own: Readonly<Record<string, string>>,
  name: string,
): void {
  const known = [...Object.keys(own), ...Object.keys(VIEW_OPTIONS)];
  for (const option of Object.keys(options)) {
    if (known.includes(option)) continue;
    const near = nearest(option, known);
    throw new PareError("bad-data", `The ${who} has no option '${option}'`, {
      where: name,
      expected: `one of ${known.join(", ")}`,
      ...(near ? { help: `Did you mean ${near}?` } : {}),
    });
  }
}
