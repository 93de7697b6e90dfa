/** Operators that changed their meaning, defaults or name, one table for each opset in which some did. */
import { Tensor } from "../../ir/tensor.ts";
import { type Adapter, type AdapterTable, before, constantNumbers, finishWith, rankOf } from "./adapter.ts";

/** Attribute `spatial` went away (1 was the default); 0 has no successor. */
export const MEANING_9: AdapterTable = {
  BatchNormalization(node) {
    if (node.int("spatial", 1) !== 1) return "it normalizes every position for itself (spatial = 0)";
    node.attributes.delete("spatial");
    return undefined;
  },
  Upsample(node) {
    const scales = node.floats("scales");
    if (!scales) return "it has no attribute scales";
    node.attributes.delete("scales");
    node.setInput(1, before(node).constant("scales", Tensor.float32([scales.length], scales)));
    return undefined;
  },
  Scan: () => "its form of opset 8 has a batch axis that later forms lack",
};

/** Upsample became Resize; Dropout's mask became boolean. */
export const MEANING_10: AdapterTable = {
  Upsample(node) {
    node.opType = "Resize";
    return undefined;
  },
  Dropout(node) {
    const mask = node.outputs[1];
    if (mask && mask.uses.length > 0) return "its mask, which was a float and became a boolean, is used";
    return undefined;
  },
};

/** Resize says how coordinates map: what it did before is "asymmetric", rounding down when it enlarges, up when it shrinks. */
export const MEANING_11: AdapterTable = {
  Resize(node, context) {
    const scales = constantNumbers(node, 1, context);
    const mode = node.string("mode") ?? "nearest";
    const grows = scales?.every((scale) => scale >= 1);
    const shrinks = scales?.every((scale) => scale <= 1);
    if (mode === "nearest" && !grows && !shrinks)
      return "its scales are not known to all enlarge or all shrink, which decides how it rounds";
    const scalesInput = node.inputs[1];
    node.setInput(2, scalesInput);
    node.setInput(1, before(node).constant("roi", Tensor.float32([0], [])));
    setText(node, "coordinate_transformation_mode", "asymmetric");
    if (mode === "nearest") setText(node, "nearest_mode", grows ? "floor" : "ceil");
    return undefined;
  },
  Scatter(node) {
    node.opType = "ScatterElements";
    return undefined;
  },
};

function setText(node: Parameters<Adapter>[0], name: string, text: string): void {
  node.attributes.set(name, { type: "string", value: new TextEncoder().encode(text) });
}

/**
 * Softmax and its kin worked on the input flattened to two axes at `axis` (default 1) and now work on one axis (default
 * −1). On the last axis both are the same; elsewhere the input is flattened and its shape given back.
 */
const flattened: Adapter = (node, context) => {
  const axis = node.int("axis", 1);
  const rank = rankOf(node.inputs[0], context);
  const isLast = axis === -1 || (rank !== undefined && (axis + rank) % rank === rank - 1);
  node.attributes.set("axis", { type: "int", value: -1 });
  if (isLast) return undefined;
  const b = before(node);
  const [x] = node.inputs;
  const shape = b.op("Shape", [x]);
  node.setInput(0, b.op("Flatten", [x], { attributes: { axis } })); // (d0·…·d_{axis-1}, d_axis·…)
  finishWith(node, "Reshape", [shape]);
  return undefined;
};

export const MEANING_13: AdapterTable = {
  Softmax: flattened,
  LogSoftmax: flattened,
  Hardmax: flattened,
  Resize(node) {
    if (node.string("coordinate_transformation_mode") === "tf_half_pixel_for_nn")
      return "coordinate_transformation_mode tf_half_pixel_for_nn has no successor";
    return undefined;
  },
};

/** BatchNormalization lost the outputs that only training used. */
export const MEANING_14: AdapterTable = {
  BatchNormalization(node) {
    const used = node.outputs.slice(1).filter((output) => output.uses.length > 0 || node.graph?.isOutput(output));
    if (used.length > 0) return "its outputs for training are used";
    node.outputs.splice(1);
    return undefined;
  },
};

export const MEANING_16: AdapterTable = {
  RoiAlign(node) {
    if (!node.attributes.has("coordinate_transformation_mode"))
      setText(node, "coordinate_transformation_mode", "output_half_pixel");
    return undefined;
  },
};

export const MEANING_20: AdapterTable = {
  GridSample(node) {
    const mode = node.string("mode") ?? "bilinear";
    const renamed: Readonly<Record<string, string>> = { bilinear: "linear", bicubic: "cubic" };
    setText(node, "mode", renamed[mode] ?? mode);
    return undefined;
  },
};

/** Scale and bias of GroupNormalization have one element for each channel instead of each group: repeat them. */
export const MEANING_21: AdapterTable = {
  GroupNormalization(node) {
    const groups = node.int("num_groups");
    if (groups === undefined) return "it has no attribute num_groups";
    const b = before(node);
    const shape = b.op("Shape", [node.inputs[0]], { attributes: { start: 1, end: 2 } }); // (1): channels
    const each = b.op("Div", [shape, b.constant("groups", Tensor.int64([groups]))]);
    const target = b.op("Concat", [b.constant("one", Tensor.int64([1])), each], { attributes: { axis: 0 } });
    const last = b.constant("last", Tensor.int64([1]));
    const flat = b.constant("flat", Tensor.int64([-1]));
    for (const index of [1, 2]) {
      const column = b.op("Unsqueeze", [node.inputs[index], last]); // (groups, 1)
      const repeated = b.op("Expand", [column, target]); // (groups, channels / groups)
      node.setInput(index, b.op("Reshape", [repeated, flat])); // (channels)
    }
    return undefined;
  },
};
