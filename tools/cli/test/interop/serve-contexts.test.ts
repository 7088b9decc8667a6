/** `serve -A -B`: where bytes stand in a chain, and what a bitmap says has changed, as nbdinfo and libnbd see it, beside qemu-nbd. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';

describeWith(
  ['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo', 'python3-libnbd'],
  'serve -A -B beside qemu-nbd',
  () => {
    const scratch = scratchFolder();
    const folder = { cwd: scratch.path };
    const [ours, theirs] = ['ours.sock', 'theirs.sock'].map((name) => join(scratch.path, name)) as [
      string,
      string,
    ];
    const uri = (socket: string) => `nbd+unix:///?socket=${socket}`;
    const map = (context: string, socket: string) => must('nbdinfo', [`--map=${context}`, uri(socket)]);
    const write = (image: string, ...asked: string[]) =>
      must('qemu-io', [...asked.flatMap((one) => ['-c', one]), image], folder);

    beforeAll(() => {
      const create = (...words: string[]) =>
        must('qemu-img', ['create', '-q', '-f', 'qcow2', ...words], folder);
      must('qemu-img', ['create', '-q', '-f', 'raw', 'raw.img', '5M'], folder);
      create('-b', 'raw.img', '-F', 'raw', 'base.qcow2', '8M');
      write('base.qcow2', 'write -P 1 0 2M', 'write -z 3M 64k');
      create('-b', 'base.qcow2', '-F', 'qcow2', 'mid.qcow2', '12M');
      write('mid.qcow2', 'write -P 1 1M 64k', 'write -z 2M 64k', 'write -P 5 9M 100k');
      create('-b', 'mid.qcow2', '-F', 'qcow2', '-o', 'extended_l2=on', 'disk.qcow2', '16M');
      must('qemu-img', ['bitmap', '--add', '-g', '4k', 'disk.qcow2', 'bits'], folder);
      must('qemu-img', ['bitmap', '--add', '--disable', 'disk.qcow2', 'off'], folder);
      write(
        'disk.qcow2',
        'write -P 1 1536k 64k',
        'write -P 1 15M 64k',
        'write -P 5 700k 1k',
        'write -z 13M 100k',
      );
      must('cp', ['disk.qcow2', 'copy.qcow2'], folder);
    }, hookLimitMs);
    afterAll(() => scratch.remove());

    async function withQemuNbd(words: readonly string[], action: () => void): Promise<void> {
      const child = spawn('qemu-nbd', ['-t', '-k', theirs, ...words], { ...folder, stdio: 'ignore' });
      const ended = once(child, 'close');
      try {
        for (let waited = 0; !existsSync(theirs) && child.exitCode === null && waited < 10_000; waited += 5)
          await sleep(5);
        action();
      } finally {
        child.kill('SIGTERM');
        await ended;
      }
    }

    it('says what qemu-nbd says, of a chain of four and a bitmap', async () => {
      const server = await startServer(
        ['-t', '-r', '-k', ours, '-A', '-B', 'bits', 'copy.qcow2'],
        [],
        folder,
      );
      await withQemuNbd(['-r', '-A', '-B', 'bits', 'disk.qcow2'], () => {
        for (const context of ['qemu:allocation-depth', 'qemu:dirty-bitmap:bits']) {
          expect(map(context, ours), context).toBe(map(context, theirs));
        }
        const contexts = (socket: string) =>
          JSON.parse(must('nbdinfo', ['--json', uri(socket)])).exports[0].contexts;
        expect(contexts(ours)).toEqual(contexts(theirs));
      });
      expect(await server.end('SIGTERM')).toBe(0);
    });

    it('one request is answered for every context that was chosen; a bitmap that is on shows writes at once', async () => {
      const server = await startServer(['-t', '-k', ours, '-A', '-B', 'bits', 'copy.qcow2'], [], folder);
      const script = `
import nbd
h = nbd.NBD()
for name in ('base:allocation', 'qemu:dirty-bitmap:bits', 'qemu:allocation-depth', 'qemu:dirty-bitmap:none'):
    h.add_meta_context(name)
h.connect_unix('${ours}')
def ask(at, length, flags=0):
    found = {}
    def note(context, offset, entries, error):
        assert offset == at and error.value == 0
        found[context] = entries
    h.block_status(length, at, note, flags)
    return found
assert not h.can_meta_context('qemu:dirty-bitmap:none')
found = ask(6 << 20, 1 << 20)
assert sorted(found) == ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:bits'], found
assert found['qemu:dirty-bitmap:bits'] == [1 << 20, 0], found
assert found['qemu:allocation-depth'] == [1 << 20, 4], found # the raw file ends before
h.pwrite(b'x' * 512, (6 << 20) + 8192)
found = ask(6 << 20, 1 << 20)
assert found['qemu:dirty-bitmap:bits'] == [8192, 0, 4096, 1, (1 << 20) - 12288, 0], found
found = ask((6 << 20) + 8192, 512)
assert found['qemu:allocation-depth'] == [512, 1], found
found = ask(6 << 20, 1 << 20, nbd.CMD_FLAG_REQ_ONE)
assert all(len(entries) == 2 for entries in found.values()), found
h.shutdown()
`;
      must(python, ['-c', script]);
      expect(await server.end('SIGTERM')).toBe(0);
      await withQemuNbd(['-r', '-B', 'bits', 'copy.qcow2'], () => {
        expect(map('qemu:dirty-bitmap:bits', theirs)).toContain('6299648        4096    1  dirty');
      });
    });

    it('a bitmap that is not there, or that a raw file can not have, is refused in the same words', () => {
      for (const words of [
        ['-B', 'none', 'disk.qcow2'],
        ['-f', 'raw', '-B', 'bits', 'disk.qcow2'],
      ]) {
        const refused = qcow2(['serve', '-k', ours, ...words], folder);
        const said = run('timeout', ['10', 'qemu-nbd', '-k', theirs, ...words], folder);
        expect(refused.stderr).toBe(said.stderr.replace('qemu-nbd', 'qcow2'));
        expect([refused.status, said.status]).toEqual([1, 1]);
      }
    });
  },
);
