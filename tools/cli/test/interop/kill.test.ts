/**
 * What the journal is for: a client of another project writes through `serve`, the server is killed in the
 * middle, and after recovery every byte that a flush answered for is there, as QEMU reads it, without an error
 * or a leak. Fifty rounds on one image, so that what is recovered is written to, killed and recovered again.
 *
 * QCOW2_SEED repeats the writes and the delays of a run (when exactly the kill hits is the machine's affair);
 * QCOW2_ROUNDS makes it longer.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';
import { withQemuNbd } from '../support/qemu-nbd.ts';
import { type Random, runSeed, seededRandom } from '../support/random.ts';

const rounds = Number(process.env.QCOW2_ROUNDS ?? 50);
/** A round takes a second where nothing else runs. */
const limitMs = 60_000 + rounds * 6_000;
const client = join(import.meta.dirname, '../support/nbd_client.py');
const qemuWrites = [
  'write -P 1 0 8M',
  'write -P 2 100M 3M',
  'write -P 3 1000M 70k',
  'write -z 4M 1M',
  'discard 6M 1M',
];

interface Verdict {
  readonly writes: number;
  readonly durable: number;
  readonly sectors: number;
  readonly newer: number;
  readonly wrong: readonly number[];
}

describeWith(['qemu-img', 'qemu-io', 'qemu-nbd', 'python3-libnbd'], 'killed in the middle of writing', () => {
  const scratch = scratchFolder();
  const [image, truth, log, socket, qemuSocket] = ['disk.qcow2', 'truth.raw', 'log', 'sock', 'qemu.sock'].map(
    (name) => join(scratch.path, name),
  ) as [string, string, string, string, string];

  beforeAll(() => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1G']);
    must('qemu-io', [...qemuWrites.flatMap((write) => ['-c', write]), image]);
    must('qemu-img', ['convert', '-O', 'raw', image, truth]);
    expect(qcow2(['journal', 'enable', '-q', image])).toEqual({ status: 0, stdout: '', stderr: '' });
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  it(
    `[JRN-RECOV-012, JRN-RECOV-015] every flushed byte is there after ${rounds} rounds, without an error or a leak`,
    async () => {
      const seed = runSeed();
      const random = seededRandom(seed);
      const totals = { writes: 0, flushed: 0, sectors: 0, newer: 0 };
      for (let round = 0; round < rounds; round++) {
        const roundSeed = `${seed}-${round}`;
        await writeAndKill(roundSeed, random);
        recover(round);
        expect(run('qemu-img', ['check', '-q', image]), `seed ${roundSeed}`).toEqual({
          status: 0,
          stdout: '',
          stderr: '',
        });
        const verdict = await verified(roundSeed);
        expect(verdict.wrong, `seed ${roundSeed}: sectors at these offsets hold neither old nor new`).toEqual(
          [],
        );
        totals.writes += verdict.writes;
        totals.flushed += verdict.durable;
        totals.sectors += verdict.sectors;
        totals.newer += verdict.newer;
      }
      process.stdout.write(
        `killed ${rounds} times, seed ${seed}: ${totals.writes} writes, ${totals.flushed} of them flushed, ` +
          `${totals.sectors} sectors read back, ${totals.newer} newer than their flush\n`,
      );
      // A test that never got past a flush, or never lost anything, would prove little.
      expect(totals.flushed).toBeGreaterThan(rounds);
      expect(qcow2(['check', image]).status).toBe(0);
      expect(run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', truth, image]).stdout).toBe(
        'Images are identical.\n',
      );
    },
    limitMs,
  );

  async function writeAndKill(seed: string, random: Random): Promise<void> {
    const server = await startServer(['-t', '-k', socket, image]);
    const writer = spawn(python, [client, 'write', socket, seed, log], { stdio: 'ignore' });
    const written = once(writer, 'close');
    await untilLogged(log, writer.pid);
    await sleep(random.between(0, 400));
    await server.end('SIGKILL');
    await written;
  }

  /** By turns: replay alone, and a server that is opened and ended in order. */
  function recover(round: number): void {
    if (round % 2 === 0) {
      expect(qcow2(['journal', 'replay', '-q', image])).toEqual({ status: 0, stdout: '', stderr: '' });
      return;
    }
    expect(qcow2(['check', '-q', image])).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(qcow2(['journal', 'disable', '-q', image]).status).toBe(0);
    expect(qcow2(['journal', 'enable', '-q', image]).status).toBe(0);
  }

  async function verified(seed: string): Promise<Verdict> {
    return await withQemuNbd(image, qemuSocket, () =>
      JSON.parse(must(python, [client, 'verify', qemuSocket, seed, log, truth])),
    );
  }
});

/** Until the client has begun. */
async function untilLogged(log: string, pid: number | undefined): Promise<void> {
  const started = Date.now();
  while (!(existsSync(log) && statSync(log).size > 0 && statSync(log).mtimeMs >= started - 1)) {
    expect(Date.now() - started, `client ${pid} has not begun`).toBeLessThan(30_000);
    await sleep(2);
  }
}
