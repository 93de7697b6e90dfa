/** `cifar10:` reads the binary layout of CIFAR-10: records of one label byte and 3 × 32 × 32 pixel bytes in planes. */
import { PareError } from "../base/error.ts";
import { fileRecords, type Records, requireFolder } from "./bytes.ts";
import type { Buffers, Reader, Source } from "./dataset.ts";
import { PIXEL_OPTIONS, pixelShape, pixelTransform, writePixels } from "./pixels.ts";

const SIDE = 32;
const AREA = SIDE * SIDE;
const RECORD = 1 + 3 * AREA;
const CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

export const cifar10: Reader = {
  scheme: "cifar10",
  summary: "CIFAR-10 binary folder: cifar10:PATH?split=test&scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225",
  options: { split: "train (default, data_batch_*.bin) or test (test_batch.bin)", ...PIXEL_OPTIONS },

  async open(path, options, host): Promise<Source> {
    await requireFolder(host, path, options.name);
    const split = options.choice("split", ["train", "test"]) ?? "train";
    const wanted = split === "train" ? /^data_batch_\d+\.bin$/ : /^test_batch\.bin$/;
    const names = (await host.list(path)).map((entry) => entry.name).filter((name) => wanted.test(name));
    if (names.length === 0)
      throw new PareError("missing-file", `The folder has no ${split} records`, {
        where: path,
        expected: split === "train" ? "data_batch_1.bin and so on" : "test_batch.bin",
      });
    const transform = pixelTransform(options, 3);
    const files: { readonly first: number; readonly records: Records }[] = [];
    let size = 0;
    for (const name of names) {
      const file = host.join(path, name);
      const byteLength = await host.byteLength(file);
      if (byteLength === 0 || byteLength % RECORD !== 0)
        throw new PareError("bad-data", "The file is not whole CIFAR-10 records", {
          where: file,
          found: `${byteLength} bytes`,
          expected: `a multiple of ${RECORD} bytes: a label and 3 × 32 × 32 pixels`,
          help: "Fetch it again; CIFAR-100 and the Python version have another layout",
        });
      const records = await fileRecords(host, file, 0, RECORD);
      files.push({ first: size, records });
      size += records.count;
    }

    return {
      size,
      fields: [{ name: "image", dtype: "float32", shape: pixelShape(transform.layout, 3, SIDE, SIDE) }],
      labels: "classes",
      classes: CLASSES,
      async fill(indices: ArrayLike<number>, into: Buffers) {
        const out = into.fields["image"] as Float32Array;
        const labels = into.labels as Int32Array;
        for (let k = 0; k < indices.length; k++) {
          const index = indices[k] as number;
          const file = files.findLast((each) => each.first <= index) as (typeof files)[number];
          const found = file.records.at(index - file.first);
          const { bytes, start } = found instanceof Promise ? await found : found;
          const label = bytes[start] as number;
          if (label >= CLASSES.length)
            throw new PareError("bad-data", `Label of sample ${index} is out of range`, {
              where: path,
              found: String(label),
              expected: "0 to 9",
            });
          labels[k] = label;
          writePixels(bytes, start + 1, "chw", 3, AREA, transform, out, k * 3 * AREA);
        }
      },
    };
  },
};
