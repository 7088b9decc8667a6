/** Exports of NBD servers and disks that hold nothing: the same arguments through qemu-img and through ours, and what they print compared as it is. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { must } from '../support/command.ts';
import { parityTable } from '../support/parity-table.ts';
import { describeWith } from '../support/peers.ts';
import { blkdebugCases, blkdebugFiles, protocolCases } from '../support/protocol-cases.ts';

describeWith(['qemu-img', 'qemu-io', 'qemu-nbd'], 'what is no file, beside qemu-img', () => {
  const pids: number[] = [];
  afterAll(() => {
    for (const pid of pids) process.kill(pid);
  });

  parityTable([...protocolCases, ...blkdebugCases], (folder) => {
    const at = { cwd: folder };
    for (const name of ['disk.raw', 'served.raw', 'other.raw', 'locked.raw']) {
      must('qemu-img', ['create', '-q', '-f', 'raw', name, '8M'], at);
      const pattern = name === 'other.raw' ? 9 : 7;
      must('qemu-io', ['-f', 'raw', '-c', `write -P ${pattern} 1M 1M`, name], at);
    }
    must('qemu-img', ['create', '-q', '-f', 'raw', 'small.raw', '1M'], at);
    must('qemu-img', ['create', '-q', '-f', 'raw', 'target.raw', '8M'], at);
    for (const [name, text] of Object.entries(blkdebugFiles)) writeFileSync(join(folder, name), text);
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'image.qcow2', '8M'], at);
    must('qemu-io', ['-c', 'write -P 7 1M 1M', 'image.qcow2'], at);
    must(
      'qemu-img',
      ['create', '-q', '-f', 'qcow2', '-b', 'image.qcow2', '-F', 'qcow2', 'overlay.qcow2'],
      at,
    );
    const serve = (socket: string, file: string, ...more: string[]): void => {
      const pid = join(folder, `${socket}.pid`);
      const place = ['-k', join(folder, socket), `--pid-file=${pid}`];
      must('qemu-nbd', ['--fork', '-t', '-e', '20', '-f', 'raw', ...place, ...more, file], at);
      pids.push(Number(readFileSync(pid, 'utf8')));
    };
    serve('raw', 'served.raw', '-r');
    serve('exp', 'served.raw', '-r', '-x', 'exp');
    serve('locked', 'locked.raw', '-r');
    serve('small', 'small.raw');
    serve('image', 'image.qcow2', '-r');
    serve('overlay', 'overlay.qcow2', '-r');
  });
});
