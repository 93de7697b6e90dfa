/** Opens a data set by its name from Node's file system. */
import type { Dataset } from "./dataset.ts";
import { nodeHost } from "./host.node.ts";
import { type OpenOptions, openDatasetOn } from "./open.ts";

/**
 * Opens `reader:path?option=value&…` (`idx:mnist?split=test&scale=255`, `glyphs:?count=2000&split=test`) or a YAML file.
 * Paths are relative to the working directory. Errors: `bad-data`, `missing-file`.
 */
export function openDataset(name: string, options: OpenOptions = {}): Promise<Dataset> {
  return openDatasetOn(nodeHost, name, options);
}
