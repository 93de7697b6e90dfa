/** Float matrices as a GGUF file of the "llama" kind, for the peers that read nothing else. */
import { closeSync, openSync, writeSync } from "node:fs";

const ALIGNMENT = 32;
const VERSION = 3;
const [UINT32, FLOAT32, STRING] = [4, 6, 8]; // types of metadata
const F32 = 0; // type of a tensor

/**
 * Writes `matrices`, each { name, rows, cols, read } with `read()` giving its float32 bytes, row by row, when its turn comes.
 * Specification: the GGUF page of the ggml project.
 */
export async function writeGguf(path, matrices, { width }) {
  const metadata = [
    ["general.architecture", STRING, "llama"],
    ["llama.block_count", UINT32, matrices.length],
    ["llama.context_length", UINT32, 128],
    ["llama.embedding_length", UINT32, width],
    ["llama.feed_forward_length", UINT32, width],
    ["llama.attention.head_count", UINT32, 32],
    ["llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5],
    ["llama.vocab_size", UINT32, 32],
  ];
  const parts = [Buffer.from("GGUF"), u32(VERSION), u64(matrices.length), u64(metadata.length)];
  for (const [key, type, value] of metadata) {
    parts.push(text(key), u32(type));
    if (type === STRING) parts.push(text(value));
    else if (type === UINT32) parts.push(u32(value));
    else parts.push(f32(value));
  }
  let offset = 0;
  for (const { name, rows, cols } of matrices) {
    parts.push(text(name), u32(2), u64(cols), u64(rows), u32(F32), u64(offset));
    offset += aligned(4 * rows * cols);
  }
  const head = Buffer.concat(parts);
  const file = openSync(path, "w");
  try {
    writeSync(file, padded(head));
    for (const { read } of matrices) writeSync(file, padded(await read()));
  } finally {
    closeSync(file);
  }
}

const aligned = (bytes) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
const padded = (bytes) =>
  bytes.byteLength % ALIGNMENT === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(aligned(bytes.byteLength) - bytes.byteLength)]);

function number(size, method, value) {
  const bytes = Buffer.alloc(size);
  bytes[method](value);
  return bytes;
}
const u32 = (value) => number(4, "writeUInt32LE", value);
const u64 = (value) => number(8, "writeBigUInt64LE", BigInt(value));
const f32 = (value) => number(4, "writeFloatLE", value);
const text = (value) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);
