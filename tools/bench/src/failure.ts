/** What ends a benchmark: a program that is missing, or that did not do what was asked of it. */
export class BenchmarkFailure extends Error {
  override readonly name = 'BenchmarkFailure';
}
