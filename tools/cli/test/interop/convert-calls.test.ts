/**
 * What `convert` asks of the system, seen from outside: which files are flushed, for each cache mode, and who copies with -C. Calls are
 * counted, and no time is looked at.
 */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io', 'strace'], 'the calls of convert', () => {
  const scratch = scratchFolder();
  const cwd = scratch.path;
  beforeAll(() => {
    writeFileSync(
      join(cwd, 'disk.raw'),
      new Uint8Array(3 * 1024 * 1024).map((_, at) => at % 251),
    );
    makeSparse(cwd);
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  /** Run under strace. @returns the names of the calls that were traced and succeeded, in order */
  const calls = (program: string, names: string, args: readonly string[]): string[] => {
    const trace = join(cwd, 'trace');
    const strace = ['-f', '-y', '--seccomp-bpf', '-e', `trace=${names}`, '-o', trace];
    must('strace', [...strace, program, 'convert', ...args], { cwd });
    return [...readFileSync(trace, 'utf8').matchAll(/^\d+\s+(?:<\.\.\. )?(\w+)(?: resumed>|\().*= \d+$/gm)]
      .filter(([line]) => !/[(]\d<(?:pipe|socket|\/dev\/null)/.test(line))
      .map(([, name]) => name!);
  };
  const flushes = (...args: string[]): string[] => calls(launcher, 'fdatasync,fsync', args);

  it.each(['raw', 'qcow2'])('flushes no %s target that it makes, unless it is told to', (format) => {
    expect(flushes('-O', format, 'disk.raw', 'copy')).toEqual([]);
    expect(flushes('-O', format, '-t', 'unsafe', 'disk.raw', 'copy')).toEqual([]);
    expect(flushes('-O', format, '-t', 'writeback', 'disk.raw', 'copy')).toContain('fdatasync');
    expect(qcow2(['compare', 'disk.raw', 'copy'], { cwd }).status).toBe(0);
  });

  it('flushes a target that was there before, unless it is told not to', () => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'old', '3M'], { cwd });
    expect(flushes('-n', '-O', 'qcow2', 'disk.raw', 'old')).toContain('fdatasync');
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'old', '3M'], { cwd });
    expect(flushes('-n', '-O', 'qcow2', '-t', 'unsafe', 'disk.raw', 'old')).toEqual([]);
    expect(run('qemu-img', ['compare', 'disk.raw', 'old'], { cwd }).status).toBe(0);
    expect(run('qemu-img', ['check', '-q', 'old'], { cwd }).status).toBe(0);
  });

  const copying = 'copy_file_range,pread64,pwrite64';
  const blocks = (name: string): number => statSync(join(cwd, name)).blocks;

  it('with -C the kernel copies what stands in files as it is, and holes stay holes', () => {
    for (const args of [
      ['-O', 'raw', 'sparse.raw'],
      ['-W', '-O', 'raw', 'top.qcow2'],
      ['-W', '-O', 'qcow2', 'sparse.raw'],
      ['-O', 'qcow2', 'top.qcow2'],
    ]) {
      const made = calls(launcher, copying, ['-C', ...args, 'copy']);
      expect(made.filter((name) => name === 'copy_file_range').length, args.join(' ')).toBeGreaterThanOrEqual(
        5,
      );
      expect(qcow2(['compare', args.at(-1)!, 'copy'], { cwd }), args.join(' ')).toMatchObject({ status: 0 });
      if (args.includes('qcow2')) must('qemu-img', ['check', '-q', 'copy'], { cwd });
      // 1.5 MiB of data; the disk has 5 MiB.
      expect(blocks('copy') * 512, args.join(' ')).toBeLessThan(2.5 * 1024 * 1024);
    }
  });

  it('with -C the kernel copies an internal snapshot as well', () => {
    must('cp', ['sparse.qcow2', 'kept.qcow2'], { cwd });
    must('qemu-img', ['snapshot', '-c', 'before', 'kept.qcow2'], { cwd });
    must('qemu-io', ['-c', 'write -P 77 0 3M', 'kept.qcow2'], { cwd });
    const made = calls(launcher, copying, ['-C', '-l', 'before', '-O', 'qcow2', 'kept.qcow2', 'copy']);
    expect(made.filter((name) => name === 'copy_file_range').length).toBeGreaterThanOrEqual(5);
    expect(qcow2(['compare', 'sparse.raw', 'copy'], { cwd })).toMatchObject({ status: 0 });
    must('qemu-img', ['check', '-q', 'copy'], { cwd });
  });

  it('with -C what is compressed is read, and so is everything where the system does not copy', () => {
    for (const format of ['raw', 'qcow2']) {
      expect(calls(launcher, 'copy_file_range', ['-C', '-O', format, 'small.qcow2', 'copy'])).toEqual([]);
      expect(qcow2(['compare', 'small.qcow2', 'copy'], { cwd }).status).toBe(0);
      const env = { QCOW2_NATIVE: 'off' };
      must(launcher, ['convert', '-C', '-O', format, 'whole.raw', 'copy'], { cwd, env });
      expect(qcow2(['compare', 'whole.raw', 'copy'], { cwd }).status).toBe(0);
    }
    // Without -C nothing is copied so, as with qemu-img.
    expect(calls(launcher, 'copy_file_range', ['-O', 'raw', 'whole.raw', 'copy'])).toEqual([]);
  });

  it('with -C zeros within data take space, as with qemu-img; without, they take none', () => {
    for (const program of [launcher, 'qemu-img']) {
      must(
        program,
        ['convert', '-C', '-O', 'qcow2', 'even.raw', `offloaded.${program === launcher ? 1 : 2}`],
        { cwd },
      );
      must(program, ['convert', '-O', 'qcow2', 'even.raw', `read.${program === launcher ? 1 : 2}`], { cwd });
    }
    const mapped = (name: string): string => must('qemu-img', ['map', '--output=json', name], { cwd });
    const data = (name: string): number =>
      (JSON.parse(mapped(name)) as { data: boolean; length: number }[])
        .filter((range) => range.data)
        .reduce((sum, { length }) => sum + length, 0);
    expect(data('offloaded.1')).toBe(data('offloaded.2'));
    expect(data('read.1')).toBe(data('read.2'));
    expect(data('read.1')).toBeLessThan(data('offloaded.1'));
  });
});

/** Data and holes by turns, and a tail that fills no sector; images of that. */
function makeSparse(cwd: string): void {
  const bytes = Buffer.alloc(5 * 1024 * 1024 + 300);
  for (let at = 0; at < bytes.length; at += 2 ** 20) {
    bytes.fill(1 + at / 2 ** 20, at, Math.min(at + 300_000, bytes.length));
  }
  // What is zeros within data is copied as it is.
  bytes.fill(0, 65536, 2 * 65536);
  writeFileSync(join(cwd, 'whole.raw'), bytes);
  // Of one whose last sector is incomplete, qemu-img reads the last piece.
  writeFileSync(join(cwd, 'even.raw'), bytes.subarray(0, 5 * 1024 * 1024));
  must('cp', ['--sparse=always', 'whole.raw', 'sparse.raw'], { cwd });
  must('qemu-img', ['convert', '-O', 'qcow2', 'sparse.raw', 'sparse.qcow2'], { cwd });
  must('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'sparse.qcow2', '-F', 'qcow2', 'top.qcow2'], {
    cwd,
  });
  must('qemu-io', ['-c', 'write -P 9 3M 128k', 'top.qcow2'], { cwd });
  must('qemu-img', ['convert', '-c', '-O', 'qcow2', 'sparse.raw', 'small.qcow2'], { cwd });
}
