/** The readers, one line each. */
import type { Reader } from "./dataset.ts";
import { glyphs } from "./glyphs.ts";
import { idx } from "./idx.ts";

export const READERS: readonly Reader[] = [idx, glyphs];
