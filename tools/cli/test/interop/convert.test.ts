/** `convert` where qemu-img has nothing to be compared with: journals, encrypted targets, and copies that do not come to their end. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';
import { seededRandom } from '../support/random.ts';

const secret = ['--object', 'secret,id=s,data=abc'];

describeWith(['qemu-img', 'qemu-io'], 'convert', () => {
  const scratch = scratchFolder();
  const cwd = scratch.path;
  const seed = 11;
  beforeAll(() => {
    const random = seededRandom(seed);
    const bytes = new Uint8Array(6 * 1024 * 1024);
    for (let at = 0; at < bytes.length; at++) {
      // Noise, text that compresses, and zeros, in turn.
      const part = Math.floor(at / 200_000) % 3;
      if (part < 2) bytes[at] = part === 0 ? random.between(0, 255) : random.between(65, 68);
    }
    writeFileSync(join(cwd, 'disk.raw'), bytes);
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  const same = (...names: string[]): void => {
    expect(run('qemu-img', ['compare', ...names], { cwd }), `seed ${seed}`).toEqual({
      status: 0,
      stdout: 'Images are identical.\n',
      stderr: '',
    });
  };

  it('makes journalled images, of either profile, compressed or not', () => {
    for (const [options, ...more] of [
      ['journal=on'],
      ['journal=v1,journal_size=64k,journal_block_size=512,cluster_size=4k'],
      ['journal=on', '-c', '-W'],
      ['journal=draft-2013'],
    ]) {
      must(launcher, ['convert', '-O', 'qcow2', '-o', options!, ...more, 'disk.raw', 'journal.qcow2'], {
        cwd,
      });
      const check = qcow2(['check', 'journal.qcow2'], { cwd });
      expect(check.stdout, options).toMatch(/^No errors were found/);
      if (!options!.includes('draft')) same('disk.raw', 'journal.qcow2');
      else expect(qcow2(['compare', 'disk.raw', 'journal.qcow2'], { cwd }).status).toBe(0);
    }
  });

  it('makes an encrypted image that QEMU reads', () => {
    const options = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
    must(launcher, ['convert', ...secret, '-O', 'qcow2', '-o', options, 'disk.raw', 'luks.qcow2'], { cwd });
    const named = 'driver=qcow2,file.filename=luks.qcow2,encrypt.key-secret=s';
    same(...secret, '--image-opts', named, 'driver=raw,file.filename=disk.raw');
    // Nothing of the disk stands there as it is.
    const text = Buffer.from(readFileSync(join(cwd, 'disk.raw')).subarray(200_000, 200_032));
    expect(readFileSync(join(cwd, 'luks.qcow2')).includes(text)).toBe(false);
  });

  it('says that the target is incomplete when it is interrupted, and leaves no lock', async () => {
    const child = spawn(launcher, ['convert', '-r', '2M', '-m', '1', 'disk.raw', 'cut.raw'], {
      cwd,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    const written = (): number => {
      const path = join(cwd, 'cut.raw');
      return existsSync(path) ? statSync(path).blocks : 0;
    };
    while (written() === 0 && child.exitCode === null) await sleep(20);
    child.kill('SIGINT');
    const [code] = await once(child, 'close');
    expect({ code, said }).toEqual({ code: 1, said: "qcow2: interrupted\nqcow2: 'cut.raw' is incomplete\n" });
    expect(run('qemu-img', ['info', 'cut.raw'], { cwd }).status).toBe(0);
  });

  it('says where it stopped when there is no space, and that the target is incomplete', () => {
    const limited = `trap '' XFSZ; ulimit -f 2048; exec '${launcher}' convert -O qcow2 disk.raw full.qcow2`;
    const outcome = run('bash', ['-c', limited], { cwd });
    expect(outcome.status).toBe(1);
    expect(outcome.stderr).toMatch(
      /^qcow2: error while writing at byte \d+: .*\nqcow2: 'full\.qcow2' is incomplete\n$/,
    );
    // What there is of it is an image.
    expect(run('qemu-img', ['info', 'full.qcow2'], { cwd }).status).toBe(0);
  });

  it('writes to a journalled image that is there, and nowhere else', () => {
    must(launcher, ['create', '-q', '-f', 'qcow2', '-o', 'journal=on', 'old.qcow2', '8M'], { cwd });
    must('qemu-io', ['-c', 'write -P 9 0 8M', 'old.qcow2'], { cwd });
    must(launcher, ['convert', '-n', '-O', 'qcow2', 'disk.raw', 'old.qcow2'], { cwd });
    expect(qcow2(['check', '-q', 'old.qcow2'], { cwd }).status).toBe(0);
    const rest = ['-c', 'read -P 9 6M 2M', 'old.qcow2'];
    expect(run('qemu-io', rest, { cwd }).stdout).not.toContain('failed');
    must('qemu-img', ['resize', '-q', '--shrink', 'old.qcow2', '6M'], { cwd });
    same('disk.raw', 'old.qcow2');
  });
});
