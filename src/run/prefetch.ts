/** Asks a stream for its next element while the present one is worked on, so that data and engine overlap. */

/** The same elements in the same order, one fetched ahead. An error of the source appears where its element would have. */
export async function* prefetch<T>(source: AsyncIterable<T> | Iterable<T>): AsyncGenerator<T> {
  const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  const ask = (): Promise<IteratorResult<T>> => {
    const next = (async () => iterator.next())();
    next.catch(() => undefined); // it is awaited below; until then it must not count as unhandled
    return next;
  };
  let next = ask();
  try {
    for (;;) {
      const result = await next;
      if (result.done) return;
      next = ask();
      yield result.value;
    }
  } finally {
    await next.catch(() => undefined);
    await iterator.return?.();
  }
}

/** The first elements of a stream, `most` of them if there are as many, and the whole stream from its beginning on. */
export async function lookAhead<T>(
  source: AsyncIterable<T> | Iterable<T>,
  most: number,
): Promise<{ readonly first: readonly T[]; readonly all: AsyncGenerator<T> }> {
  const rest = prefetch(source);
  const first: T[] = [];
  while (first.length < most) {
    const { done, value } = await rest.next();
    if (done) break;
    first.push(value);
  }
  async function* all(): AsyncGenerator<T> {
    try {
      yield* first;
      yield* rest;
    } finally {
      await rest.return(undefined);
    }
  }
  return { first, all: all() };
}
