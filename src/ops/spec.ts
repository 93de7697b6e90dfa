/** The operator record: everything pare knows about one operator, in one place. Techniques ask the record, never the name. */
import type { DType } from "../base/dtype.ts";
import type { Dim } from "../base/shape.ts";
import type { Builder } from "../ir/builder.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Narrow } from "./narrow.ts";

/** What inference knows of a value. */
export interface ValueType {
  readonly dtype: DType | undefined;
  /** undefined: rank unknown. */
  readonly shape: readonly Dim[] | undefined;
  /** Contents of small integer tensors (shapes, axes), possibly symbolic, where they are known; row-major. */
  readonly contents?: readonly Dim[] | undefined;
}

/** Asked by inference rules about the node at hand. */
export interface InferContext {
  readonly node: Node;
  /** Version of the node's domain that the model imports. */
  readonly opset: number;
  /** Types of the inputs; undefined where the input is absent. */
  readonly inputs: readonly (ValueType | undefined)[];
  /** Types of the node's subgraph outputs, by attribute name, after inferring the subgraph with these input types. */
  inferSubgraph(attribute: string, inputs?: readonly ValueType[]): readonly ValueType[];
}

/** Types of the outputs; a shorter list leaves the rest unknown. Throws `shape-mismatch` on inputs that cannot be right. */
export type Infer = (context: InferContext) => readonly ValueType[];

/** Arithmetic of one call for concrete shapes. */
export interface OpCost {
  /** Multiply-accumulates. */
  readonly macs: number;
  /** Other arithmetic operations (additions, comparisons, transcendental functions as one). */
  readonly flops?: number;
}

/** Cost from concrete shapes of inputs and outputs; bytes moved are counted by the caller from the shapes. */
export type Cost = (context: {
  readonly node: Node;
  readonly inputs: readonly (readonly number[] | undefined)[];
  readonly outputs: readonly (readonly number[] | undefined)[];
}) => OpCost;

/**
 * Which axes are one axis. A string for plain cases: one term per input and output, one letter per axis, `*x` for the rest:
 * Conv is "n i *s, o i *k, o -> n o *z". A function where shapes or attributes decide (it is called after inference, so that
 * the node's values have shapes; undefined where they do not suffice). "opaque": nothing is known. The whole notation
 * (merged, concatenated and free axes) is described in axes.ts.
 */
export type Axes = string | ((node: Node, ranks: readonly number[]) => string | undefined) | "opaque";

/** One learned input of an operator. */
export interface Weight {
  readonly input: number;
  readonly role: "kernel" | "bias" | "scale" | "table" | "statistic";
  /** Axis of output channels (per-channel quantization scales lie along it); undefined where there is none. */
  readonly channelAxis?: number | undefined;
  /** Axis that is summed over (blocks of block-wise quantization lie along it). */
  readonly reductionAxis?: number | undefined;
}

export type Weights = readonly Weight[] | ((node: Node) => readonly Weight[]);

/** One value on its way through a loop: positions among the node's and the body's inputs and outputs. */
export interface Carried {
  readonly input?: number;
  readonly bodyInput?: number;
  readonly bodyOutput?: number;
  readonly output?: number;
  /** The axis along which turns take one element each, or stack theirs; absent where the whole goes from turn to turn. */
  readonly axis?: number;
}

/** Asked by rules that write nodes in place of, or beside, the node at hand. Shapes have been inferred. */
export interface RuleContext {
  readonly node: Node;
  readonly b: Builder;
  readonly opset: number;
  /** Contents of small integer tensors (shapes, axes) that are the same at every run; row-major. */
  contents(value: Value | undefined): readonly number[] | undefined;
}

/** What a gradient rule may ask and call. Un-broadcasting, accumulation and dead branches are the caller's work. */
export interface GradContext extends RuleContext {
  /** Gradient of output i; undefined when nothing flows into it. */
  outputGrad(index: number): Value | undefined;
  /** True if the gradient of input i is wanted. */
  wants(index: number): boolean;
}

/** Gradients of the inputs, same order; undefined where there is none or it is not wanted. */
export type Grad = (context: GradContext) => readonly (Value | undefined)[];

/**
 * Rewrites the node in simpler operators through the builder; returns the values that replace its outputs (undefined for
 * one that nobody uses), or undefined where the node at hand is left as it is.
 */
export type Lower = (context: RuleContext) => readonly (Value | undefined)[] | undefined;

/** Traits that techniques ask for instead of comparing names. */
export interface Traits {
  /** Output elements depend on the same input element only (Relu, Add); a scale passes through some of them. */
  readonly elementwise?: boolean;
  /** Scaling all its float inputs by s > 0 scales its outputs by s (rectifiers, sums, averages); movement does too. */
  readonly homogeneous?: boolean;
  /** y = x: Identity, and Dropout when not training. */
  readonly identity?: boolean;
  /** Moves elements without computing (Reshape, Transpose, Slice, MaxPool): quantization parameters pass through. */
  readonly movement?: boolean;
  /** Multiplies data by a learned kernel: the operators that quantization and pruning look for. */
  readonly linear?: "conv" | "conv-transpose" | "matmul" | "gemm" | "recurrent" | "attention";
  /**
   * Its first `terms` inputs are added up: skip connections end here. Where it does more, `alone` is the operator of the standard
   * domain that does the rest to a single term: (term, scale, bias) -> output 0; the sum itself is output 3.
   */
  readonly sum?: { readonly terms: number; readonly alone?: string };
  /** Mixes values by products of queries and keys that other nodes make. */
  readonly attention?: boolean;
  /** Looks rows up in a learned table. */
  readonly lookup?: boolean;
  /** Rounds floats to integers whose gradient is that of the unrounded number (straight through). */
  readonly rounding?: boolean;
  /** Output is random or depends on state: never folded. */
  readonly impure?: boolean;
  /** ONNX Runtime runs it on int8 between QuantizeLinear and DequantizeLinear. */
  readonly quantizable?: boolean;
}

export interface OpSpec {
  /** Opset from which this record's meaning holds; an operator whose meaning changed has several records. */
  readonly since: number;
  readonly infer: Infer;
  readonly cost: Cost;
  readonly axes: Axes;
  readonly weights?: Weights;
  /**
   * "lower": that of the lowered form; "branches": taken inside each branch of a condition; "zero": the outputs are locally
   * constant (Sign, Floor), or numbers that the inputs' values do not decide (EyeLike), so that nothing flows back.
   */
  readonly grad: Grad | "none" | "lower" | "branches" | "zero";
  readonly lower?: Lower;
  /** How attributes and inputs that hold sizes, bounds or indices follow when axes lose positions; absent where nothing does. */
  readonly narrow?: Narrow;
  /** What a loop hands to its body, from turn to turn, and out of it. */
  readonly carries?: (node: Node) => readonly Carried[];
  readonly traits?: Traits;
}
