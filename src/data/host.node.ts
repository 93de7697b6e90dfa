/** Node's files and the image decoder of sharp, for readers. */
import { open, readdir, stat } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import { messageOf, PareError } from "../base/error.ts";
import type { DecodedImage, Host, ImageRequest } from "./host.ts";

/** Largest picture that is decoded, against files that declare gigantic sizes: 16384 × 16384. */
const PIXELS_LIMIT = 2 ** 28;

export const nodeHost: Host = {
  async kind(path) {
    try {
      return (await stat(path)).isDirectory() ? "folder" : "file";
    } catch {
      return undefined;
    }
  },

  async list(folder) {
    const entries = (await readdir(folder, { withFileTypes: true })).toSorted((a, b) => (a.name < b.name ? -1 : 1));
    return Promise.all(
      entries.map(async (entry) => {
        if (entry.isFile()) return { name: entry.name, kind: "file" as const };
        // What a link leads to is asked of the file system.
        return { name: entry.name, kind: (await this.kind(join(folder, entry.name))) ?? ("file" as const) };
      }),
    );
  },

  async byteLength(path) {
    return (await statOf(path)).size;
  },

  async read(path, offset = 0, length) {
    const file = await open(path).catch((cause: unknown) => missing(path, cause));
    try {
      const wanted = length ?? Math.max(0, (await file.stat()).size - offset);
      const bytes = new Uint8Array(wanted);
      let done = 0;
      while (done < wanted) {
        const { bytesRead } = await file.read(bytes, done, wanted - done, offset + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return bytes.subarray(0, done);
    } finally {
      await file.close();
    }
  },

  join: (folder, path) => (isAbsolute(path) ? path : join(folder, path)),
  folderOf: dirname,
  decodeImage,
};

async function statOf(path: string): Promise<{ size: number }> {
  return stat(path).catch((cause: unknown) => missing(path, cause));
}

function missing(path: string, cause: unknown): never {
  throw new PareError("missing-file", "The file cannot be read", { where: path, found: messageOf(cause), cause });
}

async function decodeImage(path: string, request: ImageRequest): Promise<DecodedImage> {
  const { default: sharp } = await import("sharp");
  const { channels, crop, resize, size } = request;
  let data: Uint8Array;
  let info: { readonly height: number; readonly width: number; readonly channels: number };
  try {
    let image = sharp(path, { failOn: "error", limitInputPixels: PIXELS_LIMIT });
    const how = { kernel: "linear", fastShrinkOnLoad: false } as const;
    if (size) image = image.resize({ height: size[0], width: size[1], fit: "fill", ...how });
    else if (resize) image = image.resize({ height: resize, width: resize, fit: "outside", ...how });
    image = image.flatten().toColourspace(channels === 1 ? "b-w" : "srgb");
    ({ data, info } = await image.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true }));
  } catch (cause) {
    throw new PareError("bad-data", "The image does not decode", {
      where: path,
      found: messageOf(cause),
      help: "Remove the file from the folder or the labels, or save it again as PNG or JPEG",
      cause,
    });
  }
  const [height, width] = crop ?? [info.height, info.width];
  if (height > info.height || width > info.width)
    throw new PareError("bad-data", "The image is smaller than the crop", {
      where: path,
      found: `${info.height}×${info.width} after resizing`,
      expected: `${height}×${width} or more`,
      help: "Raise resize=, or use size= instead of crop=",
    });
  const top = Math.round((info.height - height) / 2);
  const left = Math.round((info.width - width) / 2);
  const pixels = new Uint8Array(height * width * channels);
  for (let y = 0, to = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const from = ((top + y) * info.width + left + x) * info.channels;
      // A grey file may decode to one channel where three are wanted.
      for (let c = 0; c < channels; c++, to++) pixels[to] = data[from + Math.min(c, info.channels - 1)] as number;
    }
  return { height, width, channels, pixels };
}
