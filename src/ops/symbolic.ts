/** Arithmetic on dimensions that may be symbols: polynomials of symbols and of floor, max, min and broadcast of them, as strings. */
import type { Dim } from "../base/shape.ts";

/** Longer expressions are given up (null): they help nobody and grow without bound in loops. */
const MAX_LENGTH = 240;
/** Terms of a product before equal ones are joined: some times what a text of that length can hold. */
const MAX_TERMS = 1024;

/** An expression as parsed. Symbols are non-negative integers. */
type Expression =
  | { readonly kind: "number"; readonly value: number }
  | { readonly kind: "symbol"; readonly name: string }
  | { readonly kind: "sum" | "product"; readonly parts: readonly Expression[] }
  | { readonly kind: "call"; readonly name: FunctionName; readonly args: readonly Expression[] };

const FUNCTIONS = ["floor", "max", "min", "broadcast"] as const;
type FunctionName = (typeof FUNCTIONS)[number];

/** Σ coefficient · Π atoms; the key is the atoms joined by "*", "" for the constant. Atoms are symbols or printed calls. */
type Polynomial = Map<string, number>;

/**
 * Reads an expression such as `2*batch + floor((seq + 1) / 2)`. Operators + - / stand between spaces, so that a name like
 * `batch-size` stays one symbol. Text outside this grammar is one symbol as a whole.
 */
function parse(text: string): Expression {
  const tokens = text.match(/[*(),]|[^\s*(),]+/g) ?? [];
  let at = 0;
  const fail = (): never => {
    throw new SyntaxError(text);
  };
  const expect = (token: string): void => {
    if (tokens[at++] !== token) fail();
  };
  const sum = (): Expression => {
    const parts = [product()];
    while (tokens[at] === "+" || tokens[at] === "-") {
      const sign = tokens[at++];
      const part = product();
      parts.push(sign === "+" ? part : { kind: "product", parts: [{ kind: "number", value: -1 }, part] });
    }
    return parts.length === 1 ? (parts[0] as Expression) : { kind: "sum", parts };
  };
  const product = (): Expression => {
    const parts = [factor()];
    while (tokens[at] === "*") {
      at++;
      parts.push(factor());
    }
    return parts.length === 1 ? (parts[0] as Expression) : { kind: "product", parts };
  };
  const factor = (): Expression => {
    const token = tokens[at++] ?? fail();
    if (token === "(") {
      const inner = sum();
      expect(")");
      return inner;
    }
    if (/^-?\d+$/.test(token)) return { kind: "number", value: Number(token) };
    const name = FUNCTIONS.find((candidate) => candidate === token);
    if (name && tokens[at] === "(") {
      at++;
      const args = [sum()];
      while (tokens[at] === (name === "floor" ? "/" : ",")) {
        at++;
        args.push(sum());
      }
      expect(")");
      if (args.length !== 2) fail();
      return { kind: "call", name, args };
    }
    if (/^[*(),/+-]$/.test(token)) fail();
    return { kind: "symbol", name: token };
  };
  try {
    const result = sum();
    if (at < tokens.length) fail();
    return result;
  } catch {
    return { kind: "symbol", name: text };
  }
}

const parsed = new Map<string, { expression: Expression; polynomial: Polynomial }>();

function lookUp(text: string): { expression: Expression; polynomial: Polynomial } {
  let entry = parsed.get(text);
  if (!entry) {
    entry = text.length > MAX_LENGTH ? asSymbol(text) : read(text);
    if (parsed.size > 50_000) parsed.clear();
    parsed.set(text, entry);
  }
  return entry;
}

function read(text: string): { expression: Expression; polynomial: Polynomial } {
  try {
    const expression = parse(text);
    return { expression, polynomial: polynomialOf(expression) };
  } catch (error) {
    if (error instanceof RangeError) return asSymbol(text);
    throw error;
  }
}

function asSymbol(text: string): { expression: Expression; polynomial: Polynomial } {
  return { expression: { kind: "symbol", name: text }, polynomial: new Map([[text, 1]]) };
}

function constant(value: number): Polynomial {
  return new Map(value === 0 ? [] : [["", value]]);
}

function polynomialOf(expression: Expression): Polynomial {
  switch (expression.kind) {
    case "number":
      return constant(expression.value);
    case "symbol":
      return new Map([[expression.name, 1]]);
    case "sum":
      return expression.parts.map(polynomialOf).reduce((a, b) => plus(a, b, 1));
    case "product":
      return expression.parts.map(polynomialOf).reduce(times);
    case "call": {
      const [a, b] = expression.args.map((arg) => print(polynomialOf(arg)));
      const result = CALLS[expression.name](a ?? null, b ?? null);
      return result === null ? new Map([["?", 1]]) : poly(result);
    }
  }
}

function plus(a: Polynomial, b: Polynomial, sign: 1 | -1): Polynomial {
  const result = new Map(a);
  for (const [key, coefficient] of b) {
    const sum = (result.get(key) ?? 0) + sign * coefficient;
    if (sum === 0) result.delete(key);
    else result.set(key, sum);
  }
  return result;
}

/** Throws RangeError where the product would have more terms than any text that is kept. */
function times(a: Polynomial, b: Polynomial): Polynomial {
  if (a.size * b.size > MAX_TERMS) throw new RangeError("The product of two dimensions is too long");
  const result: Polynomial = new Map();
  for (const [keyA, x] of a)
    for (const [keyB, y] of b) {
      const key = [...atomsOf(keyA), ...atomsOf(keyB)].sort().join("*");
      const sum = (result.get(key) ?? 0) + x * y;
      if (sum === 0) result.delete(key);
      else result.set(key, sum);
    }
  return result;
}

/** Atoms of a monomial's key: splits at "*" outside parentheses. */
function atomsOf(key: string): string[] {
  if (!key.includes("(")) return key === "" ? [] : key.split("*");
  const atoms: string[] = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i < key.length; i++) {
    if (key[i] === "(") depth++;
    else if (key[i] === ")") depth--;
    else if (key[i] === "*" && depth === 0) {
      atoms.push(key.slice(start, i));
      start = i + 1;
    }
  }
  return [...atoms, key.slice(start)];
}

/** Higher degrees first, then by name; the constant last. */
function sortedTerms(polynomial: Polynomial): [string, number][] {
  return [...polynomial].sort(([a], [b]) => atomsOf(b).length - atomsOf(a).length || (a < b ? -1 : a > b ? 1 : 0));
}

/** The canonical text (or number) of a polynomial; null when it is too long to be worth keeping. */
function print(polynomial: Polynomial): Dim {
  if (polynomial.size === 0) return 0;
  const only = polynomial.get("");
  if (polynomial.size === 1 && only !== undefined) return only;
  let text = "";
  for (const [key, coefficient] of sortedTerms(polynomial)) {
    const size = Math.abs(coefficient);
    const term = key === "" ? String(size) : size === 1 ? key : `${size}*${key}`;
    if (text !== "") text += `${coefficient < 0 ? " - " : " + "}${term}`;
    else text = coefficient > 0 ? term : size === 1 && key !== "" ? `-1*${key}` : `-${term}`;
  }
  return text.length > MAX_LENGTH ? null : text;
}

function poly(dim: number | string): Polynomial {
  return typeof dim === "number" ? constant(dim) : lookUp(dim).polynomial;
}

/** True if the dimension can take part in symbolic arithmetic: a symbol or an integer. */
function isExact(dim: Dim): dim is number | string {
  return typeof dim === "string" || (typeof dim === "number" && Number.isFinite(dim));
}

/** Symbolic arithmetic has integer coefficients only; a fraction times a symbol is not known. */
function combine(
  a: Dim,
  b: Dim,
  onNumbers: (a: number, b: number) => Dim,
  onAny: (a: Polynomial, b: Polynomial) => Dim,
) {
  if (!isExact(a) || !isExact(b)) return null;
  if (typeof a === "number" && typeof b === "number") return onNumbers(a, b);
  if ([a, b].some((dim) => typeof dim === "number" && !Number.isInteger(dim))) return null;
  return onAny(poly(a), poly(b));
}

export function add(a: Dim, b: Dim): Dim {
  return combine(
    a,
    b,
    (x, y) => x + y,
    (x, y) => print(plus(x, y, 1)),
  );
}

export function subtract(a: Dim, b: Dim): Dim {
  return combine(
    a,
    b,
    (x, y) => x - y,
    (x, y) => print(plus(x, y, -1)),
  );
}

export function multiply(a: Dim, b: Dim): Dim {
  return combine(
    a,
    b,
    (x, y) => x * y,
    (x, y) => (x.size * y.size > MAX_TERMS ? null : print(times(x, y))),
  );
}

/** Product of dimensions; 1 for none. */
export function product(dims: readonly Dim[]): Dim {
  return dims.reduce<Dim>(multiply, 1);
}

/** ⌊a / b⌋. Exact quotients are polynomials; whole multiples of b are taken out of the floor. */
export function floorDivide(a: Dim, b: Dim): Dim {
  return combine(
    a,
    b,
    (x, y) => (y === 0 ? null : Math.floor(x / y)),
    (x, y) => {
      const { quotient, remainder } = divide(x, y);
      const divisor = print(y);
      if (remainder.size === 0) return print(quotient);
      const rest = print(remainder);
      if (typeof rest === "number" && typeof divisor === "number")
        return add(print(quotient), Math.floor(rest / divisor));
      if (rest === null || divisor === null || divisor === 0) return null;
      return add(print(quotient), call("floor", `${grouped(rest)} / ${grouped(divisor)}`));
    },
  );
}

/** ⌈a / b⌉ for a positive whole b. */
export function ceilDivide(a: Dim, b: number): Dim {
  return typeof a === "number" ? Math.ceil(a / b) : floorDivide(add(a, b - 1), b);
}

/** a / b where b divides a for certain (the rest of a Reshape); the floor otherwise. */
export function exactDivide(a: Dim, b: Dim): Dim {
  if (a === b && a !== null) return 1;
  return floorDivide(a, b);
}

/** a = quotient · b + remainder, dividing leading terms; the remainder is what no leading term of b divides. */
function divide(a: Polynomial, b: Polynomial): { quotient: Polynomial; remainder: Polynomial } {
  const [leading] = sortedTerms(b);
  let rest = a;
  let quotient: Polynomial = new Map();
  const remainder: Polynomial = new Map();
  if (!leading) return { quotient, remainder: a };
  for (let steps = 0; rest.size > 0; steps++) {
    const term = sortedTerms(rest)[0] as [string, number];
    if (steps > 64) return { quotient: new Map(), remainder: a };
    const [key, coefficient] = term;
    const key2 = withoutAtoms(key, leading[0]);
    const whole = key === "" && leading[0] === "" ? Math.floor(coefficient / leading[1]) : coefficient / leading[1];
    if (key2 === undefined || !Number.isInteger(whole) || whole === 0) {
      remainder.set(key, coefficient);
      rest = new Map(rest);
      rest.delete(key);
      continue;
    }
    const part: Polynomial = new Map([[key2, whole]]);
    quotient = plus(quotient, part, 1);
    rest = plus(rest, times(part, b), -1);
  }
  return { quotient, remainder };
}

/** The atoms of `key` less those of `divisor`, or undefined if some are missing. */
function withoutAtoms(key: string, divisor: string): string | undefined {
  const atoms = atomsOf(key);
  for (const atom of atomsOf(divisor)) {
    const at = atoms.indexOf(atom);
    if (at < 0) return undefined;
    atoms.splice(at, 1);
  }
  return atoms.join("*");
}

function grouped(dim: number | string): string {
  return typeof dim === "string" && /[ *]/.test(dim) && !/^\w+\([^()]*\)$/.test(dim) ? `(${dim})` : String(dim);
}

/** A call as an atom; it is entered as parsed, because working it out again would lead back here. */
function call(name: FunctionName, args: string): Dim {
  const text = `${name}(${args})`;
  if (text.length > MAX_LENGTH) return null;
  if (!parsed.has(text)) parsed.set(text, { expression: parse(text), polynomial: new Map([[text, 1]]) });
  return text;
}

/** Sign of a dimension, all symbols being ≥ 0: its least possible value is ≥ 0, or its greatest < 0; undefined if unsure. */
export function signOf(dim: Dim): "non-negative" | "negative" | undefined {
  if (dim === null) return undefined;
  if (typeof dim === "number") return dim >= 0 ? "non-negative" : "negative";
  const polynomial = poly(dim);
  const coefficients = [...polynomial.values()];
  if (coefficients.every((coefficient) => coefficient >= 0)) return "non-negative";
  const rest = polynomial.get("") ?? 0;
  if (rest < 0 && coefficients.every((coefficient) => coefficient <= 0)) return "negative";
  return undefined;
}

/** True, false or (undefined) unsure whether a < b for every value of the symbols. */
export function isLess(a: Dim, b: Dim): boolean | undefined {
  if (typeof a === "number" && typeof b === "number") return a < b;
  const difference = signOf(subtract(a, b));
  return difference === undefined
    ? signOf(subtract(subtract(b, a), 1)) === "non-negative"
      ? true
      : undefined
    : difference === "negative";
}

/** True, false or (undefined) unsure whether a = b for every value of the symbols. */
export function isEqual(a: Dim, b: Dim): boolean | undefined {
  if (a === null || b === null) return undefined;
  if (a === b) return true;
  const difference = subtract(a, b);
  if (typeof difference === "number") return difference === 0;
  return isLess(a, b) === true || isLess(b, a) === true ? false : undefined;
}

export function maximum(a: Dim, b: Dim): Dim {
  if (a === null || b === null) return null;
  if (typeof a === "number" && typeof b === "number") return Math.max(a, b);
  if (signOf(subtract(a, b)) === "non-negative") return a;
  if (signOf(subtract(b, a)) === "non-negative") return b;
  return call("max", `${a}, ${b}`);
}

export function minimum(a: Dim, b: Dim): Dim {
  if (a === null || b === null) return null;
  if (typeof a === "number" && typeof b === "number") return Math.min(a, b);
  if (signOf(subtract(a, b)) === "non-negative") return b;
  if (signOf(subtract(b, a)) === "non-negative") return a;
  return call("min", `${a}, ${b}`);
}

/** The size of an axis after broadcasting a against b: the other one where one is 1. */
export function broadcast(a: Dim, b: Dim): Dim {
  if (a === 1) return b;
  if (b === 1 || a === b) return a;
  if (typeof a === "number" && a !== 1) return a;
  if (typeof b === "number" && b !== 1) return b;
  if (a === null || b === null) return null;
  // broadcast(broadcast(a, b), b) = broadcast(a, b)
  if (String(a).startsWith("broadcast(") && String(a).includes(String(b))) return a;
  if (String(b).startsWith("broadcast(") && String(b).includes(String(a))) return b;
  return call("broadcast", [String(a), String(b)].sort().join(", "));
}

const CALLS: Readonly<Record<FunctionName, (a: Dim, b: Dim) => Dim>> = {
  floor: floorDivide,
  max: maximum,
  min: minimum,
  broadcast,
};

/** Values of symbols. */
export type Bindings = Readonly<Record<string, number>>;

/** The number that a dimension is under `bindings`, or null if a symbol has no value. */
export function evaluate(dim: Dim, bindings: Bindings): number | null {
  const result = substitute(dim, bindings);
  return typeof result === "number" ? result : null;
}

/** The dimension with the bound symbols replaced by their values. */
export function substitute(dim: Dim, bindings: Bindings): Dim {
  if (typeof dim !== "string") return dim;
  const visit = (expression: Expression): Dim => {
    switch (expression.kind) {
      case "number":
        return expression.value;
      case "symbol":
        return Object.hasOwn(bindings, expression.name) ? (bindings[expression.name] ?? null) : expression.name;
      case "sum":
        return expression.parts.map(visit).reduce(add);
      case "product":
        return expression.parts.map(visit).reduce(multiply);
      case "call": {
        const [a = null, b = null] = expression.args.map(visit);
        return CALLS[expression.name](a, b);
      }
    }
  };
  return visit(lookUp(dim).expression);
}

/** Names of the symbols in a dimension. */
export function symbolsOf(dim: Dim): Set<string> {
  const names = new Set<string>();
  const visit = (expression: Expression): void => {
    if (expression.kind === "symbol") names.add(expression.name);
    else if (expression.kind === "call") expression.args.forEach(visit);
    else if (expression.kind !== "number") expression.parts.forEach(visit);
  };
  if (typeof dim === "string") visit(lookUp(dim).expression);
  return names;
}

/** The canonical text of a declared dimension: `1 + past` and `past + 1` become the same. */
export function canonical(dim: Dim): Dim {
  return typeof dim === "string" ? (print(poly(dim)) ?? dim) : dim;
}
