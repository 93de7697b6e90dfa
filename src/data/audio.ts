/** `audio:` reads int8 keyword-spotting features (NumPy files in a folder), or windows of a 16-bit PCM .wav file. */
import { PareError } from "../base/error.ts";
import { elementCount, formatShape } from "../base/shape.ts";
import { arraySource, dequantized } from "./arrays.ts";
import type { Reader, Source } from "./dataset.ts";
import type { Host } from "./host.ts";
import { parseNpy } from "./npy.ts";
import type { NameOptions } from "./options.ts";
import { parseWav } from "./wav.ts";

export const audio: Reader = {
  scheme: "audio",
  summary:
    "folder with *features.npy, *labels.npy, *classes.json: audio:kws01?scale=0.5847&zero=83; or a .wav in windows",
  options: {
    scale: "features: y = (x - zero) · scale (default 1); .wav: samples are divided by 32768 and multiplied by this",
    zero: "zero point of the features (default 0)",
    shape: "shape of one sample, such as 1,49,10 (default: as in the file)",
    length: ".wav: samples per window (default 16000)",
    stride: ".wav: samples from one window to the next (default: length)",
  },

  async open(path, options, host): Promise<Source> {
    const kind = await host.kind(path);
    if (kind === "folder") return openFeatures(path, options, host);
    if (kind === "file") return openWav(path, options, host);
    throw new PareError("missing-file", "There is no such file or folder", { where: options.name, found: path });
  },
};

async function openFeatures(folder: string, options: NameOptions, host: Host): Promise<Source> {
  const names = (await host.list(folder)).filter((entry) => entry.kind === "file").map((entry) => entry.name);
  const find = (end: string): string | undefined => {
    const name = names.find((each) => each.endsWith(end));
    return name === undefined ? undefined : host.join(folder, name);
  };
  const featuresFile = find("features.npy");
  if (featuresFile === undefined)
    throw new PareError("missing-file", "The folder has no features", {
      where: folder,
      found: names.slice(0, 6).join(", ") || "no files",
      expected: "a file whose name ends with features.npy",
    });
  const features = parseNpy(await host.read(featuresFile), featuresFile);
  const [count = 0, ...sample] = features.shape;
  const shape = shapeOf(options, sample);
  const data = dequantized(features.data, options.nonzero("scale") ?? 1, options.number("zero") ?? 0);
  const labelsFile = find("labels.npy");
  const classesFile = find("classes.json");
  return arraySource(
    {
      fields: { features: { dtype: "float32", shape: [count, ...shape], data } },
      labels: labelsFile === undefined ? undefined : parseNpy(await host.read(labelsFile), labelsFile),
      classes: classesFile === undefined ? undefined : await readClasses(host, classesFile),
    },
    options.name,
  );
}

function shapeOf(options: NameOptions, sample: readonly number[]): readonly number[] {
  const shape = options.numbers("shape") ?? sample;
  if (!shape.every((size) => Number.isInteger(size) && size > 0) || elementCount(shape) !== elementCount(sample))
    options.fail("shape", formatShape(shape), `as many elements as ${formatShape(sample)}`);
  return shape;
}

async function readClasses(host: Host, path: string): Promise<string[]> {
  let names: unknown;
  try {
    names = JSON.parse(new TextDecoder().decode(await host.read(path)));
  } catch (cause) {
    throw new PareError("bad-data", "The class names are not JSON", { where: path, cause });
  }
  if (Array.isArray(names) && names.every((name): name is string => typeof name === "string")) return names;
  throw new PareError("bad-data", "The class names are not a list of strings", { where: path });
}

async function openWav(path: string, options: NameOptions, host: Host): Promise<Source> {
  const samples = parseWav(await host.read(path), path);
  const length = options.integer("length", 1, 1 << 28) ?? 16_000;
  const stride = options.integer("stride", 1, 1 << 28) ?? length;
  const scale = (options.nonzero("scale") ?? 1) / 32_768;
  if (samples.length < length)
    options.fail("length", String(length), `at most ${samples.length}, the samples of the file`);
  const shape = shapeOf(options, [length]);
  return {
    size: Math.floor((samples.length - length) / stride) + 1,
    fields: [{ name: "audio", dtype: "float32", shape }],
    labels: undefined,
    fill(indices, into) {
      const out = into.fields["audio"] as Float32Array;
      for (let k = 0; k < indices.length; k++) {
        const start = (indices[k] as number) * stride;
        for (let i = 0; i < length; i++) out[k * length + i] = (samples[start + i] as number) * scale;
      }
    },
  };
}
