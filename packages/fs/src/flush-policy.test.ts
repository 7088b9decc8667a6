import { describe, expect, it } from 'vitest';
import { FlushPolicy } from './flush-policy.ts';

const take = (policy: FlushPolicy, count: number, durationMs: number) =>
  Array.from({ length: count }, () => {
    const where = policy.next();
    policy.observe(durationMs);
    return where;
  });

describe('FlushPolicy', () => {
  it('does as it is told, whatever the durations', () => {
    expect(new Set(take(new FlushPolicy('sync'), 100, 50))).toEqual(new Set(['sync']));
    expect(new Set(take(new FlushPolicy('thread'), 100, 0.1))).toEqual(new Set(['thread']));
  });

  it('stays on this thread while flushes are fast, a slow one now and then included', () => {
    const policy = new FlushPolicy('adaptive');
    expect(new Set(take(policy, 50, 0.1))).toEqual(new Set(['sync']));
    expect(new Set(take(policy, 4, 100))).toEqual(new Set(['sync']));
    expect(policy.medianMs).toBe(0.1);
  });

  it('moves to the thread pool once most are slow, and back once most are fast', () => {
    const policy = new FlushPolicy('adaptive');
    take(policy, 9, 0.1);
    take(policy, 5, 20);
    expect(policy.next()).toBe('thread');
    expect(new Set(take(policy, 5, 0.5).slice(1))).toEqual(new Set(['thread']));
    expect(policy.next()).toBe('sync');
  });

  it('probes now and then how fast the disk itself is', () => {
    const policy = new FlushPolicy('adaptive');
    take(policy, 9, 20);
    const where = take(policy, 640, 20);
    expect(where.filter((one) => one === 'sync').length).toBe(10);
  });
});
