/** `idx:` reads folders of the MNIST family: images and labels as IDX files, plain or gzip. */
import { PareError } from "../base/error.ts";
import { fileRecords, gunzip, type Records, requireFolder, residentRecords } from "./bytes.ts";
import { numberedClasses } from "./classes.ts";
import type { Buffers, Reader, Source } from "./dataset.ts";
import type { Host } from "./host.ts";
import { PIXEL_OPTIONS, pixelShape, pixelTransform, writePixels } from "./pixels.ts";
import { placePixels } from "./resample.ts";

/** Most bytes that a gzip IDX file may hold: it is kept in memory. Plain files of any size are read by ranges. */
const GZIP_LIMIT = 2 ** 31 - 1;

export const idx: Reader = {
  scheme: "idx",
  summary: "MNIST-family folder of IDX files, plain or .gz: idx:mnist?split=test&scale=255",
  options: {
    split: "train (default) or test (files beginning with t10k or test)",
    size: "resize to this many pixels per side, bilinear",
    pad: "pixels of value 0 added on every side, after size",
    ...PIXEL_OPTIONS,
  },

  async open(path, options, host): Promise<Source> {
    await requireFolder(host, path, options.name);
    const split = options.choice("split", ["train", "test"]) ?? "train";
    const images = await openIdx(host, path, split, "images");
    const labels = await openIdx(host, path, split, "labels");
    if (labels.shape.length > 0 || images.shape.length < 2 || images.shape.length > 3)
      throw new PareError("bad-data", "The IDX files have the wrong rank", {
        where: options.name,
        found: `images of rank ${images.shape.length + 1}, labels of rank ${labels.shape.length + 1}`,
        expected: "images of rank 3 or 4 (n, height, width, channels), labels of rank 1",
      });
    if (images.records.count !== labels.records.count)
      throw new PareError("bad-data", "There are not as many labels as images", {
        where: options.name,
        found: `${images.records.count} images in ${images.path}, ${labels.records.count} labels in ${labels.path}`,
      });

    const [height = 0, width = 0, channels = 1] = images.shape;
    const size = options.extent("size") ?? [height, width];
    const pad = options.integer("pad", 0, 1024) ?? 0;
    const outHeight = size[0] + 2 * pad;
    const outWidth = size[1] + 2 * pad;
    const area = outHeight * outWidth;
    const transform = pixelTransform(options, channels);
    const same = outHeight === height && outWidth === width && pad === 0;
    const placed = same ? undefined : new Uint8Array(area * channels);

    const classOf = new Uint8Array(labels.records.count);
    let classes = 0;
    for (let i = 0; i < classOf.length; i++) {
      const { bytes, start } = await labels.records.at(i);
      classOf[i] = bytes[start] as number;
      classes = Math.max(classes, (classOf[i] as number) + 1);
    }

    return {
      size: classOf.length,
      fields: [{ name: "image", dtype: "float32", shape: pixelShape(transform.layout, channels, outHeight, outWidth) }],
      labels: "classes",
      classes: numberedClasses(classes, path),
      async fill(indices: ArrayLike<number>, into: Buffers) {
        const out = into.fields["image"] as Float32Array;
        const classesOut = into.labels as Int32Array;
        for (let k = 0; k < indices.length; k++) {
          const index = indices[k] as number;
          classesOut[k] = classOf[index] as number;
          const found = images.records.at(index);
          const { bytes, start } = found instanceof Promise ? await found : found;
          if (placed) {
            placePixels({ bytes, start, height, width, channels }, size, pad, placed, outHeight, outWidth);
            writePixels(placed, 0, "hwc", channels, area, transform, out, k * area * channels);
          } else writePixels(bytes, start, "hwc", channels, area, transform, out, k * area * channels);
        }
      },
    };
  },
};

interface IdxFile {
  readonly path: string;
  /** Shape of one record. */
  readonly shape: readonly number[];
  readonly records: Records;
}

/** Finds and opens the file of one split and kind, whatever dots, dashes and suffix it is written with. */
async function openIdx(
  host: Host,
  folder: string,
  split: "train" | "test",
  kind: "images" | "labels",
): Promise<IdxFile> {
  const start = split === "train" ? /^train/ : /^(t10k|test)/;
  const names = (await host.list(folder)).filter((entry) => entry.kind === "file").map((entry) => entry.name);
  const name = names.find((each) => start.test(each) && each.includes(kind) && /(ubyte|idx\d?)(\.gz)?$/.test(each));
  if (name === undefined)
    throw new PareError("missing-file", `The folder has no IDX file of ${split} ${kind}`, {
      where: folder,
      found: names.length > 0 ? names.slice(0, 6).join(", ") : "no files",
      expected: `${split === "train" ? "train" : "t10k"}-${kind}-idx${kind === "images" ? 3 : 1}-ubyte, or the same with .gz`,
    });
  const path = host.join(folder, name);
  const gzip = name.endsWith(".gz");
  const content = gzip ? await gunzip(await host.read(path), GZIP_LIMIT, path) : undefined;
  const head = content ?? (await host.read(path, 0, 64));
  const dimensions = parseHeader(head, path);
  const header = 4 + 4 * dimensions.length;
  const [count = 0, ...shape] = dimensions;
  const length = shape.reduce((product, each) => product * each, 1);
  const byteLength = content ? content.byteLength : await host.byteLength(path);
  if (byteLength !== header + count * length || length === 0)
    throw new PareError("bad-data", "The IDX file does not hold what its header declares", {
      where: path,
      found: `${byteLength} bytes`,
      expected: `${header + count * length} bytes for [${dimensions.join(", ")}]`,
      help: "Fetch it again: it is truncated or of another kind",
    });
  const records = content ? residentRecords(content, header, length) : await fileRecords(host, path, header, length);
  return { path, shape, records };
}

/** Dimensions of an IDX file of unsigned bytes: 0, 0, type 8, rank, then big-endian sizes. */
function parseHeader(bytes: Uint8Array, path: string): number[] {
  const rank = bytes[3] ?? 0;
  if (bytes[0] !== 0 || bytes[1] !== 0 || bytes[2] !== 8 || rank < 1 || rank > 4 || bytes.byteLength < 4 + 4 * rank)
    throw new PareError("bad-data", "This is not an IDX file of unsigned bytes", {
      where: path,
      found: `it begins with ${[...bytes.subarray(0, 4)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}`,
      expected: "00 00 08 and the rank",
    });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis));
}
