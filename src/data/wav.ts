/** RIFF/WAVE files of 16-bit PCM, one channel or the mean of several. */
import { PareError } from "../base/error.ts";

/** Samples −32768..32767 of the file. Throws `bad-data` on anything but 16-bit PCM. */
export function parseWav(bytes: Uint8Array, where: string): Int16Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tag = (at: number): string => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (bytes.byteLength < 12 || tag(0) !== "RIFF" || tag(8) !== "WAVE")
    throw new PareError("bad-data", "This is not a .wav file", { where, expected: "bytes that begin with RIFF…WAVE" });
  let channels = 0;
  for (let at = 12; at + 8 <= bytes.byteLength; ) {
    const length = view.getUint32(at + 4, true);
    const body = at + 8;
    if (tag(at) === "fmt " && body + 16 <= bytes.byteLength) {
      const [format, bits] = [view.getUint16(body, true), view.getUint16(body + 14, true)];
      channels = view.getUint16(body + 2, true);
      if (format !== 1 || bits !== 16 || channels === 0)
        throw new PareError("bad-data", "The .wav file is not 16-bit PCM", {
          where,
          found: `format ${format}, ${bits} bits, ${channels} channels`,
          help: "Convert it: ffmpeg -i in.wav -c:a pcm_s16le out.wav",
        });
    }
    if (tag(at) === "data" && channels > 0) {
      if (body + length > bytes.byteLength)
        throw new PareError("bad-data", "The .wav file is truncated", {
          where,
          found: `${bytes.byteLength - body} bytes of samples`,
          expected: `${length}`,
        });
      const samples = new Int16Array(Math.floor(length / 2 / channels));
      for (let i = 0; i < samples.length; i++) {
        let sum = 0;
        for (let c = 0; c < channels; c++) sum += view.getInt16(body + 2 * (i * channels + c), true);
        samples[i] = Math.round(sum / channels);
      }
      return samples;
    }
    at = body + length + (length & 1);
  }
  throw new PareError("bad-data", "The .wav file has no samples", { where });
}
