/** `watch` beside a server with clients: what it says is what was done. */
import { existsSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { WatchSample } from '../../src/watch/sample.ts';
import { Watcher } from '../../src/watch/watcher.ts';
import {
  hookLimitMs,
  must,
  qcow2,
  type RunningServer,
  run,
  scratchFolder,
  startServer,
} from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';

describeWith(['qemu-img', 'nbdcopy', 'python3-libnbd'], 'watch', () => {
  const scratch = scratchFolder();
  const [image, socket, watched] = ['disk.qcow2', 'sock', 'watch'].map((name) =>
    join(scratch.path, name),
  ) as [string, string, string];
  let server: RunningServer;
  beforeAll(async () => {
    expect(qcow2(['create', '-q', '-f', 'qcow2', '-o', 'journal=on', image, '64M']).status).toBe(0);
    server = await startServer(['-t', '-e', '0', '-k', socket, '--watch-socket', watched, image]);
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  const uri = `nbd+unix:///?socket=${socket}`;
  const client = (script: string): string => {
    const connected = `import nbd\nh = nbd.NBD()\nh.connect_uri("${uri}")\n${script}\nh.shutdown()`;
    return must(python, ['-c', connected]);
  };
  const sum = (counts: readonly number[] | undefined): number =>
    (counts ?? []).reduce((total, count) => total + count, 0);

  async function samplesAround(action: () => void): Promise<[WatchSample, WatchSample]> {
    const watcher = await Watcher.connect(watched);
    const before = await watcher.sample();
    action();
    const after = await watcher.sample();
    watcher.close();
    if (before === undefined || after === undefined) throw new TypeError('the server has ended');
    return [before, after];
  }

  it('counts what clients ask for, how long it took, and what came of it', async () => {
    const [before, after] = await samplesAround(() =>
      client(
        'for at in range(10): h.pwrite(b"w" * 4096, at << 20); h.flush()\nfor at in range(5): h.pread(8192, at << 20)\nh.trim(65536, 32 << 20)',
      ),
    );
    expect(after).toMatchObject({ version: 1, image, process: server.process.pid });
    const done = (name: keyof WatchSample['server']['requests']): number =>
      after.server.requests[name] - before.server.requests[name];
    expect([done('WRITE'), done('FLUSH'), done('READ'), done('TRIM'), done('DISC')]).toEqual([
      10, 10, 5, 1, 1,
    ]);
    expect(after.server.bytesWritten - before.server.bytesWritten).toBe(40_960);
    expect(after.server.bytesRead - before.server.bytesRead).toBe(40_960);
    expect(after.server.connections - before.server.connections).toBe(1);
    for (const name of ['WRITE', 'FLUSH', 'READ', 'TRIM'] as const) {
      expect(sum(after.server.latencies?.[name]) - sum(before.server.latencies?.[name])).toBe(done(name));
    }
    // Each flush followed a write to a new place, so none was free.
    expect((after.fileSyncs ?? 0) - (before.fileSyncs ?? 0)).toBeGreaterThanOrEqual(10);
    expect(after.journal).toMatchObject({ profile: 'v1' });
    const records = ({ journal }: WatchSample): number =>
      journal?.counters !== undefined && 'records' in journal.counters ? journal.counters.records : 0;
    expect(records(after) - records(before)).toBeGreaterThan(0);
    expect(after.cache?.l2.maxBytes).toBeGreaterThan(0);
  });

  it('shows the same in lines and as JSON', () => {
    must('nbdcopy', ['--', uri, 'null:']);
    const json = watchFor(['--output=json', '--interval', '0.05', '--count', '2']).trimEnd().split('\n');
    expect(json.length).toBe(2);
    const [first, second] = json.map((line) => JSON.parse(line));
    expect(first.interval).toMatchObject({ clients: 0, requestsPerSecond: 0, flushes: 0 });
    expect(first.total.server.requests).toMatchObject({ WRITE: 10, FLUSH: 10, TRIM: 1 });
    expect(first.total.server.bytesRead).toBeGreaterThanOrEqual(40_960);
    expect(second.total.elapsedSeconds).toBeGreaterThan(first.total.elapsedSeconds);
    const lines = watchFor(['--interval', '0.05', '--count', '3']).trimEnd().split('\n');
    expect(lines.length).toBe(3);
    expect(lines[0]).toMatch(/^[\d.]+ s, clients 0, 0\.0 requests\/s, .*, ring [\d.]+%, lag [\d.]+ s$/);
  });
  function watchFor(words: readonly string[]): string {
    const outcome = qcow2(['watch', ...words, watched]);
    expect(outcome).toMatchObject({ status: 0, stderr: '' });
    return outcome.stdout;
  }

  it('the socket is the owner’s, takes newlines and nothing else, and no more watchers than it says', async () => {
    expect(statSync(watched).mode & 0o777).toBe(0o600);
    const rude = connect({ path: watched });
    rude.write('GET / HTTP/1.1\r\n\r\n');
    const answer: Buffer[] = [];
    for await (const piece of rude) answer.push(piece as Buffer);
    expect(answer).toEqual([]);
    const many = await Promise.all(Array.from({ length: 16 }, () => Watcher.connect(watched)));
    for (const each of many) expect(await each.sample()).toBeDefined();
    const oneMore = await Watcher.connect(watched);
    await expect(oneMore.sample()).rejects.toThrow('not the watch socket');
    for (const each of [...many, oneMore]) each.close();
  });

  it.each([
    [['watch'], 'Expecting one socket'],
    [['watch', '/nonexistent'], "Could not watch '/nonexistent': No such file or directory"],
    [['watch', '--interval', '0', 'x'], "--interval: '0' is no number of seconds"],
    [['watch', '--count', '0', 'x'], "--count: '0' is no number of intervals"],
    [['watch', '--output=xml', 'x'], '--output must be used with human or json'],
  ])('%j is refused', (args, message) => {
    const { status, stdout, stderr } = qcow2(args);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain(message);
  });

  it('ends with the server, whose socket goes', async () => {
    const watcher = await Watcher.connect(watched);
    expect(await watcher.sample()).toBeDefined();
    expect(await server.end('SIGTERM')).toBe(0);
    expect(await watcher.sample()).toBeUndefined();
    expect(existsSync(watched)).toBe(false);
    expect(run('qemu-img', ['check', '-q', image]).status).toBe(0);
  });

  it('a socket that a killed server left is taken over', async () => {
    const words = ['-t', '-k', socket, '--watch-socket', watched, image];
    await (await startServer(words)).end('SIGKILL');
    expect(existsSync(watched)).toBe(true);
    const again = await startServer(words);
    expect(watchFor(['--interval', '0.01', '--count', '1'])).toContain('requests/s');
    expect(await again.end('SIGTERM')).toBe(0);
  });
});
