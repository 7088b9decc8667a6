/** What `serve` makes of a disk by qemu-nbd's options: a part of it, a snapshot, a temporary copy, a cache mode; and the background. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';

const mebibyte = 1024 * 1024;
const clean = { status: 0, stdout: '', stderr: '' };

/** A client in libnbd's shell language; `h` is the handle, not connected. */
function client(script: string): string {
  return must(python, ['-c', `import nbd\nh = nbd.NBD()\n${script}`]).trim();
}

describeWith(
  ['qemu-img', 'qemu-io', 'nbdinfo', 'python3-libnbd', 'strace'],
  'what serve makes of a disk',
  () => {
    const scratch = scratchFolder();
    const inScratch = (name: string): string => join(scratch.path, name);
    const image = inScratch('disk.qcow2');
    const socket = inScratch('sock');
    const uri = `nbd+unix:///?socket=${socket}`;
    const connect = `h.connect_unix("${socket}")`;
    beforeAll(() => {
      must('qemu-img', ['create', '-q', '-f', 'qcow2', image, '16M']);
      must('qemu-io', ['-c', 'write -P 9 1M 64k', image]);
      must('qemu-img', ['snapshot', '-c', 'before', image]);
      must('qemu-io', ['-c', 'write -P 5 1M 64k', '-c', 'write -P 6 8M 64k', image]);
    }, hookLimitMs);
    afterAll(() => scratch.remove());

    it('-o: the disk from a byte on, and its metadata contexts too', async () => {
      const server = await startServer(['-t', '-A', '-o', String(mebibyte + 512), '-k', socket, image]);
      expect(must('nbdinfo', ['--size', uri])).toBe(`${15 * mebibyte - 512}\n`);
      for (const context of ['base:allocation', 'qemu:allocation-depth']) {
        const map: { offset: number; length: number; type: number }[] = JSON.parse(
          must('nbdinfo', [`--map=${context}`, '--json', uri]),
        );
        expect(map[0]).toMatchObject({ offset: 0, length: 65536 - 512 });
        expect(map[2]).toMatchObject({ offset: 7 * mebibyte - 512, length: 65536 });
        expect(map[2]?.type).toBe(map[0]?.type);
      }
      expect(client(`${connect}; h.pwrite(b"w" * 512, 0); h.flush(); print(h.pread(2, 511))`)).toBe(
        "bytearray(b'w\\x05')",
      );
      expect(await server.end('SIGTERM')).toBe(0);
      must('qemu-io', ['-r', '-c', 'read -P 5 1M 512', '-c', 'read -P 0x77 1049088 512', image]);
      must('qemu-io', ['-c', 'write -P 5 1049088 512', image]);
    });

    it.each([['before'], ['1'], ['snapshot.name=before'], ['snapshot.id=1,snapshot.name=before']])(
      '-l %s: an internal snapshot, for reading',
      async (snapshot) => {
        const bytes = readFileSync(image);
        const server = await startServer(['-t', '-l', snapshot, '-k', socket, image]);
        expect(client(`${connect}; print(h.is_read_only(), h.pread(2, 1 << 20), h.pread(1, 8 << 20))`)).toBe(
          "True bytearray(b'\\t\\t') bytearray(b'\\x00')",
        );
        expect(await server.end('SIGTERM')).toBe(0);
        expect(readFileSync(image).equals(bytes)).toBe(true);
      },
    );

    it('-s: what is written is read again, and gone with the server; the file is not touched, and nothing is left', async () => {
      const bytes = readFileSync(image);
      const folder = inScratch('temporary');
      mkdirSync(folder);
      // Node keeps its cache of compiled code there as well.
      const left = (): string[] => readdirSync(folder).filter((name) => name.startsWith('qcow2-'));
      const server = await startServer(['-t', '-s', '-A', '-k', socket, image], [], {
        env: { TMPDIR: folder },
      });
      expect(
        client(
          `${connect}; h.pwrite(b"t" * 1000, 1 << 20); h.flush(); h.zero(65536, 8 << 20); print(h.pread(1, 1 << 20), h.pread(1, (1 << 20) + 1000), h.pread(1, 8 << 20))`,
        ),
      ).toBe("bytearray(b't') bytearray(b'\\x05') bytearray(b'\\x00')");
      expect(left()).toEqual([]);
      // The image below can still be opened by readers.
      expect(run('qemu-img', ['check', '-q', image])).toEqual(clean);
      const depths: { type: number }[] = JSON.parse(
        must('nbdinfo', ['--map=qemu:allocation-depth', '--json', uri]),
      );
      expect(depths.map(({ type }) => type)).toContain(1);
      expect(await server.end('SIGKILL')).toBe('SIGKILL');
      expect(readFileSync(image).equals(bytes)).toBe(true);
      expect(left()).toEqual([]);
    });

    it('-s of a raw file whose size is no multiple of a sector, and whose format was guessed', async () => {
      const raw = inScratch('odd.raw');
      writeFileSync(raw, Buffer.alloc(100_000, 3));
      const server = await startServer(['-t', '-s', '-k', socket, raw]);
      expect(
        client(`${connect}; h.pwrite(b"t" * 512, 0); print(h.get_size(), h.pread(1, 0), h.pread(1, 512))`),
      ).toBe("100352 bytearray(b't') bytearray(b'\\x03')");
      expect(await server.end('SIGTERM')).toBe(0);
      expect(readFileSync(raw).equals(Buffer.alloc(100_000, 3))).toBe(true);
    });

    it.each([
      ['writethrough', 8],
      ['unsafe', 0],
    ])(
      '--cache %s: fdatasync before the server ends, for 8 writes, one flush at the end',
      async (mode, least) => {
        const trace = inScratch(`trace-${mode}`);
        expect(
          qcow2(['create', '-q', '-f', 'qcow2', '-o', 'journal=on', inScratch(mode), '16M']).status,
        ).toBe(0);
        const strace = [
          'strace',
          '-D',
          '-f',
          '--seccomp-bpf',
          '-P',
          inScratch(mode),
          '-e',
          'trace=fdatasync',
          '-o',
          trace,
        ];
        const server = await startServer(
          ['-t', '--cache', mode, '--journal-idle', '0', '-k', socket, inScratch(mode)],
          strace,
        );
        const before = syncs(trace);
        client(
          `${connect}\nfor at in range(8): h.pwrite(b"d" * 4096, at << 16)\n${mode === 'unsafe' ? 'h.flush()' : ''}`,
        );
        expect(syncs(trace) - before).toBeGreaterThanOrEqual(least);
        if (least === 0) expect(syncs(trace)).toBe(before);
        expect(await server.end('SIGTERM')).toBe(0);
        expect(run('qemu-img', ['check', '-q', inScratch(mode)])).toEqual(clean);
      },
    );

    it.each([
      ['on', 'data'],
      ['unmap', 'zero'],
    ])('--detect-zeroes %s: written zeros become zeros of the image', async (mode) => {
      const file = inScratch(`zeros-${mode}`);
      must('qemu-img', ['create', '-q', '-f', 'qcow2', file, '1M']);
      must('qemu-io', ['-c', 'write -P 1 0 128k', file]);
      const server = await startServer([
        '-t',
        '--discard',
        'unmap',
        '--detect-zeroes',
        mode,
        '-k',
        socket,
        file,
      ]);
      client(
        `${connect}; h.pwrite(bytes(65536), 0); h.pwrite(bytes(65536), 1 << 18); h.pwrite(b"x" + bytes(65535), 65536)`,
      );
      expect(await server.end('SIGTERM')).toBe(0);
      const map: { start: number; zero: boolean; offset?: number }[] = JSON.parse(
        must('qemu-img', ['map', '--output=json', file]),
      );
      expect(map[0]).toMatchObject({ start: 0, zero: true });
      // Without unmap the cluster keeps its place.
      expect(map[0]?.offset !== undefined).toBe(mode === 'on');
      expect(map[1]).toMatchObject({ start: 65536, zero: false });
      must('qemu-io', ['-r', '-c', 'read -P 0 0 64k', '-c', 'read -P 0x78 64k 1', file]);
    });

    it('--fork returns when the server listens, holds no stream of its starter, and --pid-file names it', async () => {
      const pidFile = inScratch('pid');
      // A shell that reads all of the output: it would wait for a server that had it.
      const started = run('sh', [
        '-c',
        '"$0" serve --fork -t --pid-file "$1" -k "$2" "$3" 2>&1 | cat; exec nbdinfo --size "$4"',
        ...[launcher, pidFile, socket, image, uri],
      ]);
      expect(started).toEqual({ status: 0, stdout: `${16 * mebibyte}\n`, stderr: '' });
      const pid = Number(readFileSync(pidFile, 'utf8'));
      expect(readFileSync(pidFile, 'utf8')).toBe(`${pid}\n`);
      const second = qcow2([
        'serve',
        '-r',
        '--pid-file',
        pidFile,
        '-k',
        inScratch('other'),
        inScratch('zeros-on'),
      ]);
      expect(second.status).toBe(1);
      expect(second.stderr).toBe('qcow2: Cannot lock pid file: Resource temporarily unavailable\n');
      expect(existsSync(inScratch('other'))).toBe(false);
      process.kill(pid, 'SIGTERM');
      while (existsSync(socket)) await sleep(5);
      while (existsSync(`/proc/${pid}`)) await sleep(5);
      expect(run('qemu-img', ['check', '-q', image])).toEqual(clean);
    });

    it('--fork tells what went wrong before that, and returns the exit code', () => {
      const failed = qcow2(['serve', '--fork', '-k', inScratch('x'.repeat(200)), image]);
      expect(failed.status).toBe(1);
      expect(failed.stderr).toContain('can not listen on ');
      const folder = qcow2(['serve', '--fork', '-k', socket, '--pid-file', inScratch('none/pid'), image]);
      expect(folder).toEqual({
        status: 1,
        stdout: '',
        stderr: `qcow2: Could not create '${inScratch('none/pid')}': No such file or directory\n`,
      });
      expect(existsSync(socket)).toBe(false);
    });

    it('--fork -v goes on to say who comes and goes', async () => {
      const child = spawn(launcher, ['serve', '--fork', '-v', '-k', socket, image], {
        stdio: ['ignore', 'ignore', 'pipe'],
        env: { ...process.env, NODE_OPTIONS: '' },
      });
      let said = '';
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        said += text;
      });
      expect((await once(child, 'exit'))[0]).toBe(0);
      client(`${connect}; h.shutdown()`);
      if (!child.stderr.closed) await once(child.stderr, 'close');
      expect(said).toContain('client 1 gone, 0 left');
    });
  },
);

function syncs(trace: string): number {
  return readFileSync(trace, 'utf8')
    .split('\n')
    .filter((line) => line.includes('fdatasync(')).length;
}
