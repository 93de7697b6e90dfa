/** Promises that run side by side and are waited for together. */

/** Both results once both have ended, also when one has failed: nothing goes on behind the caller's back. */
export async function both<A, B>(first: Promise<A>, second: Promise<B>): Promise<readonly [A, B]> {
  await Promise.allSettled([first, second]);
  return [await first, await second];
}
