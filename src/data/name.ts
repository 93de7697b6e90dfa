/** Names of data sets: `reader:path?option=value&option=value`, parsed and printed. */
import { PareError } from "../base/error.ts";

export interface DatasetName {
  /** The reader; "" when the name is a bare path. */
  readonly scheme: string;
  readonly path: string;
  readonly options: Readonly<Record<string, string>>;
}

/**
 * Splits a name. The scheme has two letters at least, so that `C:\data.yaml` is a path. Options begin at the last `?`;
 * `%26`, `%3F` and other percent codes stand for themselves in values. Throws `bad-data` on an option without `=`.
 */
export function parseName(name: string): DatasetName {
  const mark = name.lastIndexOf("?");
  const head = mark < 0 ? name : name.slice(0, mark);
  const tail = mark < 0 ? "" : name.slice(mark + 1);
  const match = /^([a-z][a-z0-9-]+):(.*)$/s.exec(head);
  const options: Record<string, string> = {};
  for (const part of tail.split("&")) {
    if (part === "") continue;
    const at = part.indexOf("=");
    if (at < 1)
      throw new PareError("bad-data", `Option '${part}' of a data name has no value`, {
        where: name,
        expected: "option=value",
        help: "Write options as reader:path?option=value&option=value; a '&' or '?' inside a value is %26 or %3F",
      });
    const key = part.slice(0, at);
    if (Object.hasOwn(options, key)) throw new PareError("bad-data", `Option '${key}' is given twice`, { where: name });
    options[key] = decode(part.slice(at + 1), name);
  }
  return { scheme: match?.[1] ?? "", path: match ? (match[2] ?? "") : head, options };
}

/** The name that {@link parseName} reads back to the same parts. */
export function formatName(name: DatasetName): string {
  const options = Object.entries(name.options).map(
    ([key, value]) => `${key}=${value.replaceAll(/[%&?]/g, (character) => encodeURIComponent(character))}`,
  );
  const head = name.scheme === "" ? name.path : `${name.scheme}:${name.path}`;
  // A path with a question mark needs a last one after it.
  return options.length > 0 || head.includes("?") ? `${head}?${options.join("&")}` : head;
}

function decode(text: string, name: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new PareError("bad-data", `'${text}' is not a valid percent code`, {
      where: name,
      help: "A percent sign itself is %25",
      cause,
    });
  }
}
