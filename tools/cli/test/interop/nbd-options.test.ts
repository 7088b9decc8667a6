/** Options of NBD names: a server that comes late, one that goes and comes back, and what its bitmaps mark. Beside qemu-img. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectNbd } from '@qcow2/nbd';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, run, scratchFolder } from '../support/command.ts';
import { isListening } from '../support/listening.ts';
import { describeWith } from '../support/peers.ts';

const mebibyte = 1024 * 1024;

describeWith(['qemu-img', 'qemu-io', 'qemu-nbd'], 'options of NBD names', () => {
  const scratch = scratchFolder();
  const cwd = scratch.path;
  const inScratch = (name: string): string => join(cwd, name);
  const running = new Set<ChildProcess>();

  function spawnServer(program: string, socket: string, ...args: string[]): ChildProcess {
    const [command, ...words] = program === 'qemu-nbd' ? [program] : [launcher, 'serve'];
    const child = spawn(command!, [...words, '-t', '-e', '0', '-k', socket, ...args], {
      cwd,
      stdio: 'ignore',
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    running.add(child);
    return child;
  }
  async function started(program: string, socket: string, ...args: string[]): Promise<ChildProcess> {
    const child = spawnServer(program, socket, ...args);
    while (!isListening(socket)) {
      expect(child.exitCode).toBe(null);
      await sleep(5);
    }
    return child;
  }
  async function killed(child: ChildProcess): Promise<void> {
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
    running.delete(child);
  }

  beforeAll(() => {
    writeFileSync(inScratch('disk.raw'), new Uint8Array(4 * mebibyte).fill(3));
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'dirty.qcow2', '4M'], { cwd });
    must('qemu-io', ['-c', 'write -P 1 0 1M', 'dirty.qcow2'], { cwd });
    must('qemu-img', ['bitmap', '--add', 'dirty.qcow2', 'marks'], { cwd });
    must('qemu-io', ['-c', 'write -P 2 1M 64k', '-c', 'write -z 2M 64k', 'dirty.qcow2'], { cwd });
  }, hookLimitMs);
  afterAll(async () => {
    for (const child of [...running]) await killed(child);
    scratch.remove();
  });

  describe.each(['qemu-nbd', 'serve'])('x-dirty-bitmap, of %s', (program) => {
    const socket = inScratch(`marks-${program}`);
    const name = `driver=nbd,path=${socket},x-dirty-bitmap=`;
    beforeAll(async () => {
      await started(program, socket, '-r', '-B', 'marks', 'dirty.qcow2');
    });

    it('map shows what is marked as qemu-img does', () => {
      // Which zeros have a place, the command does not show of a server's; qemu-nbd's disk has none.
      const allocation = program === 'qemu-nbd' ? ['base:allocation'] : [];
      for (const context of ['qemu:dirty-bitmap:marks', ...allocation]) {
        for (const output of ['json', 'human']) {
          const words = ['map', `--output=${output}`, '--image-opts', `${name}${context}`];
          const ours = qcow2(words, { cwd });
          expect(ours).toEqual(run('qemu-img', words, { cwd }));
          expect(ours.status).toBe(0);
        }
      }
    });

    it('what is marked is copied all the same', () => {
      must(launcher, ['convert', '-O', 'raw', '--image-opts', `${name}qemu:dirty-bitmap:marks`, 'copy'], {
        cwd,
      });
      expect(run('qemu-img', ['compare', '-F', 'raw', 'dirty.qcow2', 'copy'], { cwd }).status).toBe(0);
    });

    it('a context that is not there is refused', () => {
      const theirs = run('qemu-img', ['map', '--image-opts', `${name}none`], { cwd });
      const ours = qcow2(['map', '--image-opts', `${name}none`], { cwd });
      expect(ours.status).toBe(theirs.status);
      const said = theirs.stderr.replace('qemu-img', 'qcow2').trimEnd();
      expect(ours.stderr).toBe(`${said}: the server does not offer the metadata context 'none'\n`);
    });
  });

  it('refuses numbers and names that are none as qemu-img does', () => {
    for (const option of ['open-timeout=x', 'reconnect-delay=x', `x-dirty-bitmap=${'x'.repeat(5000)}`]) {
      const words = ['info', '--image-opts', `driver=nbd,path=none,${option}`];
      const theirs = run('qemu-img', words, { cwd });
      expect(qcow2(words, { cwd })).toEqual({
        ...theirs,
        stderr: theirs.stderr.replace('qemu-img', 'qcow2'),
      });
      expect(theirs.status).toBe(1);
    }
  });

  it('open-timeout waits for a server, and gives up after it', async () => {
    const socket = inScratch('late');
    const name = `driver=nbd,path=${socket},open-timeout=`;
    const missing = qcow2(['info', '--image-opts', `${name}1`], { cwd });
    expect(missing.status).toBe(1);
    expect(missing.stderr).toContain(`Failed to connect to '${socket}': No such file or directory`);
    const child = spawn(launcher, ['info', '--image-opts', `${name}60`], { cwd, stdio: 'ignore' });
    const ended = once(child, 'exit');
    await sleep(300);
    await started('qemu-nbd', socket, '-f', 'raw', 'disk.raw');
    expect((await ended)[0]).toBe(0);
  });

  describe.each(['qemu-nbd', 'serve'])('reconnect-delay, with %s', (program) => {
    it('what was asked while the server was killed is done when it is there again', async () => {
      const socket = inScratch(`again-${program}`);
      const raw = `again-${program}.raw`;
      writeFileSync(inScratch(raw), new Uint8Array(4 * mebibyte).fill(3));
      let server = await started(program, socket, '-f', 'raw', raw);
      const device = await connectNbd({ address: { path: socket } }, { reconnectDelayMs: 60_000 });
      for (let round = 1; round <= 3; round++) {
        // Many are under way, without an answer, when it goes.
        const writes = Array.from({ length: 64 }, (_, at) =>
          device.write(at * 65536, new Uint8Array(65536).fill(round * 64 + at)),
        );
        await killed(server);
        const read = new Uint8Array(512);
        const reading = device.read(0, read);
        server = await started(program, socket, '-f', 'raw', raw);
        await Promise.all([...writes, reading]);
        await device.flush();
        const all = new Uint8Array(4 * mebibyte);
        await device.read(0, all);
        expect(all.every((byte, at) => byte === ((round * 64 + Math.floor(at / 65536)) & 0xff))).toBe(true);
        expect([2 + round, round * 64, round * 64 - 64].includes(read[0]!)).toBe(true);
      }
      await device.close();
    });

    it('after that time requests fail, until the server is there; another export is none', async () => {
      const socket = inScratch(`gone-${program}`);
      const server = await started(program, socket, '-f', 'raw', 'disk.raw');
      const device = await connectNbd({ address: { path: socket } }, { reconnectDelayMs: 200 });
      const read = (): Promise<void> => device.read(0, new Uint8Array(512));
      await read();
      await killed(server);
      await expect(read()).rejects.toMatchObject({ code: 'READ_FAILED', cause: { code: 'CONNECTION_LOST' } });
      await expect(read()).rejects.toMatchObject({ code: 'READ_FAILED' });
      const again = await started(program, socket, '-f', 'raw', 'disk.raw');
      const works = (): Promise<boolean> =>
        read().then(
          () => true,
          () => false,
        );
      while (!(await works())) await sleep(5);
      await killed(again);
      writeFileSync(inScratch('other.raw'), new Uint8Array(mebibyte));
      await started(program, socket, '-f', 'raw', 'other.raw');
      const failure = async (): Promise<string> => await read().then(() => '', String);
      while (!(await failure()).includes('another export')) await sleep(5);
      await device.close();
      await expect(async () => await read()).rejects.toMatchObject({ code: 'CLOSED' });
    });
  });

  it('closing ends what waits', async () => {
    const socket = inScratch('closing');
    const server = await started('qemu-nbd', socket, '-f', 'raw', 'disk.raw');
    const device = await connectNbd({ address: { path: socket } }, { reconnectDelayMs: 3_600_000 });
    await killed(server);
    const reading = device.read(0, new Uint8Array(512)).catch((error: unknown) => error);
    await sleep(50);
    await device.close();
    expect(await reading).toMatchObject({ code: 'CLOSED' });
  });
});
