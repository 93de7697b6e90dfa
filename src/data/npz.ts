/** `npz:` reads NumPy arrays with samples along axis 0: a .npz, or a .npy with its labels in another .npy. */
import { bytesOf, type DType } from "../base/dtype.ts";
import { nearest, PareError } from "../base/error.ts";
import { elementCount, formatShape } from "../base/shape.ts";
import { toFloat32 } from "../base/to-float32.ts";
import type { NdArray } from "../run/session.ts";
import { arraySource } from "./arrays.ts";
import { requireFile, resolveBeside } from "./bytes.ts";
import { numberedClasses } from "./classes.ts";
import type { Dataset, Reader, Source } from "./dataset.ts";
import type { Host } from "./host.ts";
import { type NpyArray, parseNpy, parseNpz } from "./npy.ts";
import type { NameOptions } from "./options.ts";

/** Words that an array of labels is usually called by. */
const LABEL_NAMES = ["labels", "label", "y", "targets", "target"];

export const npz: Reader = {
  scheme: "npz",
  summary: "NumPy arrays: npz:data.npz?input=x&labels=y, or npz:x.npy?labels=y.npy",
  options: {
    input: "arrays that become fields, joined by commas (default: every array but the labels)",
    labels: "array of labels, or a .npy file; none for no labels (default: labels, label, y, targets or target)",
    kind: "classes (default for integers), values (default for floats) or tokens",
    classes: "number of classes: labels from 0 below it (default: largest label + 1)",
    shape: "shape of one sample of the single input, such as 1,28,28",
    dtype: "float32 (default: numbers are converted) or keep",
    scale: "divides the values of a single input (default 1)",
    mean: "subtracted after scale",
    std: "divides after mean",
    name: "name of the single field (default: the array's name)",
  },

  async open(path, options, host): Promise<Source> {
    await requireFile(host, path, options.name);
    const { inputs, labels } = path.endsWith(".npy")
      ? await openNpy(path, options, host)
      : await openNpz(path, options, host);
    const single = Object.keys(inputs).length === 1;
    for (const option of ["shape", "scale", "mean", "std", "name"])
      if (!single && options.text(option) !== undefined)
        options.fail(option, `${Object.keys(inputs).length} inputs`, "one input, named by input=");
    const fields: Record<string, NdArray> = {};
    for (const [name, array] of Object.entries(inputs))
      fields[options.text("name") ?? name] = reshaped(converted(array, options), options);
    const count = options.integer("classes", 1, 2 ** 31 - 1);
    const kind = options.choice("kind", ["classes", "values", "tokens"] satisfies Dataset["labels"][]);
    return arraySource(
      {
        fields,
        labels,
        ...(kind ? { kind } : {}),
        classes: count === undefined ? undefined : numberedClasses(count, options.name),
      },
      options.name,
    );
  },
};

interface Opened {
  readonly inputs: Readonly<Record<string, NpyArray>>;
  readonly labels: NpyArray | undefined;
}

async function openNpy(path: string, options: NameOptions, host: Host): Promise<Opened> {
  const input = parseNpy(await host.read(path), path);
  const word = options.text("labels");
  if (word === undefined || word === "none") return { inputs: { input }, labels: undefined };
  const file = await resolveBeside(host, host.folderOf(path), word, options);
  return { inputs: { input }, labels: plain(parseNpy(await host.read(file), file)) };
}

async function openNpz(path: string, options: NameOptions, host: Host): Promise<Opened> {
  const bytes = await host.read(path);
  const { names } = await parseNpz(bytes, path, () => false);
  const known = (option: string, name: string): string => {
    if (names.includes(name)) return name;
    const near = nearest(name, names);
    return options.fail(option, `'${name}'`, `an array: ${names.join(", ")}`, near && `Did you mean ${near}?`);
  };
  if (names.length === 0) throw new PareError("bad-data", "There is no array in the file", { where: path });
  const word = options.text("labels");
  const found = LABEL_NAMES.find((name) => names.includes(name));
  const label = word === "none" ? undefined : word === undefined ? found : known("labels", word);
  const inputs = options.words("input")?.map((name) => known("input", name)) ?? names.filter((name) => name !== label);
  if (inputs.length === 0) options.fail("input", "no array left", "an array besides the labels");
  const { arrays } = await parseNpz(bytes, path, (name) => name === label || inputs.includes(name));
  const labels = label === undefined ? undefined : arrays.get(label);
  return {
    inputs: Object.fromEntries(inputs.map((name) => [name, arrays.get(name) as NpyArray])),
    labels: labels && plain(labels),
  };
}

/** Half floats as numbers; everything else as it is. */
function plain(array: NpyArray): NpyArray {
  return array.dtype === "float16"
    ? { ...array, dtype: "float32", data: toFloat32(array.dtype, bytesOf(array.data)) }
    : array;
}

function converted(array: NpyArray, options: NameOptions): NdArray {
  const scale = options.nonzero("scale") ?? 1;
  const mean = options.number("mean") ?? 0;
  const std = options.nonzero("std") ?? 1;
  const keep = options.choice("dtype", ["float32", "keep"]) === "keep";
  const identity = scale === 1 && mean === 0 && std === 1;
  if (keep && !identity) options.fail("dtype", "keep together with scale, mean or std", "float32");
  if (keep || (identity && array.dtype === "float32")) return array;
  const dtype: DType = "float32";
  const data = toFloat32(array.dtype, bytesOf(array.data));
  return { dtype, shape: array.shape, data: identity ? data : data.map((x) => (x / scale - mean) / std) };
}

function reshaped(array: NdArray, options: NameOptions): NdArray {
  const shape = options.numbers("shape");
  if (!shape) return array;
  const [count = 0, ...rest] = array.shape;
  if (!shape.every((size) => Number.isInteger(size) && size > 0) || elementCount(shape) !== elementCount(rest))
    options.fail("shape", formatShape(shape), `the elements of one sample, ${formatShape(rest)}`);
  return { ...array, shape: [count, ...shape] };
}
