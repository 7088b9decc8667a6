/** Words that are wrong, through qemu-nbd and through `serve`. Each is refused before anything listens. */
import type { ParityCase } from './parity.ts';

const file = 'disk.qcow2';

export const serveCases: readonly ParityCase[] = [
  { args: [] },
  { args: [file, 'second'] },
  { args: ['missing.qcow2'] },
  { args: ['-P', '1', file], ignoreStderr: true },
  { args: ['-e', '-1', file] },
  { args: ['-e', 'x', file] },
  { args: ['-n', '--cache=none', file] },
  { args: ['--cache=none', '--cache=writeback', file] },
  { args: ['--cache', 'fast', file] },
  { args: ['--aio=fast', file] },
  { args: ['--aio=native', '--aio=threads', file] },
  { args: ['--aio=native', file] },
  { args: ['--aio=native', '--cache=writethrough', file] },
  { args: ['--discard=some', file] },
  { args: ['--discard=unmap', '--discard=unmap', file] },
  { args: ['--detect-zeroes=some', file] },
  { args: ['--detect-zeroes=unmap', file] },
  { args: ['-o', 'x', file] },
  { args: ['-o', '1M', file] },
  { args: ['-o', '16777217', file] },
  { args: ['-o', '0x1000001', file] },
  { args: ['-o', '-1', file] },
  { args: ['-l', 'none', file] },
  { args: ['-l', 'snapshot.id=1,snapshot.name=other', file] },
  { args: ['-l', 'snapshot.ids=1', file] },
  { args: ['-s', '-l', 'one', file] },
  { args: ['-f', 'raw', '-l', 'one', 'disk.raw'] },
  { args: ['-B', 'none', file] },
  { args: ['-f', 'qcow2', 'disk.raw'] },
];
