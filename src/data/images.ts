/** `images:` reads picture files: a folder per class, or one folder with a table of labels. */
import { PareError } from "../base/error.ts";
import { requireFolder, resolveBeside } from "./bytes.ts";
import { numberedClasses } from "./classes.ts";
import { csvRows } from "./csv-parse.ts";
import type { Buffers, Reader, Source } from "./dataset.ts";
import type { DecodedImage, Host, ImageRequest } from "./host.ts";
import type { NameOptions } from "./options.ts";
import { PixelCache } from "./pixel-cache.ts";
import { PIXEL_OPTIONS, pixelShape, pixelTransform, writePixels } from "./pixels.ts";

const PICTURE = /\.(jpe?g|png|webp|avif|gif|tiff?)$/i;
/** Pictures decoded at the same time: enough to keep the decoder's threads busy, few enough to bound memory. */
const IN_FLIGHT = 4;

export const images: Reader = {
  scheme: "images",
  summary:
    "folder per class, or files with a table: images:PATH?labels=labels.csv&resize=256&crop=224&scale=255&mean=…&std=…",
  options: {
    labels: "CSV with columns file and label (index or word); relative to the folder or else to the working directory",
    classes: "number of classes: labels from 0 below it (default: largest label + 1)",
    resize: "short side in pixels after resizing (bilinear, aspect kept), before the crop",
    crop: "centre crop: 224, or HEIGHTxWIDTH",
    size: "stretch to 224 or HEIGHTxWIDTH, instead of resize and crop",
    color: "rgb (default) or gray",
    ...PIXEL_OPTIONS,
  },

  async open(path, options, host): Promise<Source> {
    await requireFolder(host, path, options.name);
    if (options.text("size") !== undefined && (options.text("resize") ?? options.text("crop")) !== undefined)
      options.fail("size", "size together with resize or crop", "one of them");
    const channels = options.choice("color", ["rgb", "gray"]) === "gray" ? 1 : 3;
    const request: ImageRequest = {
      resize: options.integer("resize", 1, 16_384),
      crop: options.extent("crop"),
      size: options.extent("size"),
      channels,
    };
    const transform = pixelTransform(options, channels);
    const labels = options.text("labels");
    const listing =
      labels === undefined ? await folderPerClass(host, path) : await labelTable(host, path, labels, options);
    const { files, classOf } = listing;
    const count = options.integer("classes", 1, 2 ** 31 - 1);
    const classes = count === undefined ? listing.classes : (listing.words ?? numberedClasses(count, options.name));
    for (const [i, label] of classOf.entries())
      if (label >= classes.length)
        throw new PareError("bad-data", `The label of ${files[i]} is out of range`, {
          where: options.name,
          found: String(label),
          expected: `0 to ${classes.length - 1}`,
        });

    const first = await host.decodeImage(files[0] as string, request);
    const { height, width } = first;
    const area = height * width;
    const cache = new PixelCache(files.length, area * channels);
    const decoded = async (index: number): Promise<Uint8Array> => {
      const image = await host.decodeImage(files[index] as string, request);
      if (image.height !== height || image.width !== width)
        throw wrongSize(files[index] as string, image, files[0] as string, first);
      cache.put(index, image.pixels);
      return image.pixels;
    };
    return {
      size: files.length,
      fields: [{ name: "image", dtype: "float32", shape: pixelShape(transform.layout, channels, height, width) }],
      labels: "classes",
      classes,
      async fill(indices: ArrayLike<number>, into: Buffers, signal) {
        const out = into.fields["image"] as Float32Array;
        const labelsOut = into.labels as Int32Array;
        let next = 0;
        const decode = async (): Promise<void> => {
          while (next < indices.length && !signal?.aborted) {
            const k = next++;
            const index = indices[k] as number;
            const pixels = cache.get(index) ?? (await decoded(index));
            labelsOut[k] = classOf[index] as number;
            writePixels(pixels, 0, "hwc", channels, area, transform, out, k * area * channels);
          }
        };
        await Promise.all(Array.from({ length: Math.min(IN_FLIGHT, indices.length) }, decode));
      },
    };
  },
};

interface Listing {
  readonly files: readonly string[];
  readonly classOf: Int32Array;
  readonly classes: readonly string[];
  /** Class names when labels are words, so that their number is not the user's to choose. */
  readonly words?: readonly string[];
}

async function folderPerClass(host: Host, path: string): Promise<Listing> {
  const folders = (await host.list(path)).filter((entry) => entry.kind === "folder").map((entry) => entry.name);
  const files: string[] = [];
  const classOf: number[] = [];
  for (const [label, folder] of folders.entries()) {
    const inside = host.join(path, folder);
    for (const { name, kind } of await host.list(inside)) {
      if (kind !== "file" || !PICTURE.test(name)) continue;
      files.push(host.join(inside, name));
      classOf.push(label);
    }
  }
  if (files.length === 0)
    throw new PareError("bad-data", "The folder has no pictures in folders per class", {
      where: path,
      found: folders.length === 0 ? "no folders" : `folders ${folders.slice(0, 5).join(", ")} without pictures`,
      expected: "class-name/picture.jpg",
      help: "For one folder of pictures give a table: ?labels=labels.csv",
    });
  return { files, classOf: Int32Array.from(classOf), classes: folders, words: folders };
}

async function labelTable(host: Host, folder: string, labels: string, options: NameOptions): Promise<Listing> {
  const table = await resolveBeside(host, folder, labels, options);
  const rows = [...csvRows(new TextDecoder().decode(await host.read(table)), ",", table)];
  const header = rows.shift() ?? [];
  const fileColumn = header.indexOf("file");
  const labelColumn = header.indexOf("label");
  if (fileColumn < 0 || labelColumn < 0)
    throw new PareError("bad-data", "The table of labels has other columns", {
      where: table,
      found: header.join(", ").slice(0, 120) || "an empty file",
      expected: "a first row with the names file and label",
    });
  const present = new Set((await host.list(folder)).map((entry) => entry.name));
  const files: string[] = [];
  for (const [i, row] of rows.entries()) {
    const name = row[fileColumn] ?? "";
    const path = host.join(folder, name);
    if (!present.has(name) && (await host.kind(path)) !== "file")
      throw new PareError("missing-file", `Row ${i + 2} of the labels names a picture that is not there`, {
        where: table,
        found: name || "no name",
        expected: `a file in ${folder}`,
      });
    files.push(path);
  }
  if (files.length === 0) throw new PareError("bad-data", "The table of labels has no rows", { where: table });
  const words = rows.map((row) => row[labelColumn] ?? "");
  if (words.every((word) => /^\d{1,9}$/.test(word))) {
    const classOf = Int32Array.from(words, Number);
    return {
      files,
      classOf,
      classes: numberedClasses(classOf.reduce((most, label) => Math.max(most, label), 0) + 1, table),
    };
  }
  const bad = words.findIndex((word) => word === "" || /^[-+.\d]+$/.test(word));
  if (bad >= 0)
    throw new PareError("bad-data", `Row ${bad + 2} of the labels is out of range`, {
      where: table,
      found: words[bad] || "an empty cell",
      expected: "an index of 0 or more, or a word",
    });
  const classes = [...new Set(words)].toSorted((a, b) => (a < b ? -1 : 1));
  return { files, classOf: Int32Array.from(words, (word) => classes.indexOf(word)), classes, words: classes };
}

function wrongSize(file: string, image: DecodedImage, other: string, first: DecodedImage): PareError {
  return new PareError("bad-data", "The pictures have different sizes", {
    where: file,
    found: `${image.height}×${image.width}`,
    expected: `${first.height}×${first.width}, as ${other}`,
    help: "Say size=, or resize= and crop=",
  });
}
