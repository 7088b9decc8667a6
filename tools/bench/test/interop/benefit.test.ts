/** A small part of `bench benefit`, with real servers: that what it counts is what happened. No test here asserts a time. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { benefitCases } from '../../src/benefit/cases.ts';
import { benefitContenders, type ContenderId, Sources } from '../../src/benefit/contenders.ts';
import { costOf } from '../../src/benefit/cost.ts';
import { ratesOf } from '../../src/benefit/rate.ts';
import { replayOf } from '../../src/benefit/replay.ts';
import { ownCommand } from '../../src/contender.ts';
import { BenchmarkFailure } from '../../src/failure.ts';
import { type Workspace, withWorkspace } from '../../src/workspace.ts';

const works = (command: string, args: string[]): boolean => spawnSync(command, args).status === 0;
/** What is needed, and the Debian package that has it. */
const needed: readonly [string, boolean][] = [
  ['qemu-utils', works('qemu-img', ['--version']) && works('qemu-nbd', ['--version'])],
  ['strace', works('strace', ['--version'])],
  ['python3-libnbd', ['python3', '/usr/bin/python3'].some((python) => works(python, ['-c', 'import nbd']))],
];
const missing = needed.filter(([, isThere]) => !isThere).map(([name]) => name);

/** Where something is missing the tests do not run, and say so; with CI=true that is a failure. */
function describeHere(title: string, tests: () => void): void {
  if (missing.length === 0) {
    describe(title, tests);
    return;
  }
  const what = `missing ${missing.join(', ')}`;
  process.stderr.write(`\n*** SKIPPED: ${title}: ${what} ***\n\n`);
  if (process.env.CI === 'true') it(`${title}: ${what}`, () => expect(missing).toEqual([]));
  else describe.skipIf(missing.length > 0)(title, tests);
}

/** As few operations as a case can have. */
const share = 0.03;

async function withContenders<T>(
  ids: readonly ContenderId[],
  body: (workspace: Workspace, sources: Sources, list: ReturnType<typeof benefitContenders>) => Promise<T>,
): Promise<T> {
  return await withWorkspace(undefined, async (workspace) => {
    const sources = new Sources(workspace);
    const list = benefitContenders(workspace, sources, ownCommand).filter(({ id }) => ids.includes(id));
    return await body(workspace, sources, list);
  });
}

const caseOf = (name: string) => benefitCases.find((one) => one.name === name)!;

describeHere('bench benefit', () => {
  it('counts what a raw file gets: every byte once, a flush for a flush, nothing read', async () => {
    await withContenders(['raw'], async (workspace, sources, [raw]) => {
      const cost = await costOf(workspace, sources, raw!, caseOf('random-8'), share);
      expect(cost).toMatchObject({ flushes: 12, guestBytes: 96 * 4096 });
      expect(cost.serving).toEqual({
        syncs: 12,
        writes: 96,
        writtenBytes: 96 * 4096,
        readBytes: 0,
        backingReadBytes: 0,
      });
    });
  });

  it('tells what is read from the backing file from what is read from the image', async () => {
    await withContenders(['qemu', 'v1'], async (workspace, sources, [ours, qemu]) => {
      const one = caseOf('sequential-4096-1');
      const theirs = await costOf(workspace, sources, qemu!, one, share);
      // 32 writes of 4 KiB are two clusters, each copied but for the first write into it.
      expect(theirs.guestBytes).toBe(2 * 65536);
      expect(theirs.serving.backingReadBytes).toBe(2 * (65536 - 4096));
      const cost = await costOf(workspace, sources, ours!, one, share);
      expect(cost.serving.syncs).toBeLessThanOrEqual(cost.flushes + 2);
      expect(cost.serving.backingReadBytes + cost.closing.backingReadBytes).toBe(0);
    });
  });

  it('lets everybody run in every round, and one who fails drop out alone', async () => {
    await withContenders(['v1', 'ordered', 'raw'], async (workspace, _, list) => {
      const broken = list.map((contender) =>
        contender.id === 'ordered'
          ? { ...contender, prepare: () => Promise.reject(new BenchmarkFailure('no image')) }
          : contender,
      );
      const failed: string[] = [];
      const plan = { rounds: 2, share };
      const series = await ratesOf(workspace, broken, caseOf('random-1'), plan, ({ id }) => failed.push(id));
      expect(failed).toEqual(['ordered']);
      expect([...series.keys()]).toEqual(['v1', 'raw']);
      for (const { writesPerSecond, flushP50Us, flushP99Us } of series.values()) {
        expect(writesPerSecond).toHaveLength(2);
        // 30 flushes in a round are too few for percentiles of its own.
        expect(flushP50Us).toHaveLength(1);
        expect(flushP99Us[0]).toBeGreaterThanOrEqual(flushP50Us[0]!);
      }
    });
  });

  it('makes a log that is not in place, and finds every record of it again', async () => {
    await withContenders([], async (workspace) => {
      const plan = { rounds: 1, ringBytes: 2 ** 22, liveBytes: 2 ** 20 };
      const figures = await replayOf(workspace, 2 ** 30, plan);
      expect(figures.liveBytes).toBeGreaterThanOrEqual(2 ** 20);
      expect(figures.records).toBeGreaterThan(100);
      expect(figures.readBytes).toBeGreaterThan(figures.liveBytes);
    });
  });
});
