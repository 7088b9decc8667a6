/** Rounds, as many as fit the time. In each, every contender runs once, in an order that rotates with its number. */

export interface RoundPlan {
  readonly rounds: number;
  /** No round is begun that would probably end later than this after the start. */
  readonly budgetMs: number;
}

/** Run rounds 0, 1, …, at least one. @returns how many were run */
export async function runRounds(
  plan: RoundPlan,
  body: (round: number) => Promise<void> | void,
  now: () => number = Date.now,
): Promise<number> {
  const start = now();
  let longestMs = 0;
  let round = 0;
  for (; round < plan.rounds; round++) {
    const begun = now();
    if (round > 0 && begun - start + longestMs > plan.budgetMs) break;
    await body(round);
    longestMs = Math.max(longestMs, now() - begun);
  }
  return round;
}
