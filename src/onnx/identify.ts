/** Says what a file really is when it is plainly not an ONNX model. */

/** How much of a file's beginning {@link identify} wants. */
export const HEAD_BYTES = 512;

export interface FileKind {
  /** As in "this is {name}". */
  readonly name: string;
  readonly help: string;
}

const EXPORT = "Export the network to ONNX first";

/** Formats by the bytes at a fixed offset; none of these can begin an ONNX model. */
const MAGIC: readonly (readonly [offset: number, bytes: string, kind: FileKind])[] = [
  [0, "GGUF", { name: "a GGUF file (llama.cpp)", help: `${EXPORT} from its original framework` }],
  [
    0,
    "PK\x03\x04",
    { name: "a zip file (a PyTorch checkpoint or a Keras 3 archive)", help: `${EXPORT}: torch.onnx.export, tf2onnx` },
  ],
  [0, "PK\x05\x06", { name: "an empty zip file", help: EXPORT }],
  [0, "\x80\x02", { name: "a Python pickle (an old PyTorch checkpoint)", help: `${EXPORT} with torch.onnx.export` }],
  [0, "\x80\x03", { name: "a Python pickle", help: EXPORT }],
  [0, "\x80\x04\x95", { name: "a Python pickle", help: EXPORT }],
  [0, "\x80\x05\x95", { name: "a Python pickle", help: EXPORT }],
  [4, "TFL3", { name: "a TensorFlow Lite model", help: "Convert it with tf2onnx --tflite" }],
  [
    4,
    "ORTM",
    { name: "a model in ONNX Runtime's own format (.ort)", help: "Use the .onnx file that it was made from" },
  ],
  [0, "\x89HDF\r\n", { name: "an HDF5 file (Keras weights)", help: `${EXPORT} with tf2onnx` }],
  [0, "\x93NUMPY", { name: "a NumPy array", help: "A model is wanted here" }],
  [0, "\x89PNG", { name: "a PNG image", help: "A model is wanted here" }],
  [0, "\xff\xd8\xff", { name: "a JPEG image", help: "A model is wanted here" }],
  [0, "\x1f\x8b", { name: "a gzip file", help: "Unpack it first: gunzip" }],
  [0, "\x28\xb5\x2f\xfd", { name: "a Zstandard file", help: "Unpack it first: zstd -d" }],
  [0, "BZh", { name: "a bzip2 file", help: "Unpack it first: bunzip2" }],
  [0, "\xfd7zXZ", { name: "an xz file", help: "Unpack it first: unxz" }],
  [0, "7z\xbc\xaf", { name: "a 7-zip file", help: "Unpack it first" }],
  [0, "%PDF", { name: "a PDF document", help: "A model is wanted here" }],
  [0, "\x7fELF", { name: "a program", help: "A model is wanted here" }],
  [0, "MZ\x90", { name: "a Windows program", help: "A model is wanted here" }],
  [0, "#!", { name: "a script", help: "A model is wanted here" }],
  [257, "ustar", { name: "a tar archive", help: "Unpack it first: tar -xf" }],
  [0, "version https://git-lfs", { name: "a Git LFS pointer, not the file itself", help: "Run git lfs pull" }],
];

/** What the file is, or undefined if it may be an ONNX model. */
export function identify(head: Uint8Array, byteLength: number): FileKind | undefined {
  if (byteLength === 0) return { name: "an empty file", help: "Fetch or export it again" };
  const text = String.fromCharCode(...head);
  for (const [offset, bytes, kind] of MAGIC) if (text.startsWith(bytes, offset)) return kind;
  return identifySafetensors(head, text, byteLength) ?? identifyText(text) ?? identifyGraphDef(head);
}

/** safetensors: the header's length as 8 little-endian bytes, then JSON. */
function identifySafetensors(head: Uint8Array, text: string, byteLength: number): FileKind | undefined {
  if (head.length < 10) return undefined;
  const length = Number(new DataView(head.buffer, head.byteOffset).getBigUint64(0, true));
  if (length >= byteLength || !/^\{\s*["}]/.test(text.slice(8))) return undefined;
  return {
    name: "a safetensors file: weights without a graph",
    help: "Export the whole network to ONNX, with its graph",
  };
}

function identifyText(text: string): FileKind | undefined {
  const start = text.replace(/^(\xef\xbb\xbf)?\s+/, "").slice(0, 40);
  if (/^<(!doctype|html|head|\?xml)/i.test(start))
    return { name: "a web page", help: "The download was refused or redirected: fetch the raw file" };
  if (/^[{[]\s*(["{[\]}]|-?\d)/.test(start)) return { name: "a JSON file", help: "A binary .onnx file is wanted here" };
  if (/^(ir_version|opset_import|graph|model_version)\s*[:{]/.test(start))
    return { name: "a protobuf text file", help: "Convert it to the binary form" };
  if (/^<\s*(ir_version|opset_import)\s*:/.test(start))
    return { name: "a model in ONNX text form", help: "Convert it first: pare convert MODEL.onnxtxt -o MODEL.onnx" };
  return undefined;
}

/** A TensorFlow GraphDef begins with its first node: field 1, length-prefixed, whose fields 1 and 2 are texts. */
function identifyGraphDef(head: Uint8Array): FileKind | undefined {
  if (head[0] !== 0x0a) return undefined;
  let at = 1;
  while ((head[at] ?? 0) >= 0x80 && at < 6) at++;
  if (head[at + 1] !== 0x0a) return undefined;
  const nameLength = head[at + 2] ?? 0;
  const name = head.subarray(at + 3, at + 3 + nameLength);
  const readable = name.length > 0 && name.every((byte) => byte > 0x20 && byte < 0x7f);
  if (!readable || head[at + 3 + nameLength] !== 0x12) return undefined;
  return { name: "a TensorFlow GraphDef", help: "Convert it with tf2onnx" };
}
