/** Pooling over windows and over whole feature maps. */
import type { Dim } from "../base/shape.ts";
import { slideSize, windowOf } from "./conv.ts";
import { averagePoolGrad, globalAveragePoolGrad, globalMaxPoolGrad, maxPoolGrad } from "./gradients/pooling.ts";
import { type OpTable, type Shape, count, dtypeOf, perInput, shapeOf } from "./helpers.ts";
import type { Infer, InferContext, OpSpec, Traits } from "./spec.ts";

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
    axes: "n c *s -> n c *z",
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
  AveragePool: { ...pool(7, { quantizable: true }), grad: averagePoolGrad },
  LpPool: pool(2, {}),
  GlobalMaxPool: { ...globalPool({ movement: true }), grad: globalMaxPoolGrad },
  GlobalAveragePool: { ...globalPool({ quantizable: true }), grad: globalAveragePoolGrad },
  GlobalLpPool: globalPool({}),
  "com.microsoft::QLinearAveragePool": {
    ...quantizedPool,
    infer: (context) => [
      { dtype: dtypeOf(context, 0), shape: context.node.int("channels_last", 0) ? undefined : poolShape(context) },
    ],
  },
};
