/** The one error that users meet: a stable code, where it happened, what was found and expected, and the way out. */

/** Stable machine-readable codes. A code never changes its meaning; new situations get new codes. */
export type ErrorCode =
  | "not-onnx" // the bytes are not an ONNX model
  | "bad-model" // ONNX, but invalid or beyond a limit
  | "missing-file"
  | "unsafe-path" // external data that leaves its folder
  | "bad-option"
  | "bad-data" // a data set or its name is wrong
  | "shape-mismatch"
  | "unsupported" // valid, but pare or the engine cannot do it
  | "engine" // ONNX Runtime refused or failed
  | "provider-absent" // the execution provider is not available here
  | "output" // writing failed: exists, unwritable, disk full
  | "not-differentiable"
  | "verification" // a result failed its proof
  | "aborted"
  | "internal"; // a bug in pare

/** Parts of a {@link PareError}. `message` is one sentence without final period; `help` is the way out. */
export interface PareErrorParts {
  /** Node, value, option, file or byte offset, as the user knows it. */
  readonly where?: string;
  readonly found?: string;
  readonly expected?: string;
  /** What the user can do about it. */
  readonly help?: string;
  readonly cause?: unknown;
}

export class PareError extends Error {
  override readonly name = "PareError";
  readonly code: ErrorCode;
  readonly where: string | undefined;
  readonly found: string | undefined;
  readonly expected: string | undefined;
  readonly help: string | undefined;

  constructor(code: ErrorCode, message: string, parts: PareErrorParts = {}) {
    const text = [
      parts.where === undefined ? message : `${parts.where}: ${message}`,
      parts.found === undefined ? "" : `; found ${parts.found}`,
      parts.expected === undefined ? "" : `; expected ${parts.expected}`,
      parts.help === undefined ? "" : `. ${parts.help}`,
    ].join("");
    super(text, parts.cause === undefined ? undefined : { cause: parts.cause });
    this.code = code;
    this.where = parts.where;
    this.found = parts.found;
    this.expected = parts.expected;
    this.help = parts.help;
  }
}

/** The text of anything thrown, without its stack. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Throws {@link PareError} `aborted` if the signal has fired. Called between units of work. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new PareError("aborted", "Stopped before it was finished; nothing was written");
}

/** The candidate nearest to `name` by edit distance, or undefined when none is near: for "did you mean". */
export function nearest(name: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(name, candidate);
    if (distance < bestDistance) {
      bestDistance = distance;
      best = candidate;
    }
  }
  return best;
}

/** Levenshtein distance: d(i,j) = min(d(i-1,j)+1, d(i,j-1)+1, d(i-1,j-1)+[a_i≠b_j]). */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, substitute));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
