/** One layer's weights before and after compression, in numbers that a page can draw: grid, errors, ranges by channel. */

/** Weights as the layer reads them, channels along one axis. */
export interface LayerWeights {
  readonly values: Float32Array;
  readonly shape: readonly number[];
  /** Axis of the output channels. */
  readonly channelAxis: number;
}

/** Counts in equal bins from `low` to `high`. */
export interface Bins {
  readonly low: number;
  readonly high: number;
  readonly counts: readonly number[];
}

export interface ChannelView {
  readonly channel: number;
  readonly low: number;
  readonly high: number;
  /** Ends after compression. */
  readonly lowAfter: number;
  readonly highAfter: number;
  readonly sqnrDb: number;
  /** Different numbers among its weights after compression. */
  readonly levels: number;
}

export interface LayerView {
  readonly elements: number;
  readonly shape: readonly number[];
  /** 10·log10(Σw² / Σ(ŵ − w)²); Infinity when nothing changed. */
  readonly sqnrDb: number;
  /** ‖ŵ − w‖ / ‖w‖. */
  readonly relativeError: number;
  readonly maxAbsError: number;
  /** Σ(ŵ − w) / elements. */
  readonly meanError: number;
  readonly before: Bins;
  readonly after: Bins;
  readonly errors: Bins;
  readonly channels: readonly ChannelView[];
  /** The channel with the lowest SQNR: its weights, and the numbers that they became. */
  readonly closest: {
    readonly channel: number;
    readonly levels: readonly number[];
    readonly before: readonly number[];
    readonly after: readonly number[];
  };
  /** True where the compressed layer also multiplies each channel by a factor (a normalization folded into it); it is divided out. */
  readonly rescaled: boolean;
}

const BINS = 96;
/** Weights of one channel that are listed. */
const SHOWN = 512;
/** A channel's factor that is nearer to 1 is rounding, not a folded normalization. */
const FACTOR = 0.05;

/** Compares a layer's weights. Both must have the same shape. */
export function viewLayer(before: LayerWeights, after: LayerWeights): LayerView {
  const factors = channelFactors(before, after);
  const rescaled = factors.filter((factor) => Math.abs(factor - 1) > FACTOR).length > factors.length / 2;
  const channelOf = indexer(before);
  const w = rescaled ? before.values.map((value, i) => value * (factors[channelOf(i)] ?? 1)) : before.values;
  const q = after.values;
  const errors = q.map((value, i) => value - (w[i] as number));
  const count = before.shape[before.channelAxis] ?? 1;
  const members = Array.from({ length: count }, () => [] as number[]);
  for (let i = 0; i < w.length; i++) members[channelOf(i)]?.push(i);
  const channels = members.map((indices, channel): ChannelView => {
    const [own, made] = [indices.map((i) => w[i] as number), indices.map((i) => q[i] as number)];
    return {
      channel,
      ...ends(own),
      lowAfter: ends(made).low,
      highAfter: ends(made).high,
      sqnrDb: sqnr(
        own,
        indices.map((i) => errors[i] as number),
      ),
      levels: new Set(made).size,
    };
  });
  const worst = channels.reduce((a, b) => (b.sqnrDb < a.sqnrDb ? b : a), channels[0] as ChannelView).channel;
  const shown = (members[worst] ?? []).slice(0, SHOWN);
  const all = { low: Math.min(ends(w).low, ends(q).low), high: Math.max(ends(w).high, ends(q).high) };
  const most = Math.max(-ends(errors).low, ends(errors).high);
  const noise = sum(errors, (error) => error * error);
  const power = sum(w, (value) => value * value);
  return {
    elements: w.length,
    shape: before.shape,
    sqnrDb: sqnr(w, errors),
    relativeError: power > 0 ? Math.sqrt(noise / power) : 0,
    maxAbsError: most,
    meanError: sum(errors, (error) => error) / Math.max(1, errors.length),
    before: binsOf(w, all),
    after: binsOf(q, all),
    errors: binsOf(errors, { low: -most, high: most }),
    channels,
    closest: {
      channel: worst,
      levels: [...new Set((members[worst] ?? []).map((i) => q[i] as number))].sort((a, b) => a - b),
      before: shown.map((i) => w[i] as number),
      after: shown.map((i) => q[i] as number),
    },
    rescaled,
  };
}

/** Least-squares factor of each channel, Σwŵ / Σw². */
function channelFactors(before: LayerWeights, after: LayerWeights): number[] {
  const channelOf = indexer(before);
  const count = before.shape[before.channelAxis] ?? 1;
  const [products, squares] = [new Float64Array(count), new Float64Array(count)];
  for (const [i, value] of before.values.entries()) {
    const channel = channelOf(i);
    products[channel] = (products[channel] as number) + value * (after.values[i] as number);
    squares[channel] = (squares[channel] as number) + value * value;
  }
  return Array.from(products, (product, channel) => (squares[channel] ? product / (squares[channel] as number) : 1));
}

/** Channel of an element. */
function indexer({ shape, channelAxis }: LayerWeights): (index: number) => number {
  const inner = shape.slice(channelAxis + 1).reduce((product, size) => product * size, 1);
  const count = shape[channelAxis] ?? 1;
  return (index) => Math.floor(index / inner) % count;
}

function ends(values: ArrayLike<number>): { low: number; high: number } {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let i = 0; i < values.length; i++) {
    low = Math.min(low, values[i] as number);
    high = Math.max(high, values[i] as number);
  }
  return values.length > 0 ? { low, high } : { low: 0, high: 0 };
}

function sum(values: ArrayLike<number>, of: (value: number) => number): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += of(values[i] as number);
  return total;
}

function sqnr(signal: ArrayLike<number>, errors: ArrayLike<number>): number {
  const noise = sum(errors, (error) => error * error);
  const power = sum(signal, (value) => value * value);
  return noise === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(power / noise);
}

function binsOf(values: ArrayLike<number>, { low, high }: { low: number; high: number }): Bins {
  const counts = Array.from({ length: BINS }, () => 0);
  const width = (high - low) / BINS || 1;
  for (let i = 0; i < values.length; i++) {
    const bin = Math.max(0, Math.min(BINS - 1, Math.floor(((values[i] as number) - low) / width)));
    counts[bin] = (counts[bin] as number) + 1;
  }
  return { low, high, counts };
}
