/**
 * `--dry-run`: what it says is what is then done, and until then not a byte is another, nor a time. Modes say nothing to root: who runs the
 * tests as root gives that up for the files that may not be written to.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

const commands: readonly (readonly string[])[] = [
  ['check', '-r', 'all', '--dry-run', '--output=json', 'damaged.qcow2'],
  ['check', '-r', 'leaks', '--dry-run', 'damaged.qcow2'],
  ['check', '-r', 'all', '--dry-run', '--output=json', 'journalled.qcow2'],
  ['commit', '--dry-run', 'top.qcow2'],
  ['commit', '--dry-run', '-d', 'top.qcow2'],
  ['rebase', '--dry-run', '-b', 'other.qcow2', '-F', 'qcow2', 'top.qcow2'],
  ['rebase', '--dry-run', '-b', '', 'top.qcow2'],
  ['rebase', '--dry-run', '-u', '-b', 'moved.qcow2', '-F', 'qcow2', 'top.qcow2'],
  ['resize', '--dry-run', '--shrink', 'top.qcow2', '1M'],
  ['resize', '--dry-run', '--shrink', 'journalled.qcow2', '1M'],
  ['resize', '--dry-run', 'top.qcow2', '+64M'],
  ['resize', '--dry-run', '--shrink', '-f', 'raw', 'disk.raw', '64k'],
];

/**
 * A process of its own: it runs the commands in a copy, so that all code is loaded, lets go of root, sees that writing is refused, and runs
 * them on the files.
 */
const runner = `
import { openSync } from 'node:fs';
import { runProgram } from './src/program.ts';
const [commands, copy, locked] = JSON.parse(process.argv.at(-1));
const runAll = async (folder) => {
  process.chdir(folder);
  const outcomes = [];
  for (const words of commands) {
    let text = '';
    const write = (more) => void (text += more);
    const context = { programName: 'qcow2', out: write, err: write, stop: new AbortController().signal };
    outcomes.push({ status: await runProgram(words, context, '0'), text });
  }
  return outcomes;
};
const first = await runAll(copy);
if (process.getuid() === 0) {
  process.setgroups([]);
  process.setegid(65534);
  process.seteuid(65534);
}
let refused = '';
try {
  openSync(locked + '/top.qcow2', 'r+');
} catch (error) {
  refused = error.code;
}
console.log(JSON.stringify({ refused, first, second: await runAll(locked) }));
process.exit(0);
`;

describeWith(['qemu-img', 'qemu-io'], '--dry-run', () => {
  const scratch = scratchFolder();
  const start = join(scratch.path, 'start');
  afterAll(() => scratch.remove());

  beforeAll(() => {
    mkdirSync(start);
    const cwd = start;
    const create = (...args: string[]) => must('qemu-img', ['create', '-q', '-f', 'qcow2', ...args], { cwd });
    create('base.qcow2', '3M');
    create('other.qcow2', '4M');
    must('qemu-io', ['-c', 'write -P 1 0 1M', 'base.qcow2'], { cwd });
    must('qemu-io', ['-c', 'write -P 1 0 256k', 'other.qcow2'], { cwd });
    create('-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2', '4M');
    must('qemu-io', ['-c', 'write -P 2 512k 1M', '-c', 'write -z 2M 512k', 'top.qcow2'], { cwd });
    must(
      launcher,
      ['create', '-q', '-f', 'qcow2', '-o', 'journal=on,journal_size=1M', 'journalled.qcow2', '4M'],
      {
        cwd,
      },
    );
    must('qemu-io', ['-c', 'write -P 3 0 2M', 'journalled.qcow2'], { cwd });
    create('damaged.qcow2', '4M');
    must('qemu-io', ['-c', 'write -P 4 0 1M', 'damaged.qcow2'], { cwd });
    const bytes = new Uint8Array(readFileSync(join(cwd, 'damaged.qcow2')));
    const view = new DataView(bytes.buffer);
    const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00ff_ffff_ffff_fe00n);
    const block = Number(view.getBigUint64(Number(view.getBigUint64(48))));
    view.setBigUint64(l2, 0n);
    view.setUint16(block + 2 * 7, 0);
    writeFileSync(join(cwd, 'damaged.qcow2'), bytes);
    writeFileSync(join(cwd, 'disk.raw'), new Uint8Array(1 << 20).fill(5));
  }, hookLimitMs);

  const fresh = (name: string): string => {
    const cwd = join(scratch.path, name);
    cpSync(start, cwd, { recursive: true });
    return cwd;
  };
  const stateOf = (folder: string): unknown =>
    readdirSync(folder).map((name) => {
      const { size, mtimeMs } = statSync(join(folder, name));
      return {
        name,
        size,
        mtimeMs,
        same: readFileSync(join(folder, name)).equals(readFileSync(join(start, name))),
      };
    });

  it('writes not a byte, with the permission to write and without it', () => {
    const copy = fresh('copy');
    const locked = fresh('locked');
    for (const name of readdirSync(locked)) chmodSync(join(locked, name), 0o444);
    chmodSync(locked, 0o555);
    chmodSync(scratch.path, 0o755);
    const before = [stateOf(copy), stateOf(locked)];
    try {
      const words = ['--conditions=qcow2-source', '--input-type=module', '-e', runner];
      const argument = JSON.stringify([commands, copy, locked]);
      const { stdout, stderr } = spawnSync(process.execPath, [...words, argument], {
        encoding: 'utf8',
        cwd: join(import.meta.dirname, '../..'),
        env: { ...process.env, NODE_OPTIONS: '' },
      });
      expect(stderr).toBe('');
      const { refused, first, second } = JSON.parse(stdout);
      expect(refused).toBe('EACCES');
      expect(first).toEqual(second);
      const statuses = first.map(({ status }: { status: number }) => status);
      expect(statuses, JSON.stringify(first)).toEqual([2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    } finally {
      chmodSync(locked, 0o755);
    }
    expect([stateOf(copy), stateOf(locked)]).toEqual(before);
    expect(JSON.stringify(before)).not.toContain('"same":false');
  });

  it('of a repair: what is put right, and how long the file is then', () => {
    const cwd = fresh('repair');
    const words = ['check', '-r', 'all', '--output=json', 'damaged.qcow2'];
    const dry = qcow2([...words, '--dry-run'], { cwd });
    const real = qcow2(words, { cwd });
    const foretold = JSON.parse(dry.stdout);
    const done = JSON.parse(real.stdout);
    expect(foretold).toMatchObject(done);
    expect(foretold).toMatchObject({ 'dry-run': true, found: { corruptions: 2, leaks: 1 } });
    expect(done).toMatchObject({ 'corruptions-fixed': 1, 'leaks-fixed': 1 });
    expect(foretold.fixes).toHaveLength(2);
    expect(foretold['file-length-after']).toBe(statSync(join(cwd, 'damaged.qcow2')).size);
    expect(dry.stderr.replaceAll('Would repair', 'Repaired')).toBe(real.stderr);
    expect(qcow2(['check', '--dry-run', 'damaged.qcow2'], { cwd }).stderr).toMatch(
      /^qcow2: --dry-run goes with -r/,
    );
  });

  it('of a commit: bytes that go down, the size that the base gets, and what is emptied', () => {
    const cwd = fresh('commit');
    const { stdout } = qcow2(['commit', '--dry-run', 'top.qcow2'], { cwd });
    expect(stdout).toBe(
      "'top.qcow2' would be committed into 'base.qcow2':\n" +
        '    data written: 1048576 bytes (16 clusters)\n' +
        '    zeros written: 524288 bytes\n' +
        `    'base.qcow2' would grow: ${3 << 20} bytes, then ${4 << 20}\n` +
        "    'top.qcow2' would be emptied: 1572864 bytes are its own\n" +
        'Nothing was written.\n',
    );
    must(launcher, ['commit', '-q', 'top.qcow2'], { cwd });
    expect(JSON.parse(must('qemu-img', ['info', '--output=json', 'base.qcow2'], { cwd }))).toMatchObject({
      'virtual-size': 4 << 20,
    });
    const map = JSON.parse(must('qemu-img', ['map', '--output=json', 'top.qcow2'], { cwd }));
    expect(map.every(({ depth, zero }: { depth: number; zero: boolean }) => depth === 1 || zero)).toBe(true);
  });

  it('of a rebase: what comes into the image', () => {
    const cwd = fresh('rebase');
    const words = ['rebase', '-b', 'other.qcow2', '-F', 'qcow2', 'top.qcow2'];
    const allocated = (): number =>
      JSON.parse(must('qemu-img', ['check', '--output=json', 'top.qcow2'], { cwd }))['allocated-clusters'];
    const before = allocated();
    expect(qcow2([...words, '--dry-run'], { cwd }).stdout).toBe(
      "'top.qcow2' would be rebased to 'other.qcow2' (qcow2):\n" +
        '    data written: 262144 bytes (4 clusters)\n    zeros written: 0 bytes\nNothing was written.\n',
    );
    must(launcher, words, { cwd });
    expect(allocated() - before).toBe(4);
  });

  it.each(['top.qcow2', 'journalled.qcow2'])('of a smaller disk: what it loses (%s)', (name) => {
    const cwd = fresh(`resize-${name}`);
    const words = ['--shrink', name, '1M'];
    const { stdout } = qcow2(['resize', '--dry-run', ...words], { cwd });
    must(launcher, ['resize', ...words], { cwd });
    const lost = name === 'top.qcow2' ? 512 << 10 : 1 << 20;
    expect(stdout).toContain(`'${name}' would be resized: ${4 << 20} bytes, then ${1 << 20}\n`);
    expect(stdout).toContain(`    data behind the new end: ${lost} bytes\n`);
    const { size } = statSync(join(cwd, name));
    expect(stdout).toContain(`    the file: ${statSync(join(start, name)).size} bytes, then ${size}\n`);
    const check = JSON.parse(must('qemu-img', ['check', '--output=json', name], { cwd }));
    expect(stdout).toContain(`, then ${check['allocated-clusters']}\n`);
  });
});
