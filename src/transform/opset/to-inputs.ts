/** Operators whose attributes became inputs, one table for each opset in which some did. */
import { Tensor } from "../../ir/tensor.ts";
import { type Adapter, type AdapterTable, before, intsTensor, intsToInput, rankOf, scalarLike } from "./adapter.ts";

const axesToInput: Adapter = (node) => {
  intsToInput(node, "axes", 1);
  return undefined;
};

/** TopK takes k as an input; Slice takes starts, ends and axes. */
export const TO_INPUTS_10: AdapterTable = {
  TopK(node) {
    const k = node.int("k");
    if (k === undefined) return "it has no attribute k";
    node.attributes.delete("k");
    node.setInput(1, before(node).constant("k", Tensor.int64([k])));
    return undefined;
  },
  Slice(node) {
    const starts = intsTensor(node, "starts");
    const ends = intsTensor(node, "ends");
    if (!starts || !ends) return "it has no attributes starts and ends";
    const axes = intsTensor(node, "axes") ?? Tensor.int64(Array.from({ length: starts.elements }, (_, axis) => axis));
    for (const name of ["starts", "ends", "axes"]) node.attributes.delete(name);
    const b = before(node);
    for (const [i, [name, values]] of Object.entries({ starts, ends, axes }).entries())
      node.setInput(i + 1, b.constant(name, values));
    return undefined;
  },
};

/** Clip takes its bounds as inputs, Pad its widths and value. */
export const TO_INPUTS_11: AdapterTable = {
  Clip(node, context) {
    const bounds = ["min", "max"].map((name) => {
      const bound = node.float(name);
      return bound === undefined ? undefined : { value: scalarLike(node, name, bound, context) };
    });
    if (bounds.some((bound) => bound && !bound.value)) return "the element type of its input is not known";
    for (const [i, name] of ["min", "max"].entries()) {
      node.attributes.delete(name);
      if (bounds[i]) node.setInput(i + 1, bounds[i].value);
    }
    return undefined;
  },
  Pad(node, context) {
    const pads = intsTensor(node, "pads");
    if (!pads) return "it has no attribute pads";
    const mode = node.string("mode") ?? "constant";
    const value = node.float("value", 0);
    const b = before(node);
    const constant = mode === "constant" && value !== 0 ? scalarLike(node, "value", value, context) : undefined;
    if (mode === "constant" && value !== 0 && !constant) return "the element type of its input is not known";
    for (const name of ["pads", "value"]) node.attributes.delete(name);
    node.setInput(1, b.constant("pads", pads));
    if (constant) node.setInput(2, constant);
    return undefined;
  },
};

/** Dropout takes its ratio as an input; without `training_mode` it stays the identity that it was. */
export const TO_INPUTS_12: AdapterTable = {
  Dropout(node) {
    const ratio = node.float("ratio");
    node.attributes.delete("ratio");
    if (ratio !== undefined) node.setInput(1, before(node).constant("ratio", Tensor.float32([], [ratio])));
    return undefined;
  },
};

export const TO_INPUTS_13: AdapterTable = {
  Squeeze: axesToInput,
  Unsqueeze: axesToInput,
  ReduceSum: axesToInput,
  Split(node) {
    intsToInput(node, "split", 1);
    return undefined;
  },
};

/** The other reductions follow; Split without sizes must say into how many parts. */
export const TO_INPUTS_18: AdapterTable = {
  ...Object.fromEntries(
    ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"].map((kind) => [
      `Reduce${kind}`,
      axesToInput,
    ]),
  ),
  Split(node) {
    if (!node.inputs[1]) node.attributes.set("num_outputs", { type: "int", value: node.outputs.length });
    return undefined;
  },
};

export const TO_INPUTS_20: AdapterTable = {
  DFT(node, context) {
    const axis = node.int("axis", 1);
    node.attributes.delete("axis");
    if (rankOf(node.inputs[0], context) === undefined && axis < 0) return "the rank of its input is not known";
    node.setInput(2, before(node).constant("axis", Tensor.int64([axis], [])));
    return undefined;
  },
};
