/** Draws one distorted glyph: affine and elastic distortion, stroke width, clutter, shading and noise; anti-aliased grey. */
import type { Rng } from "../base/rng.ts";
import type { Glyph } from "./glyph-strokes.ts";

/** Control points per side of the elastic displacement field. */
const GRID = 4;
/** Longest straight piece of a stroke, in glyph units, so that the elastic field bends lines too. */
const PIECE = 0.3;

/**
 * What difficulty 1 means. Chosen so that a CNN of 8 and 16 channels ends between 95 and 99 % after two or three passes
 * over 12,000 samples, a wider one above it and a perceptron below.
 */
const UNIT_DIFFICULTY = 0.7;

/** Draws glyphs of one size; holds the scratch memory. */
export class GlyphRenderer {
  readonly #size: number;
  readonly #difficulty: number;
  readonly #ink: Float32Array;
  readonly #field: Float32Array = new Float32Array(GRID * GRID * 2);

  /** `size` in pixels; `difficulty` scales every distortion: 0 draws the plain glyph, 1 is the default. */
  constructor(size: number, difficulty: number) {
    this.#size = size;
    this.#difficulty = UNIT_DIFFICULTY * difficulty;
    this.#ink = new Float32Array(size * size);
  }

  /** Draws `glyph` with the draws of `rng` into `out` at `offset`, size × size values 0..255, integers. */
  draw(glyph: Glyph, rng: Rng, out: Uint8Array, offset: number): void {
    const d = this.#difficulty;
    this.#ink.fill(0);
    const half = this.#size / 2;
    const pixels = half * 0.72 * rng.uniform(1 - 0.22 * d, 1 + 0.12 * d);
    const angle = rng.normal(0, 0.17 * d);
    const aspect = Math.exp(rng.normal(0, 0.13 * d));
    const shear = rng.normal(0, 0.16 * d);
    const cos = Math.cos(angle) * pixels;
    const sin = Math.sin(angle) * pixels;
    // [x'; y'] = s R(angle) [[1, shear], [0, 1]] diag(aspect, 1 / aspect) [x; y] + shift
    const xx = cos * aspect;
    const xy = (cos * shear - sin) / aspect;
    const yx = sin * aspect;
    const yy = (sin * shear + cos) / aspect;
    const shiftX = half + rng.normal(0, this.#size * 0.045 * d);
    const shiftY = half + rng.normal(0, this.#size * 0.045 * d);
    for (let i = 0; i < this.#field.length; i++) this.#field[i] = rng.normal(0, 0.15 * d);
    const width = (this.#size / 28) * rng.uniform(1.5 - 0.7 * d, 1.5 + 0.7 * d);

    for (const stroke of glyph.strokes) {
      let px = Number.NaN;
      let py = Number.NaN;
      for (let i = 0; i < stroke.length; i += 2) {
        const x1 = stroke[i] as number;
        const y1 = stroke[i + 1] as number;
        const x0 = i === 0 ? x1 : (stroke[i - 2] as number);
        const y0 = i === 0 ? y1 : (stroke[i - 1] as number);
        const pieces = i === 0 ? 1 : Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / PIECE));
        for (let k = 1; k <= pieces; k++) {
          const x = x0 + ((x1 - x0) * k) / pieces;
          const y = y0 + ((y1 - y0) * k) / pieces;
          const u = x + this.#displacement(x, y, 0);
          const v = y + this.#displacement(x, y, 1);
          const qx = shiftX + xx * u + xy * v;
          const qy = shiftY + yx * u + yy * v;
          if (px === px) this.#line(px, py, qx, qy, width, 1);
          px = qx;
          py = qy;
        }
      }
    }
    this.#clutter(rng);
    this.#develop(rng, out, offset);
  }

  /** The elastic field at (x, y) in −1..1, bilinear between control points. */
  #displacement(x: number, y: number, component: 0 | 1): number {
    const gx = Math.min(GRID - 1.001, Math.max(0, ((x + 1) / 2) * (GRID - 1)));
    const gy = Math.min(GRID - 1.001, Math.max(0, ((y + 1) / 2) * (GRID - 1)));
    const ix = Math.floor(gx);
    const iy = Math.floor(gy);
    const fx = gx - ix;
    const fy = gy - iy;
    const at = (iy * GRID + ix) * 2 + component;
    const field = this.#field;
    const top = (field[at] as number) * (1 - fx) + (field[at + 2] as number) * fx;
    const bottom = (field[at + 2 * GRID] as number) * (1 - fx) + (field[at + 2 * GRID + 2] as number) * fx;
    return top * (1 - fy) + bottom * fy;
  }

  /** Inks a line with round ends: coverage = clamp(width / 2 + 1/2 − distance to the pixel's centre), the darker wins. */
  #line(x0: number, y0: number, x1: number, y1: number, width: number, strength: number): void {
    const size = this.#size;
    const ink = this.#ink;
    const reach = width / 2 + 0.5;
    const left = Math.max(0, Math.floor(Math.min(x0, x1) - reach));
    const right = Math.min(size - 1, Math.ceil(Math.max(x0, x1) + reach));
    const top = Math.max(0, Math.floor(Math.min(y0, y1) - reach));
    const bottom = Math.min(size - 1, Math.ceil(Math.max(y0, y1) + reach));
    const dx = x1 - x0;
    const dy = y1 - y0;
    const inverse = 1 / Math.max(1e-9, dx * dx + dy * dy);
    const reachSquared = reach * reach;
    for (let y = top; y <= bottom; y++) {
      const ry = y + 0.5 - y0;
      for (let x = left; x <= right; x++) {
        const rx = x + 0.5 - x0;
        let t = (rx * dx + ry * dy) * inverse;
        t = t < 0 ? 0 : t > 1 ? 1 : t;
        const ex = rx - t * dx;
        const ey = ry - t * dy;
        const squared = ex * ex + ey * ey;
        if (squared >= reachSquared) continue;
        const coverage = strength * Math.min(1, reach - Math.sqrt(squared));
        const at = y * size + x;
        if (coverage > (ink[at] as number)) ink[at] = coverage;
      }
    }
  }

  /** Stray marks: short bent scratches anywhere, fainter than the glyph or nearly as dark. */
  #clutter(rng: Rng): void {
    const d = this.#difficulty;
    const size = this.#size;
    const marks = d === 0 ? 0 : rng.below(1 + Math.round(4 * d));
    for (let i = 0; i < marks; i++) {
      let x = rng.uniform(0, size);
      let y = rng.uniform(0, size);
      let direction = rng.uniform(0, 2 * Math.PI);
      const length = (size / 28) * rng.uniform(1.5, 4.5);
      const width = (size / 28) * rng.uniform(0.6, 1.8);
      const strength = rng.uniform(0.4, 0.95);
      for (let k = 0; k < 2; k++) {
        const nx = x + length * Math.cos(direction);
        const ny = y + length * Math.sin(direction);
        this.#line(x, y, nx, ny, width, strength);
        x = nx;
        y = ny;
        direction += rng.normal(0, 0.7);
      }
    }
  }

  /** pixel = background + slope + contrast · ink + noise, clamped, 8 bits. Noise is a sum of four uniform bytes. */
  #develop(rng: Rng, out: Uint8Array, offset: number): void {
    const d = this.#difficulty;
    const size = this.#size;
    const ink = this.#ink;
    const background = 255 * rng.uniform(0, 0.18 * d);
    const contrast = 255 * rng.uniform(1 - 0.5 * d, 1) - background;
    const slopeX = (255 * rng.normal(0, 0.07 * d)) / size;
    const slopeY = (255 * rng.normal(0, 0.07 * d)) / size;
    // Four uniform bytes have mean 510 and deviation √(4 (256² − 1) / 12) = 147.8.
    const noise = (255 * rng.uniform(0.02, 0.14) * d) / 147.8;
    for (let y = 0, at = 0; y < size; y++) {
      let base = background + slopeY * (y - size / 2) - (slopeX * size) / 2;
      for (let x = 0; x < size; x++, at++, base += slopeX) {
        let value = base + contrast * (ink[at] as number);
        if (noise > 0) {
          const bits = rng.bits();
          value += noise * ((bits & 255) + ((bits >>> 8) & 255) + ((bits >>> 16) & 255) + (bits >>> 24) - 510);
        }
        out[offset + at] = value < 0 ? 0 : value > 255 ? 255 : value + 0.5;
      }
    }
  }
}
