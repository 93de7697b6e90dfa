/** The journal of a run: what changed, what was left alone and why, and the worst error that it introduced. */

export interface Change {
  /** Layer or tensor name. */
  readonly what: string;
  /** What was done, with numbers: "float32 -> int4 block 32". */
  readonly how: string;
  /** Relative error introduced in this tensor, ‖ŵ − w‖/‖w‖, where it has one. */
  readonly error?: number;
  readonly bytesBefore?: number;
  readonly bytesAfter?: number;
}

export interface Skip {
  readonly what: string;
  readonly why: string;
}

export class Journal {
  readonly changed: Change[] = [];
  readonly skipped: Skip[] = [];
  readonly notes: string[] = [];

  change(change: Change): void {
    this.changed.push(change);
  }

  /** Records that something a user would expect to be treated was left alone. */
  skip(what: string, why: string): void {
    this.skipped.push({ what, why });
  }

  note(text: string): void {
    this.notes.push(text);
  }
}
