/** SIMD kernels, compiled by AssemblyScript. Every export has a plain TypeScript reference in ../reference. */
export function version(): i32 {
  return 1;
}
