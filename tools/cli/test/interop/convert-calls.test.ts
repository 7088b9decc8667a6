/**
 * What `convert` asks of the system, seen from outside: which files are flushed, for each cache mode. Calls are counted, and no time is
 * looked at.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { launcher, must, qcow2, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'strace'], 'the calls of convert', () => {
  const scratch = scratchFolder();
  const cwd = scratch.path;
  beforeAll(() => {
    writeFileSync(
      join(cwd, 'disk.raw'),
      new Uint8Array(3 * 1024 * 1024).map((_, at) => at % 251),
    );
  });
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
});
