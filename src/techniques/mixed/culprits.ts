/**
 * Which of many changes cause a damage: the smallest set found that has to be undone so that the rest stays under a limit.
 *
 * Each change alone is judged first. In the order of what they do alone, worst first, the shortest beginning is looked for (by
 * halving) whose undoing is enough; then parts of it, halves, quarters and single ones, are left changed after all where that does
 * no harm. What is left is enough, and none of it can be spared: each of its members, changed, breaks the limit. So changes that do
 * harm together only are found too, and so are several that have nothing to do with each other (delta debugging; Zeller and
 * Hildebrandt 2002).
 */

/** Damage when the changes at these indices are undone and all others are there. */
export type JudgeUndone = (undone: ReadonlySet<number>) => Promise<number>;

export interface Culprits {
  /** With every change in place. */
  readonly total: number;
  /** With every change undone: what the changes are not to blame for. */
  readonly rest: number;
  /** Damage of each change alone, less what is left when all are undone. */
  readonly alone: readonly number[];
  /** To be undone, worst first; undefined when undoing all of them is not enough. */
  readonly undone: readonly number[] | undefined;
  /** Damage when they are undone. */
  readonly left: number;
  /** Damage if one of them were not undone, by index. */
  readonly without: ReadonlyMap<number, number>;
  /** Combinations that were judged. */
  readonly judged: number;
}

/** Finds changes to undo among `count` so that the damage is at most `limit`. */
export async function findCulprits(
  count: number,
  judge: JudgeUndone,
  limit: number | ((total: number, rest: number) => number),
  onJudged: (judged: number) => void = () => undefined,
): Promise<Culprits> {
  const known = new Map<string, number>();
  const damage = async (undone: ReadonlySet<number>): Promise<number> => {
    const key = [...undone].sort((a, b) => a - b).join();
    let found = known.get(key);
    if (found === undefined) {
      found = await judge(undone);
      known.set(key, found);
      onJudged(known.size);
    }
    return found;
  };
  const all = Array.from({ length: count }, (_, index) => index);
  const total = await damage(new Set());
  const rest = await damage(new Set(all));
  const most = typeof limit === "number" ? limit : limit(total, rest);
  const done = (undone: readonly number[] | undefined, left: number, alone: number[] = []): Culprits => ({
    total,
    rest,
    alone,
    undone,
    left,
    without: new Map(
      (undone ?? []).flatMap((index) => {
        const value = known.get(
          (undone ?? [])
            .filter((other) => other !== index)
            .sort((a, b) => a - b)
            .join(),
        );
        return value === undefined ? [] : [[index, value] as const];
      }),
    ),
    judged: known.size,
  });
  if (total <= most) return done([], total);
  const alone: number[] = [];
  for (const index of all) alone.push((await damage(new Set(all.filter((other) => other !== index)))) - rest);
  if (rest > most) return done(undefined, rest, alone);
  const order = [...all].sort((a, b) => (alone[b] ?? 0) - (alone[a] ?? 0) || a - b);
  let [short, long] = [0, count]; // undoing `short` of them is not enough, undoing `long` is
  while (long - short > 1) {
    const middle = Math.floor((short + long) / 2);
    if ((await damage(new Set(order.slice(0, middle)))) <= most) long = middle;
    else short = middle;
  }
  let undone = order.slice(0, long);
  for (let size = Math.ceil(undone.length / 2); ; size = Math.ceil(size / 2)) {
    // The least suspicious first.
    for (let end = undone.length; end > 0; end -= size) {
      const start = Math.max(0, end - size);
      const fewer = [...undone.slice(0, start), ...undone.slice(end)];
      if ((await damage(new Set(fewer))) <= most) undone = fewer;
    }
    if (size <= 1) break;
  }
  // Where leaving one out mattered only after another had gone, single ones are tried until none can be spared.
  for (let spared = true; spared; ) {
    spared = false;
    for (const index of undone.toReversed()) {
      const fewer = undone.filter((other) => other !== index);
      if ((await damage(new Set(fewer))) > most) continue;
      undone = fewer;
      spared = true;
    }
  }
  return done(undone, await damage(new Set(undone)), alone);
}
