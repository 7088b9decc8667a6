/** Which combinations are run: the pairs in `pnpm test`, the product by `pnpm matrix`. */
import { isAllowed, refusalOf, refusals } from './constraints.ts';
import { coveringArray, pairsOf } from './covering-array.ts';
import { type Combination, combinations, dimensions, full } from './dimensions.ts';

/**
 * Every pair that is allowed, in combinations that go all the way where there is one; a pair that we refuse whatever
 * stands beside it, and each refusal of ours, in further ones.
 */
export function pairPlan(): Combination[] {
  const allowed = [...combinations(dimensions)].filter(isAllowed);
  const served = coveringArray(allowed.filter((one) => refusalOf(one) === undefined));
  const covered = new Set(served.flatMap(pairsOf));
  const refused = allowed.filter((one) => refusalOf(one) !== undefined);
  const plan = [...served, ...coveringArray(refused, covered)];
  for (const refusal of refusals) {
    if (plan.some((one) => refusalOf(one) === refusal)) continue;
    plan.push(...refused.filter((one) => refusalOf(one) === refusal).slice(0, 1));
  }
  return plan;
}

/** Every allowed combination of the thinned values. */
export function productPlan(): Combination[] {
  return [...combinations(full)].filter(isAllowed);
}
