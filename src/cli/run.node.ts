/** Runs a verb: aborts on Ctrl-C, shows progress on stderr, prints results on stdout, turns errors into one line and an exit code. */
import { writeSync } from "node:fs";
import { PareError } from "../base/error.ts";
import type { Provider } from "../run/session.ts";
import type { Progress } from "../techniques/technique.ts";
import { startProgress } from "./progress.node.ts";

/** 0 done, 1 a --require was not met, 2 error. */
export type ExitCode = 0 | 1 | 2;

/** Options that every verb takes. */
export interface CommonOptions {
  readonly json: boolean;
  readonly seed: number;
  readonly threads: number;
  readonly provider: Provider;
}

/** What a verb is given besides its own arguments. */
export interface Terminal {
  readonly signal: AbortSignal;
  onProgress(progress: Progress): void;
  /** A line for people on stderr (kept out of stdout). */
  say(text: string): void;
}

/** What a verb gives back: one JSON document and its readable form. */
export interface Outcome {
  readonly json: unknown;
  readonly text: string;
  readonly exitCode?: ExitCode;
}

/** Runs `verb`, prints its outcome, and ends the process with the right code. */
export async function runVerb(json: boolean, verb: (terminal: Terminal) => Promise<Outcome>): Promise<void> {
  const controller = new AbortController();
  let interrupts = 0;
  const onSignal = (): void => {
    if (++interrupts > 1) process.exit(130);
    process.stderr.write("\nStopping (press Ctrl-C again to stop at once)…\n");
    controller.abort();
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  const display = startProgress();
  try {
    const outcome = await verb({
      signal: controller.signal,
      onProgress: (progress) => display.update(progress),
      say: (text) => {
        display.stop();
        process.stderr.write(`${text}\n`);
      },
    });
    display.stop();
    print(
      json
        ? `${JSON.stringify(outcome.json, null, 2)}\n`
        : outcome.text.endsWith("\n")
          ? outcome.text
          : `${outcome.text}\n`,
    );
    process.exitCode = outcome.exitCode ?? 0;
  } catch (error) {
    display.stop();
    reportError(error, json);
    process.exitCode = 2;
  }
  // Engine threads may outlive their sessions for a moment; nothing is pending once a verb has returned.
  process.exit();
}

/** Writes all of it even when stdout is a pipe and the process is about to end. */
function print(text: string): void {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(1, bytes, at);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === "EAGAIN") continue;
      if (code === "EPIPE") return;
      throw error;
    }
  }
}

/** One line for a user's mistake; a stack only for a bug in pare, with a request to report it. */
export function reportError(error: unknown, json: boolean): void {
  if (error instanceof PareError && error.code !== "internal") {
    if (json) {
      const { code, message, where, found, expected, help } = error;
      print(`${JSON.stringify({ error: { code, message, where, found, expected, help } }, null, 2)}\n`);
    }
    process.stderr.write(`pare: ${error.message}\n`);
    return;
  }
  const known = systemError(error);
  if (known) {
    process.stderr.write(`pare: ${known}\n`);
    return;
  }
  process.stderr.write(
    `pare: this is a bug in pare, please report it: ${error instanceof Error ? error.stack : String(error)}\n`,
  );
}

/** Errors of the operating system in plain words. */
function systemError(error: unknown): string | undefined {
  const { code, path } = error as NodeJS.ErrnoException;
  const at = path ? `'${path}': ` : "";
  switch (code) {
    case "ENOENT":
      return `${at}no such file or folder`;
    case "EACCES":
    case "EPERM":
      return `${at}permission denied`;
    case "EISDIR":
      return `${at}is a folder, not a file`;
    case "ENOTDIR":
      return `${at}a part of this path is not a folder`;
    case "ENOSPC":
      return `${at}the disk is full; nothing was left behind`;
    case "EROFS":
      return `${at}the file system is read-only`;
    default:
      return undefined;
  }
}
