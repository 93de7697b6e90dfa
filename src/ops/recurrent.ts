/** Recurrent layers: LSTM, GRU and RNN. */
import { type OpTable, count, dtypeOf, shapeOf } from "./helpers.ts";
import { lowerGru, lowerLstm, lowerRnn } from "./lowered/recurrent.ts";
import { narrowAttribute } from "./narrow.ts";
import type { Cost, Infer, Lower, OpSpec, Weight } from "./spec.ts";

/** x (t, b, i) gives y (t, d, b, h), y_h (d, b, h) and, for LSTM, y_c (d, b, h); with `layout` 1 the batch comes first. */
const infer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const x = shapeOf(context, 0);
  const batchFirst = context.node.int("layout", 0) === 1;
  const [time, batch] = batchFirst ? [x?.[1] ?? null, x?.[0] ?? null] : [x?.[0] ?? null, x?.[1] ?? null];
  const directions = (context.node.string("direction") ?? "forward") === "bidirectional" ? 2 : 1;
  const hidden = context.node.int("hidden_size") ?? shapeOf(context, 2)?.[2] ?? null;
  const state = batchFirst ? [batch, directions, hidden] : [directions, batch, hidden];
  const y = batchFirst ? [batch, time, directions, hidden] : [time, directions, batch, hidden];
  return [
    { dtype, shape: y },
    { dtype, shape: state },
    { dtype, shape: state },
  ];
};

/** MACs: t·b·(elements of W and R of all directions). The rest is the gates' elementwise work. */
const cost: Cost = ({ node, inputs }) => {
  const [x, w, r] = inputs;
  const layout = node.int("layout", 0);
  const steps = x?.[layout] ?? 0;
  const batch = x?.[1 - layout] ?? 0;
  const gates = w ? (w[0] ?? 1) * (w[1] ?? 0) : 0;
  return { macs: steps * batch * (count(w) + count(r)), flops: steps * batch * gates * 4 };
};

/** W (d, gates·h, i), R (d, gates·h, h), B (d, 2·gates·h), initial states, peepholes. */
const weights: readonly Weight[] = [
  { input: 1, role: "kernel", channelAxis: 1, reductionAxis: 2 },
  { input: 2, role: "kernel", channelAxis: 1, reductionAxis: 2 },
  { input: 3, role: "bias", channelAxis: 1 },
];

/**
 * A unit has a row in each gate of W and R, a column of R, biases for both and (LSTM) peepholes: `gates` of them. States and
 * results carry it too.
 */
function axes(states: number, gates: number): OpSpec["axes"] {
  return (node) => {
    const batchFirst = node.int("layout", 0) === 1;
    const state = batchFirst ? "b d h" : "d b h";
    const initial = Array.from({ length: states }, () => state).join(", ");
    const peepholes = states === 2 ? ", d (p:3# h)" : "";
    const [x, y] = batchFirst ? ["b t i", "b t d h"] : ["t b i", "t d b h"];
    const w = `d# (g:${gates}# h)`;
    return `${x}, ${w} i, ${w} h, d (e:${2 * gates}# h), b, ${initial}${peepholes} -> ${y}, ${initial}`;
  };
}

function recurrentOf(states: number, gates: number): OpSpec {
  return {
    since: 7,
    infer,
    cost,
    axes: axes(states, gates),
    weights,
    grad: "none",
    narrow: narrowAttribute("hidden_size", 2, 2),
    traits: { linear: "recurrent" },
  };
}

function lowered(record: OpSpec, lower: Lower): OpSpec {
  return { ...record, grad: "lower", lower };
}

export const recurrent: OpTable = {
  LSTM: lowered(recurrentOf(2, 4), lowerLstm),
  GRU: lowered(recurrentOf(1, 3), lowerGru),
  RNN: lowered(recurrentOf(1, 1), lowerRnn),
  /** Weights are stored transposed (d, i, gates·h), quantized per direction or channel. */
  "com.microsoft::DynamicQuantizeLSTM": {
    ...recurrentOf(2, 4),
    since: 1,
    axes: "opaque",
    weights: [
      { input: 1, role: "kernel", channelAxis: 2, reductionAxis: 1 },
      { input: 2, role: "kernel", channelAxis: 2, reductionAxis: 1 },
      { input: 3, role: "bias", channelAxis: 1 },
    ],
  },
};
