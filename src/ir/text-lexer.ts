/** Tokens of the text form: words, quoted strings and punctuation, with the line they stand on. */
import { PareError } from "../base/error.ts";

export interface Token {
  readonly kind: "word" | "string" | "mark" | "end";
  readonly text: string;
  readonly at: number;
}

/** Names that need no quotes: they begin with a letter, `_` or `/`. */
const BARE_NAME = /^[A-Za-z_/][\w/.-]*$/;
const WORD = /[\w/.+?-]+/y;
const SPACE = /(?:\s+|#[^\n]*)+/y;
const MARKS = ["=>", "::", "<", ">", "(", ")", "[", "]", "{", "}", ",", ":", "=", "@"];

/** A name as it is printed: bare where it can be, else quoted. */
export function printName(name: string): string {
  return BARE_NAME.test(name) ? name : quote(name);
}

export function quote(text: string): string {
  return JSON.stringify(text);
}

/** Reads tokens one after the other, with one token of look-ahead. */
export class Lexer {
  readonly #text: string;
  #at = 0;
  #next: Token;

  constructor(text: string) {
    this.#text = text;
    this.#next = this.#scan();
  }

  get next(): Token {
    return this.#next;
  }

  take(): Token {
    const token = this.#next;
    this.#next = this.#scan();
    return token;
  }

  /** True, and past it, if the next token is this mark or word. */
  accept(text: string): boolean {
    if (this.#next.text !== text || this.#next.kind === "string" || this.#next.kind === "end") return false;
    this.take();
    return true;
  }

  expect(text: string): void {
    if (!this.accept(text)) this.fail(`'${text}'`);
  }

  word(what: string): string {
    if (this.#next.kind !== "word") this.fail(what);
    return this.take().text;
  }

  string(what: string): string {
    if (this.#next.kind !== "string") this.fail(what);
    return this.take().text;
  }

  /** A bare or quoted name. */
  name(what: string): string {
    if (this.#next.kind !== "word" && this.#next.kind !== "string") this.fail(what);
    return this.take().text;
  }

  /** `item`s separated by commas up to `close`, which is taken. */
  list<T>(close: string, item: () => T): T[] {
    const items: T[] = [];
    if (this.accept(close)) return items;
    do items.push(item());
    while (this.accept(","));
    this.expect(close);
    return items;
  }

  fail(expected: string, token: Token = this.#next): never {
    const before = this.#text.slice(0, token.at).split("\n");
    throw new PareError("bad-model", "The text form cannot be parsed", {
      where: `line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1}`,
      found: token.kind === "end" ? "the end of the text" : `'${token.text.slice(0, 60)}'`,
      expected,
    });
  }

  #scan(): Token {
    const text = this.#text;
    SPACE.lastIndex = this.#at;
    if (SPACE.test(text)) this.#at = SPACE.lastIndex;
    const at = this.#at;
    if (at >= text.length) return { kind: "end", text: "", at };
    if (text[at] === '"') return this.#scanString(at);
    WORD.lastIndex = at;
    if (WORD.test(text)) {
      this.#at = WORD.lastIndex;
      return { kind: "word", text: text.slice(at, this.#at), at };
    }
    const mark = MARKS.find((candidate) => text.startsWith(candidate, at));
    if (!mark) this.fail("a name, a number or punctuation", { kind: "mark", text: text.slice(at, at + 1), at });
    this.#at = at + mark.length;
    return { kind: "mark", text: mark, at };
  }

  #scanString(at: number): Token {
    const text = this.#text;
    let end = at;
    let backslashes: number;
    do {
      end = text.indexOf('"', end + 1);
      if (end < 0) this.fail("a closing quote", { kind: "end", text: "", at });
      backslashes = 0;
      while (text[end - 1 - backslashes] === "\\") backslashes++;
    } while (backslashes % 2 === 1);
    this.#at = end + 1;
    const inner = text.slice(at + 1, end);
    if (!inner.includes("\\")) return { kind: "string", text: inner, at };
    try {
      return { kind: "string", text: JSON.parse(text.slice(at, end + 1)) as string, at };
    } catch {
      return this.fail("a string with JSON escapes", { kind: "string", text: inner, at });
    }
  }
}
