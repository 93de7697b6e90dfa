/** Transposition of float and byte matrices, in 4 × 4 squares. */

/** Rows handled together: their lines stay in the first-level cache while the columns are walked. */
const STRIP: i32 = 32;

/** (rows, cols) floats at src, `srcStride` floats apart, to (cols, rows) at dst, `dstStride` floats apart. */
export function transposeFloats(src: usize, rows: i32, cols: i32, srcStride: i32, dst: usize, dstStride: i32): void {
  const down = (<usize>srcStride) << 2;
  const across = (<usize>dstStride) << 2;
  for (let top = 0; top < rows; top += STRIP) {
    const bottom = min(top + STRIP, rows);
    const square = top + ((bottom - top) & ~3);
    let col = 0;
    for (; col + 4 <= cols; col += 4) {
      let row = top;
      for (; row < square; row += 4) {
        const from = src + <usize>row * down + ((<usize>col) << 2);
        const a = v128.load(from);
        const b = v128.load(from + down);
        const c = v128.load(from + 2 * down);
        const d = v128.load(from + 3 * down);
        const ab0 = v128.shuffle<f32>(a, b, 0, 4, 1, 5);
        const ab1 = v128.shuffle<f32>(a, b, 2, 6, 3, 7);
        const cd0 = v128.shuffle<f32>(c, d, 0, 4, 1, 5);
        const cd1 = v128.shuffle<f32>(c, d, 2, 6, 3, 7);
        const to = dst + <usize>col * across + ((<usize>row) << 2);
        v128.store(to, v128.shuffle<f64>(ab0, cd0, 0, 2));
        v128.store(to + across, v128.shuffle<f64>(ab0, cd0, 1, 3));
        v128.store(to + 2 * across, v128.shuffle<f64>(ab1, cd1, 0, 2));
        v128.store(to + 3 * across, v128.shuffle<f64>(ab1, cd1, 1, 3));
      }
      for (; row < bottom; row++) for (let c = col; c < col + 4; c++) copyOne(src, dst, row, c, down, across);
    }
    for (; col < cols; col++) for (let row = top; row < bottom; row++) copyOne(src, dst, row, col, down, across);
  }
}

// @ts-ignore: decorator
@inline
function copyOne(src: usize, dst: usize, row: i32, col: i32, down: usize, across: usize): void {
  const x = load<u32>(src + <usize>row * down + ((<usize>col) << 2));
  store<u32>(dst + <usize>col * across + ((<usize>row) << 2), x);
}

/** (rows, cols) dense bytes at src to (cols, rows) bytes at dst, `dstStride` apart. */
export function transposeBytes(src: usize, rows: i32, cols: i32, dst: usize, dstStride: i32): void {
  for (let top = 0; top < rows; top += STRIP) {
    const bottom = min(top + STRIP, rows);
    for (let col = 0; col < cols; col++)
      for (let row = top; row < bottom; row++)
        store<u8>(
          dst + <usize>col * <usize>dstStride + <usize>row,
          load<u8>(src + <usize>row * <usize>cols + <usize>col),
        );
  }
}
