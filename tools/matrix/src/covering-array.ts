/**
 * A covering array: combinations among which every pair of values of two dimensions stands together that can stand
 * together at all. Greedy, and the same each time: the first pair that is missing is taken, some of the combinations that
 * have it are looked at, and the one with most missing pairs joins.
 */

import { SeededRandom } from '@qcow2/seeded';
import { type Combination, dimensionNames, dimensions } from './dimensions.ts';

/** Combinations that are looked at for each that joins. */
const candidatesLookedAt = 400;

/** All values of all dimensions in a row: a pair is a number below the square of how many there are. */
const valueNumbers = new Map(
  dimensionNames
    .flatMap((name) => dimensions[name].map((value) => `${name}=${value}`))
    .map((text, number) => [text, number]),
);
const valueCount = valueNumbers.size;

/** The pairs of a combination, as numbers: the same two values have the same number in every combination. */
export function pairsOf(combination: Combination): number[] {
  const numbers = dimensionNames.map((name) => valueNumbers.get(`${name}=${combination[name]}`)!);
  return numbers.flatMap((left, index) => numbers.slice(index + 1).map((right) => left * valueCount + right));
}

/**
 * Some of `possible` that have every pair between them that any of `possible` has.
 * @param covered pairs that others have already
 */
export function coveringArray(
  possible: readonly Combination[],
  covered: ReadonlySet<number> = new Set(),
): Combination[] {
  const random = new SeededRandom(1);
  const missing = new Set<number>();
  const pairs = possible.map((one) => Uint16Array.from(pairsOf(one)));
  for (const list of pairs) for (const pair of list) if (!covered.has(pair)) missing.add(pair);
  const chosen: Combination[] = [];
  for (const pair of missing) {
    const having = [...pairs.keys()].filter((index) => pairs[index]!.includes(pair));
    let best = 0;
    let bestGain = -1;
    for (let look = 0; look < Math.min(candidatesLookedAt, having.length); look++) {
      const index = random.pick(having);
      const gain = pairs[index]!.reduce((sum, one) => sum + (missing.has(one) ? 1 : 0), 0);
      if (gain > bestGain) [best, bestGain] = [index, gain];
    }
    for (const found of pairs[best]!) missing.delete(found);
    chosen.push(possible[best]!);
  }
  return chosen;
}
