/** Lines of text kept under a name between runs: what a long measurement has found so far. */

export interface LineStore {
  /** Whole lines in the order in which they came; none when there is nothing yet. */
  read(): Promise<readonly string[]>;
  /** Adds one line, which must not hold a line break. Several processes may add to the same lines. */
  append(line: string): Promise<void>;
}
