/** Training steps on blocked images: the same numbers as on plain ones. */
import { describe, expect, it } from "vitest";
import { float } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { Rng } from "../../src/base/rng.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { imageBlock } from "../../src/train/blocked/image-block.ts";
import { buildStepGraph } from "../../src/train/step-graph.ts";

const block = await imageBlock(openSession);

/** One layer between images of `channels` at least. */
interface Layer {
  readonly outputs: number;
  readonly kernel?: readonly [number, number];
  readonly strides?: readonly [number, number];
  readonly dilations?: readonly [number, number];
  readonly pads?: readonly [number, number, number, number];
  readonly depthwise?: boolean;
  readonly bias?: boolean;
  readonly norm?: boolean;
  readonly activation?: "Relu" | "Clip" | "Tanh";
  /** Adds the layer's input. */
  readonly residual?: boolean;
  readonly autoPad?: string;
  /** Keeps every second row and column from the second on. */
  readonly sliced?: boolean;
  /** Channels of zeros behind the others, as the shortcuts of CIFAR's ResNets have them. */
  readonly zeros?: number;
}

interface Case {
  readonly name: string;
  readonly batch: number;
  readonly input: readonly [number, number, number];
  readonly layers: readonly Layer[];
}

const three: Layer = { outputs: 16, kernel: [3, 3], pads: [1, 1, 1, 1] };
const CASES: readonly Case[] = [
  { name: "a plain stem", batch: 16, input: [3, 6, 7], layers: [{ ...three, bias: true }, three] },
  {
    name: "channels that do not fill a block",
    batch: 16,
    input: [28, 5, 5],
    layers: [
      { ...three, outputs: 40 },
      { ...three, outputs: 28 },
    ],
  },
  {
    name: "a batch that does not fill a block",
    batch: 5,
    input: [16, 5, 5],
    layers: [three, { outputs: 16, kernel: [1, 1] }],
  },
  {
    name: "strides",
    batch: 16,
    input: [16, 9, 8],
    layers: [
      { ...three, strides: [2, 2] },
      { ...three, strides: [1, 2] },
    ],
  },
  {
    name: "a stride that leaves pixels over",
    batch: 16,
    input: [16, 8, 11],
    layers: [{ outputs: 32, kernel: [3, 2], strides: [3, 2] }, three],
  },
  {
    name: "dilations and uneven borders",
    batch: 16,
    input: [16, 9, 9],
    layers: [{ ...three, dilations: [2, 1], pads: [2, 0, 1, 1] }, three],
  },
  {
    name: "a 5x5 kernel",
    batch: 16,
    input: [16, 7, 7],
    layers: [three, { outputs: 16, kernel: [5, 5], pads: [2, 2, 2, 2], strides: [2, 2] }],
  },
  {
    name: "one tap",
    batch: 32,
    input: [16, 4, 6],
    layers: [
      { outputs: 48, kernel: [1, 1] },
      { outputs: 16, kernel: [1, 1], bias: true },
    ],
  },
  {
    name: "one tap and a stride",
    batch: 16,
    input: [16, 6, 6],
    layers: [three, { outputs: 32, kernel: [1, 1], strides: [2, 2] }],
  },
  {
    name: "one filter per channel",
    batch: 6,
    input: [32, 6, 6],
    layers: [three, { ...three, outputs: 16, depthwise: true, bias: true }],
  },
  {
    name: "one filter per channel, strides",
    batch: 6,
    input: [28, 7, 8],
    layers: [{ ...three, outputs: 28 }, { ...three, outputs: 28, depthwise: true, strides: [2, 2] }, three],
  },
  {
    name: "automatic borders",
    batch: 16,
    input: [16, 7, 6],
    layers: [three, { outputs: 16, kernel: [3, 3], strides: [2, 2], autoPad: "SAME_UPPER" }],
  },
  {
    name: "normalization",
    batch: 16,
    input: [3, 6, 6],
    layers: [
      { ...three, norm: true, activation: "Relu" },
      { ...three, norm: true },
    ],
  },
  {
    name: "a residual",
    batch: 16,
    input: [16, 6, 6],
    layers: [
      { ...three, norm: true, activation: "Relu" },
      { ...three, norm: true, residual: true, activation: "Relu" },
      { ...three, residual: true },
    ],
  },
  {
    name: "normalization of a padded block and Clip",
    batch: 16,
    input: [3, 6, 6],
    layers: [
      { ...three, outputs: 28, norm: true, activation: "Clip" },
      { ...three, outputs: 28, norm: true, residual: true, activation: "Clip" },
    ],
  },
  {
    name: "a Slice",
    batch: 16,
    input: [16, 7, 8],
    layers: [
      { ...three, sliced: true },
      { outputs: 16, kernel: [1, 1] },
    ],
  },
  {
    name: "an odd number of channels that comes back from another layout",
    batch: 16,
    input: [16, 7, 8],
    layers: [
      { ...three, outputs: 22, zeros: 8 },
      { ...three, outputs: 30 },
    ],
  },
  {
    name: "other activations",
    batch: 16,
    input: [16, 5, 5],
    layers: [
      { ...three, activation: "Tanh" },
      { ...three, activation: "Clip" },
      { ...three, norm: true, activation: "Tanh" },
    ],
  },
]; // prettier-ignore

function build({ input, layers }: Case): Model {
  const model = new Model(undefined, 21, 10);
  const b = new Builder(model.graph);
  const rng = new Rng(7);
  const draw = (shape: readonly number[], scale: number, shift = 0): Value => {
    const size = shape.reduce((n, each) => n * each, 1);
    return b.constant(
      "weight",
      Tensor.float32(
        shape,
        Float32Array.from({ length: size }, () => shift + scale * rng.normal()),
      ),
    );
  };
  let x = b.input("input", "float32", ["batch", ...input]);
  let channels = input[0];
  for (const layer of layers) {
    const [kernel = [1, 1], group] = [layer.kernel, layer.depthwise ? channels : 1];
    const w = draw(
      [layer.outputs, channels / group, ...kernel],
      1 / Math.sqrt((channels / group) * kernel[0] * kernel[1]),
    );
    const { strides, dilations, pads, autoPad } = layer;
    let y = b.op("Conv", [x, w, layer.bias ? draw([layer.outputs], 1) : undefined], {
      attributes: { kernel_shape: kernel, strides, dilations, pads, group, auto_pad: autoPad },
    });
    if (layer.norm) {
      const [mean, variance] = [new Float32Array(layer.outputs), new Float32Array(layer.outputs).fill(1)];
      const statistics = [mean, variance].map((data) => b.constant("statistic", Tensor.float32([layer.outputs], data)));
      y = b.op("BatchNormalization", [y, draw([layer.outputs], 0.1, 1), draw([layer.outputs], 0.5), ...statistics], {
        attributes: { epsilon: float(1e-3) },
      });
    }
    if (layer.residual) y = b.op("Add", [x, y]);
    const number = (value: number): Value => b.constant("bound", Tensor.float32([], [value]));
    if (layer.activation === "Clip") y = b.op("Clip", [y, number(0), number(0.8)]);
    else if (layer.activation) y = b.op(layer.activation, [y]);
    const list = (values: readonly number[]): Value => b.constant("list", Tensor.int64(values));
    if (layer.sliced) {
      // 99, and "to the end" as exporters write it
      const ends = b.constant("ends", Tensor.of("int64", [2], BigInt64Array.of(99n, 2n ** 63n - 1n)));
      y = b.op("Slice", [y, list([1, 1]), ends, list([2, -1]), list([2, 2])]);
    }
    if (layer.zeros) y = b.op("Pad", [y, list([0, 0, 0, 0, 0, layer.zeros, 0, 0])]);
    x = y;
    channels = layer.outputs + (layer.zeros ?? 0);
  }
  const out = b.op("Flatten", [b.op("GlobalAveragePool", [x])]);
  [out.dtype, out.shape] = ["float32", ["batch", channels]];
  b.output(out, "logits");
  return model;
}

/** State after one step. */
async function stepped(each: Case, model: Model, layout: number | undefined) {
  const graph = buildStepGraph(model, { batch: each.batch, block: layout });
  const session = await openSession(graph.model, { inProcess: true });
  try {
    const resident = await session.resident(await graph.initialState(), graph.links);
    const shape = [each.batch, ...each.input];
    const rng = new Rng(3);
    const data = Float32Array.from({ length: shape.reduce((n, size) => n * size, 1) }, () => rng.normal());
    const labels = BigInt64Array.from({ length: each.batch }, (_, i) => BigInt(i % 10));
    const feeds = {
      input: { dtype: "float32" as const, shape, data },
      labels: { dtype: "int64" as const, shape: [each.batch], data: labels },
    };
    await resident.step({ ...feeds, ...graph.scalars({ step: 0, learningRate: 0.1 }) }, [graph.loss]);
    return {
      state: await resident.read(),
      operators: graph.model.graph.nodes.map((node) => `${node.domain}::${node.opType}`),
    };
  } finally {
    await session.close();
  }
}

type State = Awaited<ReturnType<typeof stepped>>["state"];

/** Largest difference of a tensor, relative to its largest element. */
function difference(a: State, b: State): number {
  let worst = 0;
  for (const [name, { data }] of Object.entries(a)) {
    const other = b[name]?.data as Float32Array;
    let [size, error] = [1e-3, 0]; // a gradient that is zero but for rounding has no scale of its own
    for (const [i, value] of (data as Float32Array).entries()) {
      size = Math.max(size, Math.abs(value));
      error = Math.max(error, Math.abs(value - (other[i] ?? Number.NaN)));
    }
    worst = Math.max(worst, error / size);
  }
  return worst;
}

/** float32 sums of some thousand terms in two orders. */
const TOLERANCE = 1e-4;

describe.skipIf(block === undefined)("a step on blocked images equals the step on plain ones", () => {
  for (const each of CASES)
    it(each.name, async () => {
      const model = build(each);
      const [plain, blocked] = [await stepped(each, model, undefined), await stepped(each, model, block)];
      expect(blocked.operators).toContain("com.microsoft.nchwc::Conv");
      expect(blocked.operators.filter((name) => name === "::Conv" || name === "::BatchNormalization")).toEqual([]);
      expect(difference(plain.state, blocked.state)).toBeLessThan(TOLERANCE);
    });

  it("and a step of another model does not", async () => {
    const each = CASES[1] as Case;
    const other = {
      ...each,
      layers: [{ ...each.layers[0], dilations: [2, 1], pads: [2, 1, 2, 1] } as Layer, each.layers[1] as Layer],
    };
    const [plain, blocked] = [await stepped(each, build(each), undefined), await stepped(other, build(other), block)];
    expect(difference(plain.state, blocked.state)).toBeGreaterThan(10 * TOLERANCE);
  });
});

describe("the engine's image layout", () => {
  it("is asked for once and only of the CPU", async () => {
    expect([undefined, 8, 16]).toContain(block);
    expect(await imageBlock(openSession, "webgpu")).toBeUndefined();
  });
});
