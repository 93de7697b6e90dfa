/** A name for content: equal bytes have equal hashes, for finding tensors that are stored twice. */

/** Read and hashed at once; the memory that hashing takes. */
const PIECE_BYTES = 16 * 2 ** 20;

/** What can be hashed without holding it whole: a tensor's source fits. */
export interface HashSource {
  readonly byteLength: number;
  read(offset: number, length: number): Promise<Uint8Array>;
}

/**
 * 64 bits of SHA-256 as 16 hexadecimal digits. Content longer than 16 MiB is hashed in pieces and the digests hashed again.
 * At 64 bits a chance collision among a million tensors has probability 3e-8: compare the bytes before sharing them.
 */
export async function contentHash(content: Uint8Array | HashSource): Promise<string> {
  const source: HashSource =
    content instanceof Uint8Array
      ? {
          byteLength: content.byteLength,
          read: (offset, length) => Promise.resolve(content.subarray(offset, offset + length)),
        }
      : content;
  const digests: Uint8Array[] = [];
  for (let offset = 0; offset === 0 || offset < source.byteLength; offset += PIECE_BYTES)
    digests.push(await sha256(await source.read(offset, Math.min(PIECE_BYTES, source.byteLength - offset))));
  const digest = digests.length === 1 ? (digests[0] as Uint8Array) : await sha256(concatenate(digests));
  return Array.from(digest.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  const plain = bytes.buffer instanceof ArrayBuffer ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", plain));
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.byteLength;
  }
  return whole;
}
