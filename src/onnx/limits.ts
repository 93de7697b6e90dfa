/** Every bound that pare puts on a model file, each with its reason: files are hostile until proven otherwise. */

/** Nesting of messages: protobuf's own default in every language, so deeper files are unreadable elsewhere too. */
export const MAX_MESSAGE_DEPTH = 100;

/** Bytes of a file without its large tensors. Graphs of 100,000 nodes take about 30 MB; objects in memory take ten times that. */
export const MAX_SKELETON_BYTES: number = 256 * 2 ** 20;

/** Messages in a file. Each costs a few hundred bytes in memory, and an empty one costs only two in the file. */
export const MAX_MESSAGES = 4_000_000;

/** Fields and elements of repeated fields kept in memory (tree ensembles list millions); each costs up to 32 bytes. */
export const MAX_FIELDS = 16_000_000;

/** Payloads of at most this many bytes become resident with the graph: shapes, axes, scales, biases of small layers. */
export const MAX_RESIDENT_PAYLOAD_BYTES = 1024;

/** Dimensions of one tensor. The widest frameworks stop at 64. */
export const MAX_RANK = 256;

/** Bytes of one tensor: sizes and offsets must stay exact as JavaScript numbers. */
export const MAX_TENSOR_BYTES: number = Number.MAX_SAFE_INTEGER;

/** Bytes of one tensor that must lie in memory at once to be decoded (sparse or varint-coded forms): V8's array limit is near. */
export const MAX_DECODED_BYTES: number = 2 ** 32;

/** Sparse tensors up to this many dense bytes are always made dense: as much as a usual layer has. */
export const MAX_FREE_DENSE_BYTES: number = 64 * 2 ** 20;

/** Above that, dense bytes for each stored byte: a tensor of which more than 99.9 % is zero is a trap, not a layer. */
export const MAX_SPARSE_RATIO = 1024;

/** Bytes of one protobuf message: protobuf's own limit in every language, and so the largest model without external data. */
export const MAX_MESSAGE_BYTES: number = 2 ** 31 - 1;

/** Characters of an external location: longer than any file system takes. */
export const MAX_LOCATION_LENGTH = 4096;

/** Bytes that the reader looks at in one go; tensors are skipped, so most windows are never filled again. */
export const SCAN_WINDOW_BYTES: number = 64 * 1024;

/** Bytes moved at a time when tensors are copied, compared or checked: large enough for full disk speed. */
export const COPY_CHUNK_BYTES: number = 4 * 2 ** 20;
