/** The readers, one line each. */
import { audio } from "./audio.ts";
import { cifar10 } from "./cifar10.ts";
import { csv } from "./csv.ts";
import type { Reader } from "./dataset.ts";
import { glyphs } from "./glyphs.ts";
import { idx } from "./idx.ts";
import { images } from "./images.ts";
import { npz } from "./npz.ts";
import { text } from "./text.ts";

export const READERS: readonly Reader[] = [idx, cifar10, images, npz, csv, text, audio, glyphs];
