/** Names of classes that have only numbers. */
import { PareError } from "../base/error.ts";

/** More classes than any data set has: a larger label is a mistake (an identifier, a price), and its names would fill memory. */
const CLASSES_LIMIT = 1_000_000;

/** "0" to `count − 1`. Throws `bad-data` when the count can only come from labels that are not classes. */
export function numberedClasses(count: number, where: string): string[] {
  if (count > CLASSES_LIMIT)
    throw new PareError("bad-data", "Labels are out of range", {
      where,
      found: `a label of ${count - 1}`,
      expected: `classes numbered from 0, at most ${CLASSES_LIMIT}`,
      help: "Number the classes 0, 1, 2, …, or take the numbers as real values",
    });
  return Array.from({ length: count }, (_, i) => String(i));
}
