/** Which units of a tensor are stored, as few bits: a bit per unit, distances between stored ones, patterns of n among m; and back. */
import { packBits, unpackUnsigned } from "../../base/packed.ts";

/** How the positions of stored units are written down. */
export type SparseIndex =
  /** One bit per unit, low bits first. */
  | { readonly kind: "mask" }
  /**
   * Distances between stored units (the first from unit 0) of 8 or 16 bits; where one is longer than the largest code, a unit
   * that holds the fill is stored in between. Han et al. 2016, "Deep Compression" (arXiv 1510.00149).
   */
  | { readonly kind: "gaps"; readonly bits: 8 | 16 }
  /** Distances of 4 bits, two in a byte, the first from unit −1; code 0 moves on by 15 and stores nothing. */
  | { readonly kind: "nibbles" }
  /** At most `keep` of every `of` neighbours: the number of their pattern, several groups to a byte. */
  | { readonly kind: "pattern"; readonly keep: number; readonly of: number };

/** Units that a code of four bits can move on by. */
const NIBBLE = 15;

/** Marks (1) the elements of `width` bytes that differ from the fill in any bit. */
export function marksOf(bytes: Uint8Array, width: number, fill: Uint8Array): Uint8Array {
  const count = bytes.length / width;
  const marks = new Uint8Array(count);
  const Word = width % 4 === 0 ? Uint32Array : width === 2 ? Uint16Array : Uint8Array;
  const aligned = bytes.byteOffset % Word.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  const words = new Word(aligned.buffer as ArrayBuffer, aligned.byteOffset, bytes.length / Word.BYTES_PER_ELEMENT);
  const own = new Word(fill.slice().buffer);
  if (own.length === 1) {
    const word = own[0] as number;
    for (let i = 0; i < count; i++) marks[i] = words[i] === word ? 0 : 1;
  } else
    for (let i = 0; i < words.length; i++) if (words[i] !== own[i % own.length]) marks[Math.floor(i / own.length)] = 1;
  return marks;
}

/** Marks units of `unit` neighbouring elements in which any is marked. */
export function unitMarks(marks: Uint8Array, unit: number): Uint8Array {
  if (unit === 1) return marks;
  const units = new Uint8Array(marks.length / unit);
  for (let i = 0, at = 0; i < units.length; i++)
    for (const end = at + unit; at < end; at++) if (marks[at] !== 0) units[i] = 1;
  return units;
}

/** What each index would take, from one pass over the marks. */
export interface IndexSurvey {
  readonly stored: number;
  /** Stored units and fillers of 8-bit and of 16-bit distances. */
  readonly gaps8: number;
  readonly gaps16: number;
  /** Codes of 4-bit distances. */
  readonly nibbles: number;
}

export function surveyMarks(marks: Uint8Array): IndexSurvey {
  let [stored, gaps8, gaps16, nibbles] = [0, 0, 0, 0];
  for (let i = 0, last = -1; i < marks.length; i++) {
    if (marks[i] === 0) continue;
    const gap = i - last;
    stored++;
    nibbles += Math.ceil(gap / NIBBLE);
    const far = last < 0 ? i : gap;
    gaps8 += far > 255 ? Math.ceil(far / 255) : 1;
    gaps16 += far > 65535 ? Math.ceil(far / 65535) : 1;
    last = i;
  }
  return { stored, gaps8, gaps16, nibbles };
}

/** The codes of an index, and the units whose values are stored, in order. */
export interface IndexCodes {
  readonly codes: Uint8Array | Uint16Array;
  /** Number of codes: they need not fill their last byte. */
  readonly entries: number;
  readonly stored: Uint32Array;
}

/** Writes the positions of marked units down. Of a pattern exactly `keep` units of every group are stored. */
export function encodeIndex(index: SparseIndex, marks: Uint8Array): IndexCodes {
  switch (index.kind) {
    case "mask":
      return { codes: packBits(marks, 1), entries: marks.length, stored: markedUnits(marks) };
    case "gaps":
      return encodeGaps(marks, index.bits);
    case "nibbles":
      return encodeNibbles(marks);
    default:
      return encodePattern(marks, index.keep, index.of);
  }
}

/** The units whose values are stored, in order; throws a RangeError where one lies outside of the tensor. */
export function decodeIndex(
  index: SparseIndex,
  codes: Uint8Array | Uint16Array,
  entries: number,
  units: number,
): Uint32Array {
  let stored: Uint32Array;
  if (index.kind === "mask") {
    const marks = new Uint8Array(units);
    for (let i = 0; i < units; i++) marks[i] = ((codes[i >> 3] as number) >> (i & 7)) & 1;
    stored = markedUnits(marks);
  } else if (index.kind === "gaps") {
    stored = new Uint32Array(entries);
    for (let i = 0, at = 0; i < entries; i++) stored[i] = at += codes[i] as number;
  } else if (index.kind === "nibbles") {
    const steps = unpackUnsigned(codes as Uint8Array, 4, entries);
    stored = new Uint32Array(steps.reduce((count, step) => (step === 0 ? count : count + 1), 0));
    for (let i = 0, at = -1, to = 0; i < entries; i++) {
      at += steps[i] || NIBBLE;
      if (steps[i] !== 0) stored[to++] = at;
    }
  } else stored = decodePattern(index, codes as Uint8Array, units);
  for (const unit of stored) if (unit >= units) throw new RangeError(`unit ${unit} of ${units}`);
  return stored;
}

function markedUnits(marks: Uint8Array): Uint32Array {
  const stored = new Uint32Array(marks.reduce((count, mark) => count + mark, 0));
  for (let i = 0, to = 0; i < marks.length; i++) if (marks[i] !== 0) stored[to++] = i;
  return stored;
}

function encodeGaps(marks: Uint8Array, bits: 8 | 16): IndexCodes {
  const top = 2 ** bits - 1;
  const survey = surveyMarks(marks);
  const entries = bits === 8 ? survey.gaps8 : survey.gaps16;
  const codes = bits === 8 ? new Uint8Array(entries) : new Uint16Array(entries);
  const stored = new Uint32Array(entries);
  let to = 0;
  for (let i = 0, last = 0; i < marks.length; i++) {
    if (marks[i] === 0) continue;
    for (; i - last > top; to++) {
      codes[to] = top;
      stored[to] = last += top;
    }
    codes[to] = i - last;
    stored[to++] = last = i;
  }
  return { codes, entries, stored };
}

function encodeNibbles(marks: Uint8Array): IndexCodes {
  const { stored: count, nibbles } = surveyMarks(marks);
  const steps = new Uint8Array(nibbles);
  const stored = new Uint32Array(count);
  for (let i = 0, last = -1, at = 0, to = 0; i < marks.length; i++) {
    if (marks[i] === 0) continue;
    for (; i - last > NIBBLE; last += NIBBLE) at++;
    steps[at++] = i - last;
    stored[to++] = last = i;
  }
  return { codes: packBits(steps, 4), entries: nibbles, stored };
}

/** The patterns of `keep` among `of`, each as the positions that are stored. */
export function patternsOf(keep: number, of: number): number[][] {
  if (keep === 0) return [[]];
  if (of === 0) return [];
  const without = patternsOf(keep, of - 1);
  const withLast = patternsOf(keep - 1, of - 1).map((positions) => [...positions, of - 1]);
  return [...without, ...withLast];
}

/** Groups whose patterns fit one byte together; 0 where not even one does. */
export function groupsPerByte(keep: number, of: number): number {
  const patterns = patternsOf(keep, of).length;
  return patterns > 256 ? 0 : Math.floor(Math.log(256) / Math.log(patterns) + 1e-9);
}

function encodePattern(marks: Uint8Array, keep: number, of: number): IndexCodes {
  const patterns = patternsOf(keep, of);
  const perByte = groupsPerByte(keep, of);
  const numbers = new Map<number, number>();
  // The least number of a pattern that holds what is marked, by the bits of what is marked
  const numberOf = (bits: number): number => {
    let number = numbers.get(bits);
    if (number === undefined) {
      number = patterns.findIndex((positions) => (bits & ~positions.reduce((sum, i) => sum | (1 << i), 0)) === 0);
      numbers.set(bits, number);
    }
    return number;
  };
  const groups = marks.length / of;
  const codes = new Uint8Array(Math.ceil(groups / perByte));
  const stored = new Uint32Array(codes.length * perByte * keep);
  let to = 0;
  for (let group = 0; group < codes.length * perByte; group++) {
    let bits = 0;
    if (group < groups) for (let i = 0; i < of; i++) bits |= (marks[group * of + i] as number) << i;
    const number = numberOf(bits);
    const byte = Math.floor(group / perByte);
    codes[byte] = (codes[byte] as number) + number * patterns.length ** (group % perByte);
    for (const i of patterns[number] as number[]) stored[to++] = group * of + i;
  }
  return { codes, entries: codes.length, stored };
}

function decodePattern({ keep, of }: { keep: number; of: number }, codes: Uint8Array, units: number): Uint32Array {
  const patterns = patternsOf(keep, of);
  const perByte = groupsPerByte(keep, of);
  const stored = new Uint32Array(codes.length * perByte * keep);
  let to = 0;
  for (const [byte, code] of codes.entries())
    for (let i = 0, rest = code; i < perByte; i++, rest = Math.floor(rest / patterns.length)) {
      const start = (byte * perByte + i) * of;
      for (const position of patterns[rest % patterns.length] as number[]) stored[to++] = start + position;
    }
  // Groups behind the end fill the last byte
  const behind = Math.max(0, codes.length * perByte - units / of);
  if (behind >= perByte) throw new RangeError("more groups than units");
  return stored.subarray(0, stored.length - behind * keep);
}
