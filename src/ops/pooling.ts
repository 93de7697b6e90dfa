/** Pooling over windows and over whole feature maps. */
import type { Dim } from "../base/shape.ts";
import { slideSize, windowOf } from "./conv.ts";
import {
  averagePoolGrad,
  globalAveragePoolGrad,
  globalLpPoolGrad,
  globalMaxPoolGrad,
  lpPoolGrad,
  maxPoolGrad,
  maxUnpoolGrad,
} from "./gradients/pooling.ts";
import {
  FREE,
  type OpTable,
  type Shape,
  contentsOf,
  count,
  dtypeOf,
  perInput,
  shapeOf,
  unknownShape,
} from "./helpers.ts";
import type { Infer, InferContext, OpSpec, Traits } from "./spec.ts";
import { add, multiply, subtract } from "./symbolic.ts";

function poolShape(context: InferContext): Shape | undefined {
  const x = shapeOf(context, 0);
  const kernel = context.node.ints("kernel_shape");
  if (!x || !kernel) return undefined;
  const window = windowOf(context.node, x.length - 2, kernel);
  const ceil = context.node.int("ceil_mode", 0) !== 0;
  const sizes = x.slice(2).map((size, axis): Dim => slideSize(size, window, axis, ceil));
  return [x[0] ?? null, x[1] ?? null, ...sizes];
}

function pool(since: number, traits: Traits, infer?: Infer): OpSpec {
  return {
    since,
    infer: infer ?? ((context) => [{ dtype: dtypeOf(context, 0), shape: poolShape(context) }]),
    cost: ({ node, outputs }) => ({
      macs: 0,
      flops: count(outputs[0]) * (node.ints("kernel_shape") ?? []).reduce((a, b) => a * b, 1),
    }),
    axes: "n c *s -> n c *z, n c *z",
    grad: "none",
    traits,
  };
}

/** The largest elements and, where asked, their int64 positions. */
const maxInfer: Infer = (context) => {
  const shape = poolShape(context);
  return [
    { dtype: dtypeOf(context, 0), shape },
    { dtype: "int64", shape },
  ];
};

/** x, the positions that MaxPool gave, and perhaps the shape of the output: (x − 1)·stride + kernel − pads where it is absent. */
const unpoolInfer: Infer = (context) => {
  const x = shapeOf(context, 0);
  const kernel = context.node.ints("kernel_shape");
  const given = contentsOf(context, 2);
  if (context.node.inputs[2]) return [{ dtype: dtypeOf(context, 0), shape: given ?? unknownShape(x?.length ?? -1) }];
  if (!x || !kernel) return [{ dtype: dtypeOf(context, 0), shape: undefined }];
  const { strides, pads = [] } = windowOf(context.node, x.length - 2, kernel);
  const sizes = kernel.map((k, axis): Dim => {
    const whole = add(multiply(subtract(x[axis + 2] ?? null, 1), strides[axis] ?? 1), k);
    return subtract(whole, (pads[axis] ?? 0) + (pads[axis + kernel.length] ?? 0));
  });
  return [{ dtype: dtypeOf(context, 0), shape: [x[0] ?? null, x[1] ?? null, ...sizes] }];
};

const maxUnpool: OpSpec = {
  since: 9,
  infer: unpoolInfer,
  cost: FREE,
  axes: "n c *s, n c *s, -> n c *z",
  grad: maxUnpoolGrad,
};

function globalPool(traits: Traits): OpSpec {
  return {
    since: 1,
    infer: (context) => [
      { dtype: dtypeOf(context, 0), shape: shapeOf(context, 0)?.map((dim, i) => (i < 2 ? dim : 1)) },
    ],
    cost: perInput(1),
    axes: "n c *s -> n c *z",
    grad: "none",
    traits,
  };
}

/** x, x scale, x zero, y scale, y zero. */
const quantizedPool: OpSpec = {
  ...pool(1, {}),
  axes: (node) => (node.int("channels_last", 0) ? undefined : "n c *s -> n c *z"),
};

export const pooling: OpTable = {
  MaxPool: { ...pool(1, { movement: true, quantizable: true }, maxInfer), grad: maxPoolGrad },
  AveragePool: { ...pool(7, { quantizable: true, homogeneous: true }), grad: averagePoolGrad },
  LpPool: { ...pool(2, { homogeneous: true }), grad: lpPoolGrad },
  MaxUnpool: maxUnpool,
  GlobalMaxPool: { ...globalPool({ movement: true }), grad: globalMaxPoolGrad },
  GlobalAveragePool: { ...globalPool({ quantizable: true, homogeneous: true }), grad: globalAveragePoolGrad },
  GlobalLpPool: { ...globalPool({ homogeneous: true }), grad: globalLpPoolGrad },
  "com.microsoft::QLinearAveragePool": {
    ...quantizedPool,
    infer: (context) => [
      { dtype: dtypeOf(context, 0), shape: context.node.int("channels_last", 0) ? undefined : poolShape(context) },
    ],
  },
};
