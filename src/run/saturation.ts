/** Whether 8-bit products lose sums here: kernels of x86 processors before VNNI add pairs of products in 16 bits, which saturate. */
import { Builder } from "../ir/builder.ts";
import { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { asNumbers } from "./arrays.ts";
import type { Session, SessionOptions } from "./session.ts";

/** Summed products: enough for the widest kernels to take their main path. */
const TERMS = 64;
/** Rows and columns likewise. */
const SIZE = 16;

/**
 * Multiplies the largest codes on the engine and compares with the exact sum. VPMADDUBSW (AVX2, AVX-512 without VNNI) gives
 * min(a₁b₁ + a₂b₂, 2¹⁵ − 1) for a uint8 and b int8: with a = 255 and |b| > 64 two products do not fit. Processors with VNNI, ARM and
 * WebAssembly sum in 32 bits. Costs a session of one operator.
 */
export async function productsSaturate(
  open: (model: Model, options: SessionOptions) => Promise<Session>,
  options: SessionOptions = {},
): Promise<boolean> {
  const model = new Model(undefined, 13);
  const b = new Builder(model.graph);
  const x = b.input("x", "uint8", [SIZE, TERMS]);
  const weights = b.constant("w", Tensor.of("int8", [TERMS, SIZE], new Int8Array(TERMS * SIZE).fill(127)));
  const y = b.op("MatMulInteger", [x, weights]);
  [y.dtype, y.shape] = ["int32", [SIZE, SIZE]];
  b.output(y, "y");
  const session = await open(model, options);
  try {
    const codes = { dtype: "uint8", shape: [SIZE, TERMS], data: new Uint8Array(SIZE * TERMS).fill(255) } as const;
    const { y: sums } = await session.run({ x: codes });
    return sums === undefined || Array.from(asNumbers(sums)).some((sum) => sum !== TERMS * 255 * 127);
  } finally {
    await session.close();
  }
}
