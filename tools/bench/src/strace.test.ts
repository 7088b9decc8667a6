import { describe, expect, it } from 'vitest';
import { billOf, parseTrace } from './strace.ts';

const trace = [
  '101   1732349000.100000 pwrite64(17, ""..., 8192, 327680) = 8192',
  '101   1732349000.100500 fdatasync(17)      = 0',
  '102   1732349000.200000 pwritev(17, [{iov_base=""..., iov_len=4096}, {iov_base=""..., iov_len=512}], 2, 65536 <unfinished ...>',
  '101   1732349000.200100 fdatasync(17 <unfinished ...>',
  '102   1732349000.200200 <... pwritev resumed>) = 4608',
  '101   1732349000.200900 <... fdatasync resumed>) = 0',
  '101   1732349000.300000 pwrite64(17, ""..., 512, 0) = -1 ENOSPC (No space left on device)',
  '101   1732349000.400000 --- SIGTERM {si_signo=SIGTERM, si_code=SI_USER, si_pid=99, si_uid=0} ---',
  '101   1732349000.500000 +++ exited with 0 +++',
  '',
].join('\n');

describe('traces', () => {
  it('counts each call once, with its result', () => {
    expect(parseTrace(trace).map(({ name, result }) => `${name} ${result}`)).toEqual([
      'pwrite64 8192',
      'fdatasync 0',
      'pwritev 4608',
      'fdatasync 0',
      'pwrite64 -1',
    ]);
  });

  it('adds up what succeeded', () => {
    expect(billOf(parseTrace(trace))).toEqual({
      syncs: 2,
      writes: 2,
      writtenBytes: 12800,
      reads: 0,
      readBytes: 0,
    });
  });

  it('adds up a span of time', () => {
    const calls = parseTrace(trace);
    expect(billOf(calls, 1732349000.15, 1732349000.25)).toMatchObject({
      syncs: 1,
      writes: 1,
      writtenBytes: 4608,
    });
    expect(billOf(calls, 1732349001)).toMatchObject({ syncs: 0, writes: 0, writtenBytes: 0 });
  });

  it('says whose bytes were read, also where another thread came between', () => {
    const named = [
      '7 1.0 pread64(17</images/base (1).raw>, ""..., 65536, 0 <unfinished ...>',
      '8 1.1 pwrite64(18</images/disk>, ""..., 4096, 0) = 4096',
      '7 1.2 <... pread64 resumed>) = 65536',
      '7 1.3 fdatasync(18</images/disk>) = 0',
    ].join('\n');
    const calls = parseTrace(named);
    expect(calls.map(({ file }) => file)).toEqual(['/images/disk', '/images/base (1).raw', '/images/disk']);
    expect(billOf(calls)).toEqual({ syncs: 1, writes: 1, writtenBytes: 4096, reads: 1, readBytes: 65536 });
  });
});
