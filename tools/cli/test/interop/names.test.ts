/**
 * What the command opens because an image says so, seen from outside: strace tells every file that was opened. The traps are those
 * of CVE-2024-4467 (a data file named by `json:`) and of format probing (a raw base into which its guest wrote a header).
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

const clean = { status: 0, stdout: '', stderr: '' };
const secretText = 'what no client is to see';

describeWith(['qemu-img', 'qemu-io', 'nbdinfo', 'strace'], 'names that stand in images', () => {
  const scratch = scratchFolder();
  const folder = { cwd: scratch.path };
  const inScratch = (name: string): string => join(scratch.path, name);
  const create = (name: string, backing: string, format: string): void => {
    must('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', backing, '-F', format, name, '1M'], folder);
  };
  /** As `create`, and no format is named. */
  const createUnnamed = async (name: string, backingFile: string): Promise<void> => {
    const device = openFile(inScratch(name), { create: 'truncate' });
    await createImage(device, { sizeBytes: 2 ** 20, backingFile });
    await device.close();
  };
  beforeAll(async () => {
    writeFileSync(inScratch('secret'), secretText.padEnd(4096));
    must('mkdir', ['-p', 'jail'], folder);
    // CVE-2024-4467: whoever looks at the image opens what the name says.
    for (const [name, file] of [
      ['json-data', `json:{"driver":"file","filename":"${inScratch('secret')}"}`],
      ['remote-data', 'nbd://127.0.0.1:1/x'],
      ['plain-data', 'secret'],
    ] as const) {
      const device = openFile(inScratch(`jail/${name}.qcow2`), { create: 'truncate' });
      const data = openFile(inScratch('scratch.data'), { create: 'truncate' });
      await createImage(device, { sizeBytes: 2 ** 20, dataFile: { device: data, name: file, raw: true } });
      await device.close();
      await data.close();
    }
    // The guest of a raw disk writes the header of an image that names the secret.
    create('planted.raw', inScratch('secret'), 'raw');
    create('over-planted.qcow2', 'planted.raw', 'raw');
    await createUnnamed('guessing.qcow2', 'planted.raw');
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'honest.qcow2', '1M'], folder);
    must('qemu-io', ['-c', 'write -P 9 0 64k', 'honest.qcow2'], folder);
    await createUnnamed('unnamed.qcow2', 'honest.qcow2');
    create('jail/out.qcow2', '../honest.qcow2', 'qcow2');
    create('remote.qcow2', 'nbd://127.0.0.1:1/x', 'raw');
    create('other.qcow2', 'ssh://127.0.0.1/x', 'raw');
    create(
      'json.qcow2',
      `json:{"driver":"qcow2","file":{"driver":"file","filename":"${inScratch('honest.qcow2')}"}}`,
      'qcow2',
    );
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  /** What a run opens of the folder of this test, and whether it connects anywhere. */
  function opened(words: readonly string[]): { files: string[]; connects: boolean; status: number | null } {
    const trace = inScratch('trace');
    rmSync(trace, { force: true });
    const words2 = ['-f', '-qq', '-o', trace, '-e', 'trace=openat,open,connect', launcher, ...words];
    const { status } = run('strace', words2, folder);
    const lines = readFileSync(trace, 'utf8').split('\n');
    const files = lines.flatMap((line) => {
      const path = /open(?:at)?\(.*?"([^"]*)".*= \d+$/.exec(line)?.[1];
      return path === undefined || (path.startsWith('/') && !path.startsWith(scratch.path)) ? [] : [path];
    });
    const connects = lines.some((line) => /connect\(.*AF_INET/.test(line));
    return {
      files: [...new Set(files.map((path) => path.replace(`${scratch.path}/`, '')))],
      connects,
      status,
    };
  }

  it.each(['json-data', 'remote-data', 'plain-data'])(
    'info and check open no data file, whatever its name: %s',
    (name) => {
      const image = `jail/${name}.qcow2`;
      for (const words of [
        ['info', image],
        ['info', '--backing-chain', image],
        ['info', '--untrusted', image],
        ['check', image],
        ['check', '--untrusted', '--confine', 'jail', image],
      ]) {
        expect(opened(words), words.join(' ')).toEqual({ files: [image], connects: false, status: 0 });
      }
    },
  );

  it.each([
    ['json-data', [], 'a data file is named by a path'],
    ['json-data', ['--allow-remote'], 'a data file is named by a path'],
    ['remote-data', ['--allow-remote'], 'a data file is named by a path'],
    ['plain-data', ['--untrusted'], 'not trusted'],
  ])('serve does not follow %s %j', (name, flags, message) => {
    const words = ['serve', '-k', 'sock', ...flags, `jail/${name}.qcow2`];
    const outcome = qcow2(words, folder);
    expect(outcome.stderr).toContain(message);
    expect(opened(words).files).toEqual([`jail/${name}.qcow2`]);
  });

  it.each([[['serve', '-k', 'sock']], [['info', '--backing-chain']]])(
    '%j connects where it is told that it may',
    (command) => {
      const words = [...command, '--allow-remote', 'remote.qcow2'];
      expect(qcow2(words, folder)).toMatchObject({
        status: 1,
        stderr: expect.stringContaining("Failed to connect to '127.0.0.1:1': Connection refused"),
      });
      expect(opened(words)).toMatchObject({ connects: true });
    },
  );

  it('a raw base is raw: the header that its guest wrote there is bytes, and names nothing', async () => {
    const server = await startServer(['-r', '-t', '-k', inScratch('sock'), inScratch('over-planted.qcow2')]);
    const uri = `nbd+unix:///?socket=${inScratch('sock')}`;
    must('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x51 0 1', uri]);
    expect(await server.end('SIGTERM')).toBe(0);
    const info = qcow2(['info', '--backing-chain', 'over-planted.qcow2'], folder);
    expect(info.stdout).toContain('image: planted.raw\nfile format: raw');
    expect(info.stdout).not.toContain('secret');
  });

  it('where no format is named, a base that looks like an image is one, and the name in it is not followed', async () => {
    const refused = qcow2(['serve', '-k', 'sock', 'guessing.qcow2'], folder);
    expect(refused.status).toBe(1);
    expect(refused.stderr).toContain('Could not open backing file');
    expect(refused.stderr).toContain('is an image and not a raw disk');
    const { files } = opened(['serve', '-k', 'sock', 'guessing.qcow2']);
    expect(files).toContain('planted.raw');
    expect(files).not.toContain('secret');
    expect(opened(['info', '--backing-chain', 'guessing.qcow2'])).toMatchObject({ status: 1 });
    expect(opened(['info', '--backing-chain', 'guessing.qcow2']).files).not.toContain('secret');
    const server = await startServer(['-r', '-t', '-k', inScratch('sock'), inScratch('unnamed.qcow2')]);
    must('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 9 0 64k', `nbd+unix:///?socket=${inScratch('sock')}`]);
    expect(await server.end('SIGTERM')).toBe(0);
  });

  it.each([
    [['--untrusted', 'json.qcow2'], 'not trusted'],
    [['--untrusted', 'over-planted.qcow2'], 'not trusted'],
    [['--confine', 'jail', 'jail/out.qcow2'], 'does not lie in'],
    [['--confine', 'jail', 'json.qcow2'], 'does not lie in'],
    [['--confine', 'gone', 'json.qcow2'], 'is no directory'],
    [['remote.qcow2'], 'without --allow-remote'],
    [['--allow-remote', 'other.qcow2'], "Protocol 'ssh' is not supported"],
  ])('serve and info --backing-chain refuse %j', (words, message) => {
    for (const command of [
      ['serve', '-k', 'sock'],
      ['info', '--backing-chain'],
    ]) {
      const outcome = qcow2([...command, ...words], folder);
      expect(outcome.status).toBe(1);
      expect(outcome.stderr).toContain(message);
      expect(opened([...command, ...words])).toMatchObject({ connects: false });
    }
    expect(
      qcow2(
        [
          'check',
          '-q',
          ...words.filter((word) => word !== 'gone' && word !== 'jail' && word !== '--confine'),
        ],
        folder,
      ),
    ).toEqual(clean);
  });

  it('journal takes the same options: what has a data file is not opened for writing without it', () => {
    const journal = (...words: string[]) => qcow2(['journal', 'enable', ...words], folder).stderr;
    expect(journal('--untrusted', 'jail/plain-data.qcow2')).toContain('not trusted');
    writeFileSync(inScratch('jail/secret'), '');
    expect(journal('--confine', '/proc/self', 'jail/plain-data.qcow2')).toContain('does not lie in');
    expect(journal('--confine', 'gone', 'honest.qcow2')).toContain('is no directory');
  });

  it('json: names that mean a local file are followed', async () => {
    const info = qcow2(['info', '--backing-chain', 'json.qcow2'], folder);
    expect(info.stdout).toContain(`image: ${inScratch('honest.qcow2')}`);
    const server = await startServer(['-r', '-t', '-k', inScratch('sock'), inScratch('json.qcow2')]);
    must('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 9 0 64k', `nbd+unix:///?socket=${inScratch('sock')}`]);
    expect(await server.end('SIGTERM')).toBe(0);
  });
});
