import { describe, expect, it } from 'vitest';
import { runRounds } from './rounds.ts';

describe('rounds', () => {
  it('runs as many as were asked for', async () => {
    const seen: number[] = [];
    expect(await runRounds({ rounds: 3, budgetMs: 100_000 }, (round) => void seen.push(round))).toBe(3);
    expect(seen).toEqual([0, 1, 2]);
  });

  it('begins no round that would not fit, but always the first', async () => {
    let clock = 0;
    const tick = (): void => {
      clock += 100;
    };
    const now = (): number => clock;
    expect(await runRounds({ rounds: 9, budgetMs: 10 }, tick, now)).toBe(1);
    clock = 0;
    expect(await runRounds({ rounds: 9, budgetMs: 250 }, tick, now)).toBe(2);
  });
});
