/** Progress on stderr for anything longer than two seconds: a bar on a terminal, a line now and then elsewhere. */
import { Presets, SingleBar } from "cli-progress";
import { formatSeconds } from "../report/format.ts";
import type { Progress } from "../techniques/technique.ts";

const QUIET_SECONDS = 2; // shorter jobs show nothing
const LINE_SECONDS = 5; // between two lines when stderr is no terminal

export interface ProgressDisplay {
  update(progress: Progress): void;
  stop(): void;
}

/** Starts a display; the remaining time is extrapolated from the pace of the running stage. */
export function startProgress(stream: NodeJS.WriteStream = process.stderr): ProgressDisplay {
  const started = performance.now();
  let stage = "";
  let stageStarted = started;
  let firstDone = 0;
  let lastLine = started;
  let bar: SingleBar | undefined;
  const left = (progress: Progress): string => {
    if (progress.secondsLeft !== undefined) return `${formatSeconds(Math.ceil(progress.secondsLeft))} left`;
    const share = (progress.done - firstDone) / Math.max(1e-9, progress.total - firstDone);
    if (share <= 0) return "";
    return `${formatSeconds(Math.ceil((((performance.now() - stageStarted) / 1000) * (1 - share)) / share))} left`;
  };
  return {
    update(progress) {
      const now = performance.now();
      if (progress.stage !== stage) {
        stage = progress.stage;
        stageStarted = now;
        firstDone = progress.done;
      }
      if (now - started < QUIET_SECONDS * 1000) return;
      if (stream.isTTY) {
        bar ??= newBar(stream);
        bar.setTotal(progress.total);
        bar.update(progress.done, { stage: clip(stage, 40), left: left(progress) });
      } else if (now - lastLine >= LINE_SECONDS * 1000) {
        lastLine = now;
        const percent = Math.round((100 * progress.done) / Math.max(1e-9, progress.total));
        stream.write(`${stage}: ${percent} % ${left(progress)}\n`);
      }
    },
    stop() {
      bar?.stop();
      bar = undefined;
    },
  };
}

function newBar(stream: NodeJS.WriteStream): SingleBar {
  const bar = new SingleBar(
    { format: "{bar} {percentage} %  {left}  {stage}", hideCursor: true, clearOnComplete: true, stream, barsize: 24 },
    Presets.shades_classic,
  );
  bar.start(1, 0, { stage: "", left: "" });
  return bar;
}

function clip(text: string, width: number): string {
  return text.length > width ? `${text.slice(0, width - 1)}…` : text;
}
