/**
 * What durability costs, counted by strace on `serve`: system calls and bytes, which do not depend on how fast
 * the machine is. The write-back and the clean close are part of the bill.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';

const writes = 1000;
const client = join(import.meta.dirname, '../support/nbd_client.py');
const traced = 'fdatasync,fsync,sync_file_range,pwrite64,pwritev,pwritev2,write,writev';

describeWith(['qemu-img', 'strace', 'python3-libnbd'], 'the cost of a flush', () => {
  const scratch = scratchFolder();
  afterAll(() => scratch.remove());

  it(`${writes} random allocating writes, each flushed: at most 1.1 fdatasync and 24 KiB for each`, async () => {
    const [image, socket, trace] = ['disk.qcow2', 'sock', 'trace'].map((name) =>
      join(scratch.path, name),
    ) as [string, string, string];
    expect(qcow2(['create', '-q', '-f', 'qcow2', '-o', 'journal=on', image, '1G']).status).toBe(0);
    // -D: the command is our child and strace is not, so the signal reaches the command.
    const strace = ['strace', '-D', '-f', '--seccomp-bpf', '-P', image, '-e', `trace=${traced}`, '-o', trace];
    const server = await startServer(['-t', '-k', socket, image], strace);
    must(python, [client, 'cost', socket, '1', String(writes)]);
    expect(await server.end('SIGTERM')).toBe(0);
    const bill = await readBill(trace);
    process.stdout.write(
      `${writes} flushed writes: ${bill.syncs} fdatasync, ${Math.round(bill.bytes / writes)} bytes written for each\n`,
    );
    expect(bill.syncs / writes).toBeLessThanOrEqual(1.1);
    expect(bill.bytes / writes).toBeLessThanOrEqual(24 * 1024);
    // Fewer would mean that a flush was answered before it was done.
    expect(bill.syncs).toBeGreaterThanOrEqual(writes);
    expect(run('qemu-img', ['check', '-q', image])).toEqual({ status: 0, stdout: '', stderr: '' });
  });
});

interface Bill {
  readonly syncs: number;
  readonly bytes: number;
}

/** Sums of a trace: each call has one line with its result, the first or the "resumed" one. */
async function readBill(trace: string): Promise<Bill> {
  expect(existsSync(trace)).toBe(true);
  let syncs = 0;
  let bytes = 0;
  for (const line of readFileSync(trace, 'utf8').split('\n')) {
    const call = /^\d+\s+(?:<\.\.\. )?(\w+)(?: resumed>|\().*= (\d+)$/.exec(line);
    if (call === null) continue;
    const [, name = '', result] = call;
    if (name.includes('write')) bytes += Number(result);
    else syncs++;
  }
  return { syncs, bytes };
}
