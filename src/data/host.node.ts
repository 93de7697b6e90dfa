/** Node's files and the image decoder of sharp, for readers. */
import { open, readdir, stat } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import { messageOf, PareError } from "../base/error.ts";
import type { DecodedImage, Host, ImageRequest } from "./host.ts";

export const nodeHost: Host = {
  async kind(path) {
    try {
      return (await stat(path)).isDirectory() ? "folder" : "file";
    } catch {
      return undefined;
    }
  },

  async list(folder) {
    const names = (await readdir(folder)).toSorted((a, b) => (a < b ? -1 : 1));
    const kinds = await Promise.all(names.map((name) => this.kind(join(folder, name))));
    return names.map((name, i) => ({ name, kind: kinds[i] ?? "file" }));
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
  try {
    let image = sharp(path, { failOn: "error", limitInputPixels: 1 << 28 }).rotate();
    if (request.size) image = image.resize({ height: request.size[0], width: request.size[1], fit: "fill" });
    else if (request.resize) image = image.resize({ height: request.resize, width: request.resize, fit: "outside" });
    image = request.channels === 1 ? image.toColourspace("b-w") : image.toColourspace("srgb");
    const { data, info } = await image.flatten().raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true });
    return { height: info.height, width: info.width, channels: request.channels, pixels: data };
  } catch (cause) {
    throw new PareError("bad-data", "The image does not decode", {
      where: path,
      found: messageOf(cause),
      help: "Remove the file from the folder or the labels, or save it again as PNG or JPEG",
      cause,
    });
  }
}
