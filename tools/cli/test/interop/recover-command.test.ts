/** The command `recover`: what it says, its exit codes, what it makes, and that its source stays as it is. */
import { spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createImage, openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

/** A process of its own: it loads its code by a run on a copy, lets go of root, sees that writing is refused, and recovers. */
const runner = `
import { openSync } from 'node:fs';
import { runProgram } from './src/program.ts';
const [copy, locked, folder] = JSON.parse(process.argv.at(-1));
let text = '';
const context = { programName: 'qcow2', out: (more) => void (text += more), err: (more) => void (text += more), stop: new AbortController().signal };
const statuses = [await runProgram(['recover', copy, folder + '/first.qcow2'], context, '0')];
if (process.getuid() === 0) {
  process.setgroups([]);
  process.setegid(65534);
  process.seteuid(65534);
}
let refused = '';
try {
  openSync(locked, 'r+');
} catch (error) {
  refused = error.code;
}
statuses.push(await runProgram(['recover', locked, folder + '/second.qcow2'], context, '0'));
console.log(JSON.stringify({ refused, statuses, text }));
process.exit(0);
`;

describeWith(['qemu-img', 'qemu-io'], 'recover', () => {
  const scratch = scratchFolder();
  const cwd = scratch.path;
  const at = (name: string): string => join(cwd, name);
  afterAll(() => scratch.remove());

  beforeAll(() => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'sound.qcow2', '8M'], { cwd });
    must('qemu-io', ['-c', 'write -P 1 0 1M', '-c', 'write -P 2 4M 1M', 'sound.qcow2'], { cwd });
    must('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'sound.qcow2', '-F', 'qcow2', 'top.qcow2'], {
      cwd,
    });
    must('qemu-io', ['-c', 'write -P 3 512k 64k', 'top.qcow2'], { cwd });
    must('qemu-img', ['convert', '-c', '-O', 'qcow2', 'sound.qcow2', 'compressed.qcow2'], { cwd });
  }, hookLimitMs);

  const damaged = (from: string, name: string, change: (view: DataView, l2: number) => void): void => {
    const bytes = new Uint8Array(readFileSync(at(from)));
    const view = new DataView(bytes.buffer);
    change(view, Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00ff_ffff_ffff_fe00n));
    writeFileSync(at(name), bytes);
  };
  const recovered = (...words: string[]) => {
    const { status, stdout, stderr } = qcow2(['recover', '--output=json', ...words], { cwd });
    return { status, stderr, report: stdout === '' ? undefined : JSON.parse(stdout) };
  };

  it('all found: the same disk, and exit code 0', () => {
    const { status, report } = recovered('sound.qcow2', 'same.qcow2');
    expect(status).toBe(0);
    expect(report).toMatchObject({
      found: 8 << 20,
      guess: 0,
      lost: 0,
      guesses: [],
      'unreferenced-clusters': 0,
    });
    expect(report.ranges).toEqual([{ start: 0, length: 8 << 20, state: 'found', why: 'found' }]);
    must('qemu-img', ['compare', '-q', 'sound.qcow2', 'same.qcow2'], { cwd });
    must('qemu-img', ['check', '-q', 'same.qcow2'], { cwd });
    expect(qcow2(['recover', 'sound.qcow2', 'same.qcow2'], { cwd })).toMatchObject({
      status: 1,
      stderr: "qcow2: 'same.qcow2' is there already: a recovery makes a new image\n",
    });
  });

  it('an entry that leads nowhere is lost, with zeros in its place, and exit code 2', () => {
    damaged('sound.qcow2', 'entry.qcow2', (view, l2) =>
      view.setBigUint64(l2 + 3 * 8, 0x8000_0000_1234_5600n),
    );
    const before = { bytes: readFileSync(at('entry.qcow2')), ...statSync(at('entry.qcow2')) };
    const { status, report } = recovered('-O', 'raw', 'entry.qcow2', 'entry.raw');
    expect(status).toBe(2);
    expect(report.ranges).toContainEqual({
      start: 196608,
      length: 65536,
      state: 'lost',
      why: 'entry-damaged',
    });
    const disk = readFileSync(at('entry.raw'));
    expect([disk[196607], disk[196608], disk[262143], disk[262144]]).toEqual([1, 0, 0, 1]);
    expect(readFileSync(at('entry.qcow2')).equals(before.bytes)).toBe(true);
    expect(statSync(at('entry.qcow2')).mtimeMs).toBe(before.mtimeMs);
  });

  it('an entry one bit away from its cluster is found by that guess, and exit code 3', () => {
    damaged('sound.qcow2', 'bit.qcow2', (view, l2) =>
      view.setBigUint64(l2 + 3 * 8, view.getBigUint64(l2 + 3 * 8) ^ (1n << 40n)),
    );
    const { status, report } = recovered('bit.qcow2', 'bit-out.qcow2');
    expect(status).toBe(3);
    expect(report.ranges).toContainEqual({ start: 196608, length: 65536, state: 'guess', why: 'one-bit' });
    must('qemu-img', ['compare', '-q', 'sound.qcow2', 'bit-out.qcow2'], { cwd });
  });

  it('two entries for one cluster are both lost; --guess takes them', () => {
    damaged('sound.qcow2', 'twice.qcow2', (view, l2) => view.setBigUint64(l2 + 3 * 8, view.getBigUint64(l2)));
    expect(recovered('twice.qcow2', 'twice-out.qcow2').report.ranges.slice(0, 4)).toEqual([
      { start: 0, length: 65536, state: 'lost', why: 'used-twice' },
      { start: 65536, length: 131072, state: 'found', why: 'found' },
      { start: 196608, length: 65536, state: 'lost', why: 'used-twice' },
      { start: 262144, length: 786432, state: 'found', why: 'found' },
    ]);
    const { status, report } = recovered('--guess', 'twice.qcow2', 'twice-guess.qcow2');
    expect({ status, lost: report.lost }).toEqual({ status: 3, lost: 0 });
  });

  it('a header without its tables: they are looked for, and each is told', () => {
    damaged('sound.qcow2', 'header.qcow2', (view) => {
      for (const from of [0, 20, 40, 44, 48, 52]) view.setUint32(from, 0);
    });
    const { status, report } = recovered('header.qcow2', 'header-out.qcow2');
    expect(status).toBe(3);
    expect(report.guesses).toEqual([
      'the magic number',
      'clusters of 65536 bytes',
      'refcount table at 65536',
      'L1 table at 196608',
    ]);
    must('qemu-img', ['compare', '-q', 'sound.qcow2', 'header-out.qcow2'], { cwd });
  });

  it('a file that was cut off: what was behind its end is lost', () => {
    writeFileSync(at('cut.qcow2'), readFileSync(at('sound.qcow2')));
    truncateSync(at('cut.qcow2'), statSync(at('cut.qcow2')).size - 5 * 65536);
    const { status, report } = recovered('cut.qcow2', 'cut-out.qcow2');
    expect(status).toBe(2);
    expect(report.ranges).toContainEqual({
      start: (5 << 20) - 5 * 65536,
      length: 5 * 65536,
      state: 'lost',
      why: 'beyond-file',
    });
  });

  it('compressed data that does not inflate is lost, its neighbours are found', () => {
    damaged('compressed.qcow2', 'inflate.qcow2', (view, l2) => {
      const offset = Number(view.getBigUint64(l2) & ((1n << 54n) - 1n));
      for (let byte = 0; byte < 8; byte++) view.setUint8(offset + byte, 0);
    });
    const { status, report } = recovered('inflate.qcow2', 'inflate-out.qcow2');
    expect(status).toBe(2);
    expect(report.ranges.slice(0, 2)).toEqual([
      { start: 0, length: 65536, state: 'lost', why: 'not-decoded' },
      { start: 65536, length: (8 << 20) - 65536, state: 'found', why: 'found' },
    ]);
  });

  it('a backing file shows through; without it what it showed is lost', () => {
    expect(recovered('top.qcow2', 'top-out.qcow2').status).toBe(0);
    must('qemu-img', ['compare', '-q', 'top.qcow2', 'top-out.qcow2'], { cwd });
    const { status, report } = recovered('--no-backing', 'top.qcow2', 'alone.qcow2');
    expect({ status, found: report.found }).toEqual({ status: 2, found: 65536 });
    expect(report.ranges[0]).toEqual({ start: 0, length: 524288, state: 'lost', why: 'backing-missing' });
    damaged('top.qcow2', 'orphan.qcow2', (view) => view.setUint8(Number(view.getBigUint64(8)), 0x78));
    expect(recovered('orphan.qcow2', 'x.qcow2')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('--no-backing does without'),
    });
  });

  it('a dirty journal is replayed, in memory', async () => {
    const file = openFile(at('dirty.qcow2'), { create: 'exclusive' });
    await createImage(file, { sizeBytes: 2 ** 20, journal: {} });
    const image = await openImage(file);
    await image.write(4096, new Uint8Array(4096).fill(5));
    await image.flush();
    image.abandon();
    await file.close();
    const before = readFileSync(at('dirty.qcow2'));
    expect(recovered('-O', 'raw', 'dirty.qcow2', 'dirty.raw').status).toBe(0);
    const disk = readFileSync(at('dirty.raw'));
    expect([disk[4095], disk[4096], disk[8191], disk[8192]]).toEqual([0, 5, 5, 0]);
    expect(readFileSync(at('dirty.qcow2')).equals(before)).toBe(true);
  });

  it('a source without write permission is read, and not one byte of it changes', () => {
    writeFileSync(at('locked.qcow2'), readFileSync(at('sound.qcow2')));
    must('mkdir', ['made'], { cwd });
    chmodSync(at('locked.qcow2'), 0o444);
    chmodSync(at('made'), 0o777);
    chmodSync(cwd, 0o555);
    const before = {
      bytes: readFileSync(at('locked.qcow2')),
      modified: statSync(at('locked.qcow2')).mtimeMs,
    };
    try {
      const words = ['--conditions=qcow2-source', '--input-type=module', '-e', runner];
      const argument = JSON.stringify([at('sound.qcow2'), at('locked.qcow2'), at('made')]);
      const { stdout, stderr } = spawnSync(process.execPath, [...words, argument], {
        encoding: 'utf8',
        cwd: join(import.meta.dirname, '../..'),
        env: { ...process.env, NODE_OPTIONS: '' },
      });
      expect(stderr).toBe('');
      expect(JSON.parse(stdout)).toMatchObject({ refused: 'EACCES', statuses: [0, 0] });
    } finally {
      chmodSync(cwd, 0o755);
    }
    expect(readFileSync(at('locked.qcow2')).equals(before.bytes)).toBe(true);
    expect(statSync(at('locked.qcow2')).mtimeMs).toBe(before.modified);
    must('qemu-img', ['compare', '-q', 'sound.qcow2', 'made/second.qcow2'], { cwd });
  });

  it('says what it can not do', () => {
    writeFileSync(at('noise.bin'), new Uint8Array(300_000).fill(7));
    for (const [words, message] of [
      [['noise.bin', 'x.qcow2'], "Could not recover 'noise.bin': neither the header nor a scan"],
      [['sound.qcow2'], 'Expecting the names of a damaged image and of a new one'],
      [['--cluster-size', '3000', 'sound.qcow2', 'x.qcow2'], 'Cluster size must be a power of two'],
    ] as const) {
      expect(recovered(...words)).toMatchObject({ status: 1, stderr: expect.stringContaining(message) });
    }
  });
});
