/** `glyphs:` is a synthetic set of hand-drawn-like glyphs, made on the fly; sample i is a function of seed, split and i. */
import { PareError } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import type { Buffers, Reader, Source } from "./dataset.ts";
import { GlyphRenderer } from "./glyph-render.ts";
import { GLYPHS, type Glyph } from "./glyph-strokes.ts";
import { PIXEL_OPTIONS, pixelShape, pixelTransform, writePixels } from "./pixels.ts";

/** Samples when the name gives no `count`. */
const DEFAULT_COUNT = { train: 12_000, validation: 2_000, test: 4_000 };
/** A shuffled pass keeps one number of four bytes per sample: 400 MB at most. */
const COUNT_LIMIT = 100_000_000;
const SPLITS = ["train", "validation", "test"] as const;

export const glyphs: Reader = {
  scheme: "glyphs",
  summary: "synthetic hand-drawn-like glyphs, seeded, made on the fly: glyphs:?split=test",
  options: {
    split: "train (default), validation or test: different samples",
    count: "number of samples (default 12000, 2000 and 4000)",
    seed: "seed of the samples (default 1)",
    classes: `number of classes, 2 to ${GLYPHS.length} (default 10)`,
    size: "pixels per side, 8 to 256 (default 28)",
    difficulty: "scale of all distortion and noise, 0 to 2 (default 1)",
    ...PIXEL_OPTIONS,
  },

  open(path, options): Promise<Source> {
    if (path !== "")
      throw new PareError("bad-data", "The glyphs reader takes no path", {
        where: options.name,
        help: "Write glyphs:?option=value",
      });
    const split = options.choice("split", SPLITS) ?? "train";
    const size = options.integer("count", 1, COUNT_LIMIT) ?? DEFAULT_COUNT[split];
    const seed = options.integer("seed", 0, 0xffff_ffff) ?? 1;
    const classes = options.integer("classes", 2, GLYPHS.length) ?? 10;
    const side = options.integer("size", 8, 256) ?? 28;
    const difficulty = options.number("difficulty") ?? 1;
    if (!(difficulty >= 0 && difficulty <= 2)) options.fail("difficulty", String(difficulty), "0 to 2");
    const transform = pixelTransform(options, 1);
    const renderer = new GlyphRenderer(side, difficulty);
    const area = side * side;
    const pixels = new Uint8Array(area);
    const stream = new Rng(seed).fork(split);

    return Promise.resolve({
      size,
      fields: [{ name: "image", dtype: "float32", shape: pixelShape(transform.layout, 1, side, side) }],
      labels: "classes",
      classes: GLYPHS.slice(0, classes).map((glyph) => glyph.name),
      fill(indices: ArrayLike<number>, into: Buffers) {
        const images = into.fields["image"] as Float32Array;
        const labels = into.labels as Int32Array;
        for (let k = 0; k < indices.length; k++) {
          const rng = stream.fork(indices[k] as number);
          const label = rng.below(classes);
          labels[k] = label;
          renderer.draw(GLYPHS[label] as Glyph, rng, pixels, 0);
          writePixels(pixels, 0, "chw", 1, area, transform, images, k * area);
        }
      },
    });
  },
};
