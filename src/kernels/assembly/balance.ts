/** Rounding whose errors cancel: codes one step off where that makes the errors of a group add up to zero. */

/**
 * Changes codes (bytes at `codes`, zero point z) of the n finite floats at p so that the errors e = q − w/s of every run of
 * `kernel` elements, and then of all n, add up to within half a step; see the plain reference for the rule. `temp` holds n
 * floats. Puts the new ‖ŵ − w‖² and maximum of |ŵ − w| into the first and the third double at `sums`.
 */
export function balanceBytes(
  p: usize,
  n: i32,
  s: f32,
  low: f32,
  high: f32,
  z: i32,
  kernel: i32,
  codes: usize,
  temp: usize,
  sums: usize,
): void {
  const signed = low + <f32>z < 0;
  for (let i = 0; i < n; i++) store<f32>(at(temp, i), codeAt(codes, i, z, signed) - load<f32>(at(p, i)) / s);
  if (kernel > 1 && kernel < n)
    for (let from = 0; from < n; from += kernel)
      balanceRun(p, from, min(from + kernel, n), s, low, high, z, signed, codes, temp);
  balanceRun(p, 0, n, s, low, high, z, signed, codes, temp);
  let squares: f64 = 0;
  let largest: f32 = 0;
  for (let i = 0; i < n; i++) {
    const e = codeAt(codes, i, z, signed) * s - load<f32>(at(p, i));
    squares += <f64>e * <f64>e;
    largest = max(largest, abs(e));
  }
  store<f64>(sums, squares);
  store<f64>(sums, largest, 16);
}

// @ts-ignore: decorator
@inline
function at(base: usize, i: i32): usize {
  return base + ((<usize>i) << 2);
}

/** q = code − z. */
// @ts-ignore: decorator
@inline
function codeAt(codes: usize, i: i32, z: i32, signed: bool): f32 {
  const code = signed ? <i32>load<i8>(codes + <usize>i) : <i32>load<u8>(codes + <usize>i);
  return <f32>(code - z);
}

function balanceRun(
  p: usize,
  from: i32,
  to: i32,
  s: f32,
  low: f32,
  high: f32,
  z: i32,
  signed: bool,
  codes: usize,
  temp: usize,
): void {
  let total: f64 = 0;
  for (let i = from; i < to; i++) total += load<f32>(at(temp, i));
  const sign: f32 = total > 0 ? 1 : -1;
  for (let flips = <i32>nearest(abs(total)); flips > 0; flips--) {
    let best = -1;
    let largest: f32 = 0;
    for (let i = from; i < to; i++) {
      const e = load<f32>(at(temp, i)) * sign;
      if (e <= largest) continue;
      const q = codeAt(codes, i, z, signed) - sign;
      if (q < low || q > high) continue;
      largest = e;
      best = i;
    }
    if (best < 0) return;
    const q = codeAt(codes, best, z, signed);
    store<u8>(codes + <usize>best, <u8>(<i32>(q - sign) + z));
    store<f32>(at(temp, best), q - sign - load<f32>(at(p, best)) / s);
  }
}
