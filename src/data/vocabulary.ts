/** From text to token numbers: bytes, characters, a vocabulary file, or a tokenizer.json. */
import { PareError } from "../base/error.ts";
import { parseTokenizer } from "./tokenizer.ts";

export interface Vocabulary {
  /** Number of tokens: numbers are 0 to size − 1. */
  readonly size: number;
  readonly names?: readonly string[] | undefined;
  encode(text: string): ArrayLike<number>;
}

/** Tokens are the bytes of UTF-8. */
export const BYTES: Vocabulary = {
  size: 256,
  encode: (text) => new TextEncoder().encode(text),
};

/** Characters (code points) numbered in code point order of those in `text`. */
export function charactersOf(text: string): Vocabulary {
  const names = [...new Set(text)].toSorted((a, b) => (a.codePointAt(0) ?? 0) - (b.codePointAt(0) ?? 0));
  return characters(new Map(names.map((name, i) => [name, i])), "the text");
}

/** Reads a vocabulary: `{"a": 0, …}`, `["a", …]` (single characters), or a tokenizer.json. Throws `bad-data`. */
export function parseVocabulary(text: string, where: string): Vocabulary {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new PareError("bad-data", "The vocabulary is not JSON", { where, cause, expected: VOCABULARIES });
  }
  if (typeof json === "object" && json !== null && "model" in json) return parseTokenizer(json, where);
  const entries: [string, unknown][] = Array.isArray(json)
    ? json.map((name, i) => [String(name), i])
    : Object.entries(json ?? {});
  const map = new Map<string, number>();
  for (const [name, number] of entries) {
    if (typeof number !== "number" || !Number.isInteger(number) || number < 0 || [...name].length !== 1)
      throw new PareError("bad-data", "The vocabulary does not number characters", {
        where,
        found: `${JSON.stringify(name)}: ${JSON.stringify(number)}`,
        expected: VOCABULARIES,
      });
    map.set(name, number);
  }
  if (map.size === 0) throw new PareError("bad-data", "The vocabulary is empty", { where, expected: VOCABULARIES });
  return characters(map, where);
}

const VOCABULARIES = 'characters as {"a": 0, …} or ["a", …], or a tokenizer.json';

function characters(map: ReadonlyMap<string, number>, where: string): Vocabulary {
  let size = 0;
  for (const number of map.values()) size = Math.max(size, number + 1);
  const names = Array.from({ length: size }, () => "");
  for (const [name, number] of map) names[number] = name;
  return {
    size,
    names,
    encode(text) {
      const tokens: number[] = [];
      for (const character of text) {
        const token = map.get(character);
        if (token === undefined)
          throw new PareError("bad-data", "The text has a character that the vocabulary lacks", {
            where,
            found: `${JSON.stringify(character)} (U+${(character.codePointAt(0) ?? 0).toString(16).padStart(4, "0")})`,
            help: "Use the vocabulary made for this text, or vocab=bytes",
          });
        tokens.push(token);
      }
      return tokens;
    },
  };
}
