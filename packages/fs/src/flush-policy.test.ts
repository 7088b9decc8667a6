import { describe, expect, it } from 'vitest';
import { FlushPolicy } from './flush-policy.ts';

interface Machine {
  /** How long a flush takes in either place. */
  readonly syncMs: number;
  readonly threadMs: number;
  /** From the end of a flush on this thread until the next is asked for; in the pool the same unless given. */
  readonly pauseMs?: number;
  readonly threadPauseMs?: number;
}

/** A policy, and a clock that runs as the machine would have it. */
class Trial {
  readonly policy: FlushPolicy;
  #nowMs = 0;

  constructor(policy: FlushPolicy) {
    this.policy = policy;
  }

  /** So many flushes, and where each of them ran. */
  run(count: number, machine: Machine): ('sync' | 'thread')[] {
    const { syncMs, threadMs, pauseMs = 0.1, threadPauseMs = pauseMs } = machine;
    return Array.from({ length: count }, () => {
      const place = this.policy.next();
      this.#nowMs += place === 'sync' ? pauseMs : threadPauseMs;
      const startMs = this.#nowMs;
      this.#nowMs += place === 'sync' ? syncMs : threadMs;
      this.policy.observe(place, startMs, this.#nowMs);
      return place;
    });
  }

  share(count: number, machine: Machine): number {
    return this.run(count, machine).filter((place) => place === 'sync').length / count;
  }
}

const fast = { syncMs: 0.15, threadMs: 0.2 };
const slow = { syncMs: 20, threadMs: 21 };

describe('FlushPolicy', () => {
  it('does as it is told, whatever the durations', () => {
    expect(new Trial(new FlushPolicy('sync')).share(500, slow)).toBe(1);
    expect(new Trial(new FlushPolicy('thread')).share(500, fast)).toBe(0);
  });

  it('stays on this thread while that is quicker, probes and a slow flush now and then apart', () => {
    const trial = new Trial(new FlushPolicy('adaptive'));
    expect(trial.run(1, fast)).toEqual(['sync']);
    expect(trial.share(1000, fast)).toBeGreaterThan(0.9);
    trial.run(4, slow);
    expect(trial.share(1000, fast)).toBeGreaterThan(0.9);
  });

  it('leaves this thread free once flushes are slow, and comes back once they are fast', () => {
    const trial = new Trial(new FlushPolicy('adaptive'));
    trial.run(200, fast);
    trial.run(20, slow);
    expect(trial.share(1000, slow)).toBeLessThan(0.02);
    trial.run(4000, fast);
    expect(trial.share(1000, fast)).toBeGreaterThan(0.9);
  });

  it('goes to the pool where that is quicker', () => {
    const trial = new Trial(new FlushPolicy('adaptive'));
    const crowded = { syncMs: 1.8, threadMs: 0.5 };
    trial.run(500, crowded);
    expect(trial.share(1000, crowded)).toBeLessThan(0.1);
    trial.run(1000, fast);
    expect(trial.share(1000, fast)).toBeGreaterThan(0.9);
  });

  it('counts what comes between flushes: a thread that is woken late is late for its requests too', () => {
    const trial = new Trial(new FlushPolicy('adaptive'));
    const late = { syncMs: 0.3, threadMs: 0.35, pauseMs: 1.5, threadPauseMs: 0.2 };
    trial.run(500, late);
    expect(trial.share(1000, late)).toBeLessThan(0.1);
  });

  it('stays where it is when clients pause for long: then nothing is gained by either', () => {
    const trial = new Trial(new FlushPolicy('adaptive'));
    expect(trial.share(1000, { ...fast, pauseMs: 1000 })).toBeGreaterThan(0.9);
  });
});
