/** What readers need of the machine: files and an image decoder. Node's lies in host.node.ts; a page brings its own. */

export interface ImageRequest {
  /** Resize so that the short side has this many pixels (aspect kept, bilinear); before the crop. */
  readonly resize?: number | undefined;
  /** Height and width of the centre crop taken after the resize. */
  readonly crop?: readonly [number, number] | undefined;
  /** Height and width to stretch to, aspect not kept; instead of resize and crop. */
  readonly size?: readonly [number, number] | undefined;
  readonly channels: 1 | 3;
}

export interface DecodedImage {
  readonly height: number;
  readonly width: number;
  readonly channels: 1 | 3;
  /** Height, width, channels; 8 bits each. */
  readonly pixels: Uint8Array;
}

export interface Host {
  /** What lies at the path; undefined when nothing does. */
  kind(path: string): Promise<"file" | "folder" | undefined>;
  /** Names in a folder, sorted by code unit. */
  list(folder: string): Promise<{ readonly name: string; readonly kind: "file" | "folder" }[]>;
  byteLength(path: string): Promise<number>;
  /** The file, or `length` bytes from `offset`; fewer when the file ends before. */
  read(path: string, offset?: number, length?: number): Promise<Uint8Array>;
  /** Joins a folder and a relative path; an absolute path stays itself. */
  join(folder: string, path: string): string;
  /** The folder that holds the path. */
  folderOf(path: string): string;
  /** Decodes an image file to 8-bit sRGB or grey. Throws `bad-data` naming the file. */
  decodeImage(path: string, request: ImageRequest): Promise<DecodedImage>;
}
