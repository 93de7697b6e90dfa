/** Byte-pair encoding of one word: merges the adjacent pair of lowest rank until none is left. */

/** Merge ranks by pair: `ranks.get(left).get(right)` is the rank. */
export type Ranks = ReadonlyMap<string, ReadonlyMap<string, number>>;

interface Pair {
  readonly rank: number;
  readonly left: number;
  /** Text of both sides when the pair was seen: a pair whose sides have changed since is stale. */
  readonly a: string;
  readonly b: string;
}

/**
 * Symbols of a word after all merges (Sennrich, Haddow and Birch 2016). Lowest rank first, leftmost among equals.
 * A doubly linked list and a heap, n log n: a whole document may be one word.
 */
export function bytePairs(symbols: readonly string[], ranks: Ranks): string[] {
  const text: (string | undefined)[] = [...symbols];
  const next = symbols.map((_, i) => i + 1);
  const previous = symbols.map((_, i) => i - 1);
  const heap: Pair[] = [];
  const offer = (left: number): void => {
    const right = left < 0 ? symbols.length : (next[left] as number);
    if (right >= symbols.length) return;
    const [a, b] = [text[left] as string, text[right] as string];
    const rank = ranks.get(a)?.get(b);
    if (rank !== undefined) push(heap, { rank, left, a, b });
  };
  for (let i = 0; i < symbols.length - 1; i++) offer(i);
  for (let pair = pop(heap); pair; pair = pop(heap)) {
    const { left, a, b } = pair;
    const right = next[left] as number;
    if (text[left] !== a || right >= symbols.length || text[right] !== b) continue;
    text[left] = a + b;
    text[right] = undefined;
    const after = next[right] as number;
    next[left] = after;
    if (after < symbols.length) previous[after] = left;
    offer(previous[left] as number);
    offer(left);
  }
  return text.filter((symbol) => symbol !== undefined);
}

function before(a: Pair, b: Pair): boolean {
  return a.rank !== b.rank ? a.rank < b.rank : a.left < b.left;
}

function push(heap: Pair[], pair: Pair): void {
  let at = heap.push(pair) - 1;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    const other = heap[parent] as Pair;
    if (!before(pair, other)) break;
    heap[at] = other;
    at = parent;
  }
  heap[at] = pair;
}

function pop(heap: Pair[]): Pair | undefined {
  const top = heap[0];
  const last = heap.pop();
  if (last === undefined || heap.length === 0) return top;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && before(heap[child + 1] as Pair, heap[child] as Pair)) child++;
    if (!before(heap[child] as Pair, last)) break;
    heap[at] = heap[child] as Pair;
    at = child;
  }
  heap[at] = last;
  return top;
}
