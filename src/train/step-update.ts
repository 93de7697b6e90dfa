/** The second half of a step graph: gradients become the next weights. Accumulation, clipping, optimizer, masks, averages. */
import { elementCount } from "../base/shape.ts";
import type { Value } from "../ir/graph.ts";
import { Tensor } from "../ir/tensor.ts";
import { add, div, mul, reshape, scalar, scale, type Site, sub } from "../ops/gradients/words.ts";
import type { Optimizer, Parameter } from "./optimizers/optimizer.ts";
import type { Projection } from "./projections.ts";
import type { RewiredState } from "./rewiring.ts";
import { shrink, type Shrinkage } from "./shrinkage.ts";
import type { StepState } from "./step-state.ts";

/** What a group of parameters has of its own. */
export interface ParameterGroup {
  /** Factor on the learning rate; default 1. */
  readonly rate?: number | undefined;
  /** Default: the run's for matrices and kernels, 0 for biases and normalization. */
  readonly weightDecay?: number | undefined;
}

export interface UpdateOptions {
  /** Weight decay of matrices and kernels (biases and normalization parameters are not decayed); default 0. */
  readonly weightDecay?: number | undefined;
  /** Rates and decays that differ, by the parameter's name. */
  readonly groupOf?: ((name: string) => ParameterGroup | undefined) | undefined;
  /** Gradients are scaled down so that the norm of all together is at most this. */
  readonly clipNorm?: number | undefined;
  /** Every element of a gradient is cut to ± this. */
  readonly clipValue?: number | undefined;
  /** Gradients of so many runs are averaged before a step is made; default 1. */
  readonly accumulate?: number | undefined;
  /** Keeps an exponential moving average of the weights, of this share of the old one per step (0.999). */
  readonly averaging?: number | undefined;
  /** Weights that stay zero where their mask (bool) is false, by name: they are set to it after every step. */
  readonly masks?: ReadonlyMap<string, Tensor> | undefined;
  /** Masks that may change between steps, by name of the weight: 1 where it may be, else 0, as float32; the gradient is kept, too. */
  readonly rewired?: ReadonlyMap<string, Tensor> | undefined;
  /** Keeps −Σ w·∂L/∂w over the steps for each trained weight, from the weights that the step begins with; default false. */
  readonly movements?: boolean | undefined;
  /** Applied after the optimizer, in order, then the mask. */
  readonly projections?: readonly Projection[] | undefined;
  /** A penalty whose proximal step follows the projections. */
  readonly shrinkage?: Shrinkage | undefined;
}

/** A scale of the loss that adapts: halved when a gradient overflows (that step is skipped), doubled after calm steps. */
export interface LossScale {
  /** The scale that the loss was multiplied with. */
  readonly value: Value;
  readonly calm: Value;
  readonly skipped: Value;
}

const FIRST_LOSS_SCALE = 2 ** 16;
const CALM_STEPS = 2000; // steps without overflow after which the scale doubles (Micikevicius et al. 2018)
const LARGEST = 3e38; // what float32 can hold; the sum of squares of an overflowed gradient is larger or not a number

/** Adds the state of a loss scale. */
export function lossScaleState(state: StepState): LossScale {
  return {
    value: state.add("loss_scale", [], Tensor.float32([], [FIRST_LOSS_SCALE])),
    calm: state.add("calm_steps", []),
    skipped: state.add("skipped_steps", []),
  };
}

/** Inputs of the update that are fed at every run, besides the optimizer's scalars. */
export interface UpdatePorts {
  /** bool: this run begins a new sum of gradients. */
  readonly begins: Value | undefined;
  /** bool: this run makes a step. */
  readonly steps: Value | undefined;
  /** Share of the old average that is kept. */
  readonly averageKeep: Value | undefined;
  /** Rate of the step times the strength of the penalty. */
  readonly shrink: Value | undefined;
}

export interface Updates {
  readonly ports: UpdatePorts;
  readonly trained: readonly Value[];
  /** Trained weight to the state that holds its moving average, and to the one that holds its movement. */
  readonly averages: ReadonlyMap<string, string>;
  readonly movements: ReadonlyMap<string, string>;
  readonly rewired: ReadonlyMap<string, RewiredState>;
}

/**
 * Adds the update of every parameter that has a gradient, and links its state. Returns the names of the inputs that it
 * needs, the parameters that it trains, and the states that hold the average and the movement of each.
 */
export function addUpdates(
  s: Site,
  parts: {
    readonly state: StepState;
    readonly optimizer: Optimizer;
    readonly scalars: Readonly<Record<string, Value>>;
    readonly parameters: readonly Value[];
    readonly gradients: ReadonlyMap<Value, Value>;
    readonly lossScale: LossScale | undefined;
    readonly options: UpdateOptions;
  },
): Updates {
  const { state, optimizer, parameters, lossScale, options } = parts;
  const { b } = s;
  const trained = parameters.filter((weight) => parts.gradients.has(weight));
  let gradients = trained.map((weight) => parts.gradients.get(weight) as Value);
  const runs = options.accumulate ?? 1;
  const begins = runs > 1 ? b.input("begins", "bool", []) : undefined;
  const steps = runs > 1 ? b.input("steps", "bool", []) : undefined;
  if (begins)
    gradients = gradients.map((gradient, i) => {
      const weight = trained[i] as Value;
      const sum = state.add(`${weight.name}/sum`, weight.shape as readonly number[]);
      const next = b.op("Where", [begins, gradient, add(s, sum, gradient)]);
      state.link(sum, next);
      return next;
    });
  gradients = unscaled(s, gradients, runs, lossScale);
  const squares = lossScale || options.clipNorm !== undefined ? sumOfSquares(s, gradients) : undefined;
  const finite = lossScale && b.op("Less", [squares as Value, scalar(s, "float32", LARGEST)]);
  const go = finite && steps ? b.op("And", [finite, steps]) : (finite ?? steps);
  gradients = clipped(s, gradients, squares, options);

  const averageKeep = options.averaging === undefined ? undefined : b.input("average_keep", "float32", []);
  const amount = options.shrinkage && b.input("shrink", "float32", []);
  const averages = new Map<string, string>();
  const movements = new Map<string, string>();
  const rewired = new Map<string, RewiredState>();
  const update = (input: Value, next: Value): void => state.link(input, go ? b.op("Where", [go, next, input]) : next);
  const nexts = new Map<string, Value>();
  const masks = new Map<string, Value>();
  for (const [i, weight] of trained.entries()) {
    const shape = weight.shape as readonly number[];
    const group = options.groupOf?.(weight.name);
    const slots = optimizer.slots.map((slot) => state.add(`${weight.name}/${slot}`, shape));
    const weightDecay = group?.weightDecay ?? (shape.length >= 2 ? (options.weightDecay ?? 0) : 0);
    const gradient = gradients[i] as Value;
    if (options.movements === true) {
      const movement = state.add(`${weight.name}/movement`, shape);
      movements.set(weight.name, movement.name);
      update(movement, sub(s, movement, mul(s, weight, gradient)));
    }
    const scalars = groupScalars(s, optimizer, parts.scalars, group?.rate ?? 1);
    const result = updated(s, optimizer, { weight, gradient, slots, weightDecay }, scalars);
    let next = result.weight;
    for (const projection of options.projections ?? [])
      if (projection.matches(weight.name)) {
        [next.dtype, next.shape] = ["float32", shape];
        next = projection.project(s, next);
      }
    [next.dtype, next.shape] = ["float32", shape];
    nexts.set(weight.name, next);
    for (const [k, slot] of slots.entries()) update(slot, result.slots[k] as Value);
    const places = options.rewired?.get(weight.name);
    if (places) {
      const mask = state.add(`${weight.name}/mask`, shape, places);
      const last = state.add(`${weight.name}/gradient`, shape);
      update(last, gradient);
      rewired.set(weight.name, { mask: mask.name, gradient: last.name, slots: slots.map(({ name }) => name) });
      masks.set(weight.name, b.op("Greater", [mask, scalar(s, "float32", 0.5)]));
    }
  }
  const shrunk = options.shrinkage && amount ? shrink(s, options.shrinkage, amount, nexts) : nexts;
  for (const weight of trained) {
    const shape = weight.shape as readonly number[];
    let next = shrunk.get(weight.name) as Value;
    const fixed = options.masks?.get(weight.name);
    const mask = masks.get(weight.name) ?? (fixed && b.constant("mask", fixed));
    // w ← mask ? w : 0 keeps pruned weights at (positive) zero exactly, whatever the step was
    if (mask) next = b.op("Where", [mask, next, scalar(s, "float32", 0)]);
    if (averageKeep) {
      const average = state.add(`${weight.name}/average`, shape, state.first(weight));
      averages.set(weight.name, average.name);
      // a ← d·a + (1 − d)·w = w + d·(a − w)
      update(average, add(s, next, mul(s, sub(s, average, next), averageKeep)));
    }
    update(weight, next);
  }
  if (lossScale && finite) moveLossScale(s, state, lossScale, finite, steps);
  return { ports: { begins, steps, averageKeep, shrink: amount }, trained, averages, movements, rewired };
}

/**
 * The optimizer's update of one weight. A last axis of one element makes the engine multiply by a scalar element by element,
 * thirty times as slowly: such weights are updated as vectors.
 */
function updated(
  s: Site,
  optimizer: Optimizer,
  parameter: Parameter,
  scalars: Readonly<Record<string, Value>>,
): ReturnType<Optimizer["update"]> {
  const shape = parameter.weight.shape as readonly number[];
  if (shape.at(-1) !== 1 || shape.length < 2) return optimizer.update(s, parameter, scalars);
  const flat = (value: Value): Value => {
    const vector = reshape(s, value, [-1]);
    [vector.dtype, vector.shape] = ["float32", [elementCount(shape)]];
    return vector;
  };
  const { weight, gradient, slots, weightDecay } = parameter;
  const vectors = { weight: flat(weight), gradient: flat(gradient), slots: slots.map(flat), weightDecay };
  const result = optimizer.update(s, vectors, scalars);
  return { weight: reshape(s, result.weight, shape), slots: result.slots.map((slot) => reshape(s, slot, shape)) };
}

/** Gradients of the mean loss: sums over runs divided by their number, the loss's scale taken out. */
function unscaled(s: Site, gradients: readonly Value[], runs: number, lossScale: LossScale | undefined): Value[] {
  if (!lossScale) return gradients.map((gradient) => scale(s, gradient, 1 / runs, "float32"));
  const factor = div(s, scalar(s, "float32", 1 / runs), lossScale.value);
  return gradients.map((gradient) => mul(s, gradient, factor));
}

/** Σ g² over all gradients. */
function sumOfSquares(s: Site, gradients: readonly Value[]): Value {
  const parts = gradients.map((gradient) => s.b.op("ReduceSumSquare", [gradient], { attributes: { keepdims: 0 } }));
  return parts.length === 1 ? (parts[0] as Value) : s.b.op("Sum", parts);
}

/** g·c/max(‖g‖, c), ‖g‖ over all gradients (Pascanu et al. 2013); then each element cut to ± v. */
function clipped(
  s: Site,
  gradients: readonly Value[],
  squares: Value | undefined,
  { clipNorm, clipValue }: UpdateOptions,
): Value[] {
  let result = [...gradients];
  if (clipNorm !== undefined && squares) {
    const limit = scalar(s, "float32", clipNorm);
    const factor = div(s, limit, s.b.op("Max", [s.b.op("Sqrt", [squares]), limit]));
    result = result.map((gradient) => mul(s, gradient, factor));
  }
  if (clipValue !== undefined) {
    const [low, high] = [scalar(s, "float32", -clipValue), scalar(s, "float32", clipValue)];
    result = result.map((gradient) => s.b.op("Min", [s.b.op("Max", [gradient, low]), high]));
  }
  return result;
}

/** The optimizer's scalars with the rates of a group. */
function groupScalars(
  s: Site,
  optimizer: Optimizer,
  scalars: Readonly<Record<string, Value>>,
  factor: number,
): Readonly<Record<string, Value>> {
  if (factor === 1) return scalars;
  return Object.fromEntries(
    Object.entries(scalars).map(([name, value]) => [
      name,
      optimizer.rates.includes(name) ? scale(s, value, factor, "float32") : value,
    ]),
  );
}

/** S ← S/2 on overflow, 2S after so many calm steps; nothing moves in a run that makes no step. */
function moveLossScale(s: Site, state: StepState, at: LossScale, finite: Value, steps: Value | undefined): void {
  const number = (value: number): Value => scalar(s, "float32", value);
  const where = (condition: Value, yes: Value, no: Value): Value => s.b.op("Where", [condition, yes, no]);
  const calm = where(finite, add(s, at.calm, number(1)), number(0));
  const grows = s.b.op("Greater", [calm, number(CALM_STEPS - 0.5)]);
  const moved = where(
    finite,
    where(grows, scale(s, at.value, 2, "float32"), at.value),
    scale(s, at.value, 0.5, "float32"),
  );
  const skipped = where(finite, at.skipped, add(s, at.skipped, number(1)));
  const update = (input: Value, next: Value): void => state.link(input, steps ? where(steps, next, input) : next);
  update(at.value, moved);
  update(at.calm, where(grows, number(0), calm));
  update(at.skipped, skipped);
}
