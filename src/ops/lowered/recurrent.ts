/** LSTM, GRU and RNN as plain operators: one product projects all inputs, then one small graph per step. */
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import {
  add,
  constantArray,
  ints,
  mul,
  reshape,
  scalar,
  shapeOf,
  slice,
  sub,
  transpose,
  unsqueeze,
} from "../gradients/words.ts";
import type { Lower, RuleContext } from "../spec.ts";
import { type Activation, activationsOf } from "./recurrent-activations.ts";
import { concat, splitEqually, splitSizes } from "./words.ts";

/** One direction of a layer: its parameters, shapes (gates·h, …). */
interface Direction {
  readonly r: Value; // (g·h, h)
  readonly bw: Value | undefined; // (g·h)
  readonly br: Value | undefined;
  readonly peephole: Value | undefined; // (3·h)
  readonly activations: readonly Activation[];
  readonly hidden: number;
}

/** Hidden and, for LSTM, cell state (b, h). */
interface State {
  readonly h: Value;
  readonly c: Value | undefined;
}

interface Cell {
  readonly gates: number;
  /** Activations of one direction where the node names none. */
  readonly activations: readonly string[];
  /** True if the recurrent bias is not simply added to the input's. */
  apart(c: RuleContext): boolean;
  /** The next state from the step's projection (b, g·h). */
  step(c: RuleContext, d: Direction, x: Value, state: State): State;
}

/** a·bᵀ + c: (m, k), (n, k) and (m, n) or (n) give (m, n). */
function product(c: RuleContext, a: Value, b: Value, bias: Value | undefined): Value {
  if (bias || c.opset >= 11) return c.b.op("Gemm", [a, b, bias], { attributes: { transB: 1 } });
  return c.b.op("MatMul", [a, transpose(c, b, [1, 0])]);
}

function clipped(c: RuleContext, x: Value): Value {
  const clip = c.node.float("clip", 0);
  if (clip <= 0) return x;
  const bounds = [-clip, clip].map((value) => scalar(c, c.node.inputs[0]?.dtype, value));
  return c.opset >= 11 ? c.b.op("Clip", [x, ...bounds]) : c.b.op("Min", [c.b.op("Max", [x, bounds[0]]), bounds[1]]);
}

const lstmCell: Cell = {
  gates: 4,
  activations: ["Sigmoid", "Tanh", "Tanh"],
  apart: () => false,
  // i = f(x·Wᵢ + h·Rᵢ + pᵢ⊙c), likewise the forget gate; c' = forget⊙c + i⊙g(x·W_c + h·R_c); o = f(… + pₒ⊙c'); h' = o⊙h(c')
  step(c, d, x, { h, c: cell }) {
    const before = cell as Value;
    const [f, g, out] = d.activations as readonly [Activation, Activation, Activation];
    const n = d.hidden;
    const all = product(c, h, d.r, x); // (b, 4h): input, output, forget, cell
    const coupled = c.node.int("input_forget", 0) !== 0;
    let [input, output, forget, candidate]: (Value | undefined)[] = [];
    const [pi, po, pf] = d.peephole ? splitSizes(c, d.peephole, 0, [n, n, n]) : [];
    if (pi && po && pf) {
      [input, output, forget, candidate] = splitSizes(c, all, 1, [n, n, n, n]) as [Value, Value, Value, Value];
      input = f(c, clipped(c, add(c, input, mul(c, pi, before))));
      forget = f(c, clipped(c, add(c, forget, mul(c, pf, before))));
      candidate = clipped(c, candidate);
    } else {
      const [gates, rest] = splitSizes(c, clipped(c, all), 1, [3 * n, n]) as [Value, Value];
      [input, output, forget] = splitSizes(c, f(c, gates), 1, [n, n, n]);
      candidate = rest;
    }
    if (coupled) forget = sub(c, scalar(c, c.node.inputs[0]?.dtype, 1), input as Value);
    const next = add(c, mul(c, forget as Value, before), mul(c, input as Value, g(c, candidate)));
    if (po) output = f(c, clipped(c, add(c, output as Value, mul(c, po, next))));
    return { h: mul(c, output as Value, out(c, next)), c: next };
  },
};

const gruCell: Cell = {
  gates: 3,
  activations: ["Sigmoid", "Tanh"],
  apart: (c) => c.node.int("linear_before_reset", 0) !== 0,
  // z, r = f(x·W + h·R); h̃ = g(x·W_h + (r⊙h)·R_h), or g(x·W_h + r⊙(h·R_h + b)) with linear_before_reset; h' = (1 − z)⊙h̃ + z⊙h
  step(c, d, x, { h }) {
    const [f, g] = d.activations as readonly [Activation, Activation];
    const n = d.hidden;
    const [xGates, xNew] = splitSizes(c, x, 1, [2 * n, n]) as [Value, Value];
    let z: Value;
    let fresh: Value;
    if (gruCell.apart(c)) {
      const all = product(c, h, d.r, d.br);
      const [gates, rest] = splitSizes(c, all, 1, [2 * n, n]) as [Value, Value];
      const [update, reset] = splitEqually(c, f(c, clipped(c, add(c, xGates, gates))), 1, 2) as [Value, Value];
      z = update;
      fresh = add(c, xNew, mul(c, reset, rest));
    } else {
      const [rGates, rNew] = splitSizes(c, d.r, 0, [2 * n, n]) as [Value, Value];
      const gates = f(c, clipped(c, product(c, h, rGates, xGates)));
      const [update, reset] = splitEqually(c, gates, 1, 2) as [Value, Value];
      z = update;
      fresh = product(c, mul(c, reset, h), rNew, xNew);
    }
    const candidate = g(c, clipped(c, fresh));
    return { h: add(c, candidate, mul(c, z, sub(c, h, candidate))), c: undefined };
  },
};

const rnnCell: Cell = {
  gates: 1,
  activations: ["Tanh"],
  apart: () => false,
  // h' = f(x·W + h·R)
  step(c, d, x, { h }) {
    const [f] = d.activations as readonly [Activation];
    return { h: f(c, clipped(c, product(c, h, d.r, x))), c: undefined };
  },
};

/** The lowering of a layer: x (t, b, i), W (d, g·h, i), R (d, g·h, h), B (d, 2·g·h), lengths (b), h₀, c₀ (d, b, h), P (d, 3·h). */
function lowering(cell: Cell): Lower {
  return (c) => {
    const { node } = c;
    const [given, w, r, bias, lengths, h0, c0, peepholes] = node.inputs as readonly (Value | undefined)[];
    const batchFirst = node.int("layout", 0) === 1;
    const front = (value: Value): Value => (batchFirst ? transpose(c, value, [1, 0, 2]) : value);
    const shape = given?.shape;
    const steps = batchFirst ? shape?.[1] : shape?.[0];
    const batch = batchFirst ? shape?.[0] : shape?.[1];
    const [directions, rows, hidden] = r?.shape ?? [];
    const inputs = w?.shape?.[2];
    if (!given || !w || !r || ![steps, directions, rows, hidden, inputs].every((size) => typeof size === "number"))
      throw new PareError(
        "not-differentiable",
        `The length of the sequence '${given?.name ?? ""}' must be known here`,
        {
          where: `node '${node.name}' (${node.opType})`,
          found: `shape [${shape?.join(", ") ?? "unknown"}]`,
          help: "Give the inputs fixed sizes",
        },
      );
    const [count, d, n, width] = [steps, directions, hidden, inputs] as [number, number, number, number];
    const size = cell.gates * n;
    const x = front(given);
    const flat = reshape(c, x, [-1, width]); // (t·b, i)
    const part = (value: Value, i: number, sizes: readonly number[]): Value =>
      reshape(c, d === 1 ? value : slice(c, value, [0], [i], [i + 1]), sizes);
    const zero = (): Value => zeroState(c, x, batch, n);
    const column = lengths && unsqueeze(c, lengths, [1]); // (b, 1)
    const all = activationsOf(node, cell.activations, d);
    const direction = node.string("direction") ?? "forward";
    const sequences: Value[] = [];
    const last: State[] = [];
    for (let i = 0; i < d; i++) {
      const biases = bias && splitSizes(c, part(bias, i, [2 * size]), 0, [size, size]);
      const [bw, br] = biases ?? [];
      const own: Direction = {
        r: part(r, i, [size, n]),
        bw,
        br,
        peephole: peepholes && part(peepholes, i, [3 * n]),
        activations: all[i] ?? [],
        hidden: n,
      };
      const shift = bw && br && !cell.apart(c) ? add(c, bw, br) : bw;
      const projected = splitEqually(c, product(c, flat, part(w, i, [size, width]), shift), 0, count); // t × (b, g·h)
      let state: State = {
        h: h0 ? part(front(h0), i, [-1, n]) : zero(),
        c: cell.gates === 4 ? (c0 ? part(front(c0), i, [-1, n]) : zero()) : undefined,
      };
      const backwards = direction === "reverse" || i === 1;
      const outputs: Value[] = [];
      for (let at = 0; at < count; at++) {
        const t = backwards ? count - 1 - at : at;
        let next = cell.step(c, own, projected[t] as Value, state);
        outputs[t] = next.h;
        if (column) {
          const inside = c.b.op("Greater", [column, c.b.constant("step", Tensor.of("int32", [], Int32Array.of(t)))]);
          const keep = (fresh: Value, old: Value): Value => c.b.op("Where", [inside, fresh, old]);
          outputs[t] = keep(next.h, scalar(c, given.dtype, 0));
          next = { h: keep(next.h, state.h), c: next.c && state.c && keep(next.c, state.c) };
        }
        state = next;
      }
      sequences.push(reshape(c, concat(c, outputs, 0), [count, 1, -1, n]));
      last.push(state);
    }
    const ends = (values: readonly (Value | undefined)[]): Value => {
      const stacked = concat(
        c,
        values.map((value) => reshape(c, value as Value, [1, -1, n])),
        0,
      );
      return front(stacked);
    };
    const y = concat(c, sequences, 1); // (t, d, b, h)
    return [
      batchFirst ? transpose(c, y, [2, 0, 1, 3]) : y,
      ends(last.map((state) => state.h)),
      ...(cell.gates === 4 ? [ends(last.map((state) => state.c))] : []),
    ].slice(0, node.outputs.length);
  };
}

/** Zeros (b, h), b as in x (t, b, i). */
function zeroState(c: RuleContext, x: Value, batch: unknown, hidden: number): Value {
  if (typeof batch === "number")
    return constantArray(c, c.node.inputs[0]?.dtype, [batch, hidden], new Float32Array(batch * hidden));
  const size = c.b.op("Concat", [slice(c, shapeOf(c, x), [0], [1], [2]), ints(c, [hidden])], {
    attributes: { axis: 0 },
  });
  return c.b.op("Expand", [scalar(c, c.node.inputs[0]?.dtype, 0), size]);
}

export const lowerLstm: Lower = lowering(lstmCell);
export const lowerGru: Lower = lowering(gruCell);
export const lowerRnn: Lower = lowering(rnnCell);
