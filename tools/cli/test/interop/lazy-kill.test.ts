/**
 * Lazy refcounts beside QEMU's: `serve` and the real qemu-nbd write to one image by turns, each killed in the middle, and
 * what they leave is repaired by turns as well, by our next open and by `qemu-img check -r all`. After each round
 * every flushed byte is there, without an error or a leak.
 *
 * QCOW2_SEED repeats the writes and the delays of a run.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';
import { withQemuNbd } from '../support/qemu-nbd.ts';
import { runSeed, seededRandom } from '../support/random.ts';

const rounds = 12;
const limitMs = 60_000 + rounds * 8_000;
const client = join(import.meta.dirname, '../support/nbd_client.py');

describeWith(
  ['qemu-img', 'qemu-nbd', 'python3-libnbd'],
  'lazy refcounts, killed in the middle of writing',
  () => {
    const scratch = scratchFolder();
    const [image, truth, log, socket] = ['disk.qcow2', 'truth.raw', 'log', 'sock'].map((name) =>
      join(scratch.path, name),
    ) as [string, string, string, string];

    beforeAll(() => {
      expect(qcow2(['create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', image, '1G']).status).toBe(0);
      must('qemu-img', ['create', '-q', '-f', 'raw', truth, '1G']);
    }, hookLimitMs);
    afterAll(() => scratch.remove());

    it(
      `[FEA-001, LAZ-005] nothing flushed is lost in ${rounds} rounds, whoever was killed and whoever repairs`,
      async () => {
        const seed = runSeed();
        const random = seededRandom(seed);
        const seen = { flushed: 0, repairedByUs: 0, repairedByQemu: 0 };
        for (let round = 0; round < rounds; round++) {
          const roundSeed = `${seed}-${round}`;
          await writeAndKill(round % 2 === 0, roundSeed, random.between(50, 400));
          const dirty = isDirty();
          if (round % 4 < 2) {
            await openAndClose();
            if (dirty) seen.repairedByUs++;
          } else {
            // 0: nothing to do; 2 and 3 would say that something is left.
            expect(run('qemu-img', ['check', '-q', '-r', 'all', image]).status, roundSeed).toBe(0);
            if (dirty) seen.repairedByQemu++;
          }
          const clean = { status: 0, stdout: '', stderr: '' };
          expect(run('qemu-img', ['check', '-q', image]), roundSeed).toEqual(clean);
          expect(qcow2(['check', '-q', image]), roundSeed).toEqual(clean);
          expect(isDirty()).toBe(false);
          const verdict = await withQemuNbd(image, socket, () =>
            JSON.parse(must(python, [client, 'verify', socket, roundSeed, log, truth])),
          );
          expect(verdict.wrong, `seed ${roundSeed}: sectors hold neither old nor new`).toEqual([]);
          seen.flushed += verdict.durable;
        }
        process.stdout.write(
          `lazy refcounts, killed ${rounds} times, seed ${seed}: ${JSON.stringify(seen)}\n`,
        );
        expect(seen.flushed).toBeGreaterThan(rounds);
        expect(seen.repairedByUs).toBeGreaterThan(0);
        expect(seen.repairedByQemu).toBeGreaterThan(0);
      },
      limitMs,
    );

    async function writeAndKill(ours: boolean, seed: string, delayMs: number): Promise<void> {
      rmSync(log, { force: true });
      const server = ours ? (await startServer(['-t', '-k', socket, image])).process : await startQemu();
      const ended = once(server, 'close');
      const writer = spawn(python, [client, 'write', socket, seed, log], { stdio: 'ignore' });
      const written = once(writer, 'close');
      for (let waited = 0; !(existsSync(log) && statSync(log).size > 0); waited++) {
        expect(waited, 'the client has not begun').toBeLessThan(15_000);
        await sleep(2);
      }
      await sleep(delayMs);
      server.kill('SIGKILL');
      await Promise.all([ended, written]);
      rmSync(socket, { force: true });
    }

    async function startQemu(): Promise<ChildProcess> {
      const child = spawn('qemu-nbd', ['-t', '-f', 'qcow2', '-k', socket, image], { stdio: 'ignore' });
      for (let waited = 0; !existsSync(socket) && child.exitCode === null && waited < 2000; waited++)
        await sleep(5);
      return child;
    }

    /** A server that is opened and ended in order: the repair at open, and a clean close. */
    async function openAndClose(): Promise<void> {
      const server = await startServer(['-t', '-k', socket, image]);
      expect(await server.end('SIGTERM')).toBe(0);
    }

    function isDirty(): boolean {
      const info = JSON.parse(must('qemu-img', ['info', '--output=json', image]));
      return info['dirty-flag'] === true;
    }
  },
);
