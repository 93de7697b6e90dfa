/** Training as it goes, on stderr: curves that redraw themselves on a terminal, a line per epoch elsewhere. */
import { formatSeconds } from "../report/format.ts";
import { textChart } from "../report/text-chart.ts";
import { metricLabel } from "../report/training-run.ts";
import type { EpochRecord } from "../train/checkpoint.ts";
import type { TrainProgress } from "../train/train-options.ts";
import type { Terminal } from "./run.node.ts";

const REDRAW_SECONDS = 0.25;
const QUIET_SECONDS = 2; // shorter jobs draw nothing
const MOST_POINTS = 600; // points of the loss curve; every other one is dropped when there are more
const SMALLEST = 50; // columns and
const LOWEST = 24; // rows of a terminal that has room for curves

export interface TrainingDisplay {
  progress(progress: TrainProgress): void;
  epoch(record: EpochRecord): void;
  /** Takes what was drawn away, so that the results can be printed. */
  stop(): void;
}

/** The display that fits the stream: curves need a terminal that can move its cursor and has room. */
export function trainingDisplay(terminal: Terminal, stream: NodeJS.WriteStream = process.stderr): TrainingDisplay {
  const roomy = (stream.columns ?? 0) >= SMALLEST && (stream.rows ?? 0) >= LOWEST;
  return stream.isTTY && roomy && process.env["TERM"] !== "dumb" ? new Curves(terminal, stream) : plain(terminal);
}

function plain(terminal: Terminal): TrainingDisplay {
  return {
    progress: (progress) => terminal.onProgress({ ...progress, stage: stageText(progress) }),
    epoch: (record) => terminal.say(formatEpoch(record)),
    stop: () => undefined,
  };
}

/** The stage and, once there is one, the loss. */
function stageText({ stage, loss }: TrainProgress): string {
  return Number.isFinite(loss) ? `${stage}, loss ${loss.toPrecision(3)}` : stage;
}

function formatEpoch({ epoch, loss, metrics, seconds }: EpochRecord): string {
  const scores = Object.entries(metrics).map(([name, value]) => `, ${metricLabel(name)} ${value.toFixed(4)}`);
  return `epoch ${epoch}: loss ${loss.toFixed(4)}${scores.join("")} (${formatSeconds(seconds)})`;
}

class Curves implements TrainingDisplay {
  readonly #terminal: Terminal;
  readonly #stream: NodeJS.WriteStream;
  readonly #started = performance.now();
  #drawn = 0;
  #last = 0;
  #losses: { step: number; loss: number }[] = [];
  #every = 1;
  readonly #epochs: EpochRecord[] = [];
  #now: TrainProgress | undefined;

  constructor(terminal: Terminal, stream: NodeJS.WriteStream) {
    this.#terminal = terminal;
    this.#stream = stream;
  }

  progress(progress: TrainProgress): void {
    this.#now = progress;
    const before = this.#losses.at(-1);
    if (Number.isFinite(progress.loss) && (!before || progress.done >= before.step + this.#every)) {
      // Losses of single steps jump about: each point leans on the one before.
      const loss = before ? 0.8 * before.loss + 0.2 * progress.loss : progress.loss;
      this.#losses.push({ step: progress.done, loss });
      if (this.#losses.length > MOST_POINTS) {
        this.#losses = this.#losses.filter((_, i) => i % 2 === 0);
        this.#every *= 2;
      }
    }
    const now = performance.now();
    if (now - this.#started > QUIET_SECONDS * 1000 && now - this.#last > REDRAW_SECONDS * 1000) this.#draw();
  }

  epoch(record: EpochRecord): void {
    this.#epochs.push(record);
    this.#erase();
    this.#terminal.say(formatEpoch(record));
    if (performance.now() - this.#started > QUIET_SECONDS * 1000) this.#draw();
  }

  stop(): void {
    this.#erase();
  }

  #erase(): void {
    if (this.#drawn > 0) this.#stream.write(`\u001b[${this.#drawn}A\u001b[0J`);
    this.#drawn = 0;
  }

  #draw(): void {
    // After Ctrl-C others write: what is drawn stays where it is.
    if (this.#terminal.signal.aborted) {
      this.#drawn = 0;
      return;
    }
    this.#last = performance.now();
    const lines = this.#lines(Math.min(100, (this.#stream.columns ?? 80) - 1));
    this.#erase();
    this.#stream.write(`${lines.join("\n")}\n`);
    this.#drawn = lines.length;
  }

  #lines(width: number): string[] {
    const now = this.#now;
    const lines: string[] = [];
    const xs = this.#losses.map(({ step }) => step);
    const ys = this.#losses.map(({ loss }) => loss);
    lines.push(
      ...textChart(
        { label: "training loss by step", xs, ys },
        { width, from: 0, to: now?.total, height: 7, logY: true },
      ),
    );
    const names = Object.keys(this.#epochs[0]?.metrics ?? {});
    const metric = names[0];
    if (metric !== undefined)
      lines.push(
        ...textChart(
          {
            label: `${metric} on the validation data by epoch`,
            xs: this.#epochs.map(({ epoch }) => epoch),
            ys: this.#epochs.map(({ metrics }) => metrics[metric] ?? Number.NaN),
          },
          { width, height: 4 },
        ),
      );
    if (now) {
      const share = now.done / Math.max(1, now.total);
      const filled = Math.round(share * 24);
      const left = `${formatSeconds(Math.ceil(now.secondsLeft))} left`;
      const bar = "█".repeat(filled) + "░".repeat(24 - filled);
      const text = `${bar} ${Math.floor(100 * share)} %  ${left}  ${stageText(now)}`;
      lines.push(text.length > width ? `${text.slice(0, width - 1)}…` : text);
    }
    return lines;
  }
}
