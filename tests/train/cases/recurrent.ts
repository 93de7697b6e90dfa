/** Gradient cases of recurrent layers, against their lowered form in double precision. */
import { inferShapes } from "../../../src/analyse/shapes.ts";
import { floats, type AttributeInput } from "../../../src/ir/attribute.ts";
import type { Builder } from "../../../src/ir/builder.ts";
import type { Value } from "../../../src/ir/graph.ts";
import { Model } from "../../../src/ir/model.ts";
import { Tensor } from "../../../src/ir/tensor.ts";
import { knownContents } from "../../../src/analyse/known-contents.ts";
import { lowerNode } from "../../../src/ops/lower-node.ts";
import type { Argument, GradientCase } from "../gradient-check.ts";

/** The same function in its lowered form, which the operator cases hold equal to the original. */
export function lowered(build: GradientCase["build"], opType: string, opset = 21): GradientCase["build"] {
  return (b, inputs) => {
    const y = build(b, inputs);
    const model = new Model(b.graph, opset);
    model.opsets.set("com.microsoft", 1);
    inferShapes(model);
    for (const node of b.graph.nodes.filter((each) => each.opType === opType))
      lowerNode(b.graph, node, opset, knownContents(model));
    return y;
  };
}

interface Layer {
  readonly op: "LSTM" | "GRU" | "RNN";
  readonly direction?: "reverse" | "bidirectional";
  readonly lengths?: boolean;
  readonly peepholes?: boolean;
  readonly states?: boolean;
  readonly attributes?: Readonly<Record<string, AttributeInput>>;
}

const GATES = { LSTM: 4, GRU: 3, RNN: 1 };
const [T, B, I, H] = [3, 2, 2, 3];

function layer(
  name: string,
  { op, direction = undefined, lengths, peepholes, states, attributes = {} }: Layer,
): GradientCase {
  const d = direction === "bidirectional" ? 2 : 1;
  const rows = GATES[op] * H;
  const state: Argument = { shape: [d, B, H] };
  const inputs: Argument[] = [
    { shape: [T, B, I] },
    { shape: [d, rows, I] },
    { shape: [d, rows, H] },
    { shape: [d, 2 * rows] },
  ];
  if (states) inputs.push(state);
  if (states && op === "LSTM") inputs.push(state);
  if (peepholes) inputs.push({ shape: [d, 3 * H] });
  const build = (b: Builder, values: readonly Value[]): Value => {
    const rest = [...values];
    const [x, w, r, bias] = rest.splice(0, 4);
    const [h0, c0] = states ? rest.splice(0, op === "LSTM" ? 2 : 1) : [];
    const sizes = lengths ? b.constant("lengths", Tensor.of("int32", [B], Int32Array.of(T, 1))) : undefined;
    const parts = b.ops(op, [x, w, r, bias, sizes, h0, ...(op === "LSTM" ? [c0, rest[0]] : [])], {
      outputs: op === "LSTM" ? 3 : 2,
      attributes: { hidden_size: H, direction, ...attributes },
    });
    const flat = b.constant("flat", Tensor.int64([-1]));
    return b.op(
      "Concat",
      parts.map((part) => b.op("Reshape", [part, flat])),
      { attributes: { axis: 0 } },
    );
  };
  return { name: `${op} ${name}`, inputs, build, exact: lowered(build, op) };
}

const strings = (values: readonly string[]): AttributeInput => ({
  type: "strings",
  value: values.map((text) => new TextEncoder().encode(text)),
});

export const RECURRENT_CASES: readonly GradientCase[] = (["LSTM", "GRU", "RNN"] as const).flatMap((op) => [
  layer("forward", { op }),
  layer("backwards from a state", { op, direction: "reverse", states: true }),
  layer("both ways over sequences of different lengths", {
    op,
    direction: "bidirectional",
    lengths: true,
    states: true,
  }),
  ...(op === "LSTM"
    ? [
        layer("with peepholes", { op, peepholes: true }),
        layer("with coupled gates and other activations", {
          op,
          attributes: { input_forget: 1, activations: strings(["Sigmoid", "Sigmoid", "Tanh"]) },
        }),
      ]
    : []),
  ...(op === "GRU" ? [layer("linear before reset", { op, states: true, attributes: { linear_before_reset: 1 } })] : []),
  ...(op === "RNN"
    ? [
        layer("affine", {
          op,
          attributes: {
            activations: strings(["Affine"]),
            activation_alpha: floats([0.5]),
            activation_beta: floats([0.1]),
          },
        }),
      ]
    : []),
]);
