/**
 * What is said about a series of measurements.
 *
 * A shared machine's speed wanders by more than most of what is measured here. So two contenders are compared
 * only within one round, in which they ran one right after the other; the order rotates from round to round,
 * so that nobody always runs first; and what is reported is the median of the rounds' ratios with the
 * smallest and the largest of them. A ratio of medians would compare a good minute with a bad one.
 */

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** The middle value, or the mean of the two in the middle. NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The smallest value that at least `share` (0 to 1) of all values do not exceed. NaN of nothing. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = Math.max(1, Math.ceil(sorted.length * share));
  return sorted[rank - 1] ?? Number.NaN;
}

/**
 * The value below which the share (0 to 1) of all values lies, interpolated between the two ranks next to it: with
 * 400 values the 99th percentile lies between the fourth and the fifth from above. NaN of nothing.
 */
export function quantile(values: readonly number[], share: number): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const rank = (sorted.length - 1) * share;
  const [below, above] = [sorted[Math.floor(rank)]!, sorted[Math.ceil(rank)]!];
  return below + (above - below) * (rank - Math.floor(rank));
}

export function spreadOf(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** Ratios of two series, round by round; rounds that one of them did not finish are left out. */
export function ratioOf(ours: readonly number[], theirs: readonly number[]): Spread {
  const rounds = Math.min(ours.length, theirs.length);
  const ratios: number[] = [];
  for (let round = 0; round < rounds; round++) ratios.push(ours[round]! / theirs[round]!);
  return spreadOf(ratios);
}

/** The list begun at another place, so that each member comes first in one of as many rounds. */
export function rotated<T>(list: readonly T[], by: number): T[] {
  const start = list.length === 0 ? 0 : by % list.length;
  return [...list.slice(start), ...list.slice(0, start)];
}
