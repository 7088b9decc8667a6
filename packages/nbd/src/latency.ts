/**
 * How long requests took, from being taken off the socket to their reply being handed to it: counts by a scale of buckets, four to each
 * doubling, so that a quantile of any interval can be told from two snapshots, to a fifth of its value, in a few hundred numbers.
 */
import { type CommandName, command } from './protocol.ts';

/** Requests that took longer than the bucket before, in microseconds, and at most as long as this one. The last has all that is longer. */
const bucketsPerDoubling = 4;
const bucketCount = 30 * bucketsPerDoubling;

/** Upper bound of a bucket, in microseconds: 1 for the first, some 15 minutes for the last but one. */
function bucketBound(index: number): number {
  return 2 ** (index / bucketsPerDoubling);
}

/** Counts of requests by bucket, for each command. */
export type NbdLatencies = Readonly<Record<CommandName, readonly number[]>>;

/**
 * How long the given share of requests took at most, in microseconds, rounded up to a bucket.
 * @param counts of one command, or sums or differences of such
 * @param share 0.5 for the median
 * @returns undefined where no requests are counted
 */
export function latencyQuantile(counts: readonly number[], share: number): number | undefined {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return undefined;
  let seen = 0;
  const index = counts.findIndex((count) => {
    seen += count;
    return count > 0 && seen >= share * total;
  });
  return bucketBound(index);
}

const names = Object.keys(command) as CommandName[];

/** The running counts of a server. */
export class LatencyTally {
  readonly #counts: readonly number[][] = names.map(() => new Array<number>(bucketCount).fill(0));

  /** @param type number of a command; one that there is not is not counted */
  add(type: number, milliseconds: number): void {
    const counts = this.#counts[type];
    if (counts === undefined) return;
    const scaled = Math.ceil(bucketsPerDoubling * Math.log2(milliseconds * 1000));
    const index = Math.min(bucketCount - 1, Math.max(0, scaled));
    counts[index] = (counts[index] ?? 0) + 1;
  }

  snapshot(): NbdLatencies {
    return Object.fromEntries(
      names.map((name) => [name, [...(this.#counts[command[name]] ?? [])]]),
    ) as unknown as NbdLatencies;
  }
}
