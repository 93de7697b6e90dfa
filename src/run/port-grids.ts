/** Inputs and outputs that are integers standing for numbers: their grids in the file's metadata, and sessions that convert. */
import type { DType } from "../base/dtype.ts";
import type { Model } from "../ir/model.ts";
import { asNumbers } from "./arrays.ts";
import type { Feeds, NdArray, Port, Resident, RunOptions, Session } from "./session.ts";

/** number = (code − zeroPoint)·scale. */
export interface PortGrid {
  readonly dtype: "uint8" | "int8";
  readonly scale: number;
  readonly zeroPoint: number;
}

/** Key of an input's or output's grid in `metadata_props`; the value is the grid as JSON. */
const PREFIX = "pare.quantized.";

/** Writes a port's grid into the model's metadata. */
export function setPortGrid(model: Model, name: string, grid: PortGrid): void {
  model.metadata.set(PREFIX + name, JSON.stringify(grid));
}

/** Grids of ports by name. What a file says that does not fit its own ports is not believed. */
export function portGrids(model: Model): Map<string, PortGrid> {
  const grids = new Map<string, PortGrid>();
  for (const { name, dtype } of [...model.graph.inputs, ...model.graph.outputs]) {
    const grid = parseGrid(model.metadata.get(PREFIX + name));
    if (grid && grid.dtype === dtype) grids.set(name, grid);
  }
  return grids;
}

function parseGrid(text: string | undefined): PortGrid | undefined {
  if (text === undefined) return undefined;
  let found: Partial<PortGrid> | null;
  try {
    found = JSON.parse(text) as Partial<PortGrid> | null;
  } catch {
    return undefined;
  }
  const { dtype, scale, zeroPoint } = found ?? {};
  if ((dtype !== "uint8" && dtype !== "int8") || typeof scale !== "number" || typeof zeroPoint !== "number")
    return undefined;
  return scale > 0 && Number.isFinite(scale) && Number.isInteger(zeroPoint) ? { dtype, scale, zeroPoint } : undefined;
}

/** q = clip(round(x/s) + z), ties to even as QuantizeLinear rounds them; codes pass as they are. NaN becomes the zero point. */
export function toCodes(array: NdArray, { dtype, scale, zeroPoint }: PortGrid): NdArray {
  if (array.dtype === dtype) return array;
  const numbers = asNumbers(array);
  const [low, high] = dtype === "uint8" ? [0, 255] : [-128, 127];
  const data = dtype === "uint8" ? new Uint8Array(numbers.length) : new Int8Array(numbers.length);
  for (let i = 0; i < numbers.length; i++) {
    const x = Math.fround((numbers[i] as number) / scale);
    data[i] = Math.max(low, Math.min(high, roundHalfEven(Number.isNaN(x) ? 0 : x) + zeroPoint));
  }
  return { dtype, shape: array.shape, data };
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

function fromCodes(array: NdArray, { scale, zeroPoint }: PortGrid): NdArray {
  const codes = asNumbers(array);
  return {
    dtype: "float32",
    shape: array.shape,
    data: Float32Array.from(codes, (code) => (code - zeroPoint) * scale),
  };
}

/** The session in floating point at ports that have a grid; the session itself where none has. */
export function withRealPorts(session: Session, grids: ReadonlyMap<string, PortGrid>): Session {
  return grids.size > 0 ? new RealSession(session, grids) : session;
}

/** Takes floats (or codes) and gives floats where the model has codes. Timing runs on codes that were made before. */
class RealSession implements Session {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly #inner: Session;
  readonly #grids: ReadonlyMap<string, PortGrid>;

  constructor(inner: Session, grids: ReadonlyMap<string, PortGrid>) {
    this.#inner = inner;
    this.#grids = grids;
    const real = (port: Port): Port => ({ ...port, dtype: grids.has(port.name) ? REAL : port.dtype });
    this.inputs = inner.inputs.map(real);
    this.outputs = inner.outputs.map(real);
  }

  async run(feeds: Feeds, fetches?: readonly string[], options?: RunOptions): Promise<Record<string, NdArray>> {
    return this.#convert(await this.#inner.run(this.#convert(feeds, toCodes), fetches, options), fromCodes);
  }

  time(feeds: Feeds, times: number): Promise<Float64Array> {
    return this.#inner.time(this.#convert(feeds, toCodes), times);
  }

  async resident(state: Feeds, links: Readonly<Record<string, string>>): Promise<Resident> {
    const inner = await this.#inner.resident(this.#convert(state, toCodes), links);
    return {
      step: async (feeds, fetches, options) =>
        this.#convert(await inner.step(this.#convert(feeds, toCodes), fetches, options), fromCodes),
      read: async (names) => this.#convert(await inner.read(names), fromCodes),
      write: (values) => inner.write(this.#convert(values, toCodes)),
    };
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  #convert(arrays: Feeds, by: (array: NdArray, grid: PortGrid) => NdArray): Record<string, NdArray> {
    const converted: Record<string, NdArray> = {};
    for (const [name, array] of Object.entries(arrays)) {
      const grid = this.#grids.get(name);
      converted[name] = grid ? by(array, grid) : array;
    }
    return converted;
  }
}

const REAL: DType = "float32";
