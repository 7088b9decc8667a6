import { FaultDevice, MemoryDevice, RecordingDevice, run, type Task, wait } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { type LazyFlush, LazyWrites } from './lazy-writes.ts';

const refcounts = 0;
const tables = 1;
const mappings = 2;

function setUp() {
  const memory = new MemoryDevice({ sizeBytes: 65536 });
  const device = new RecordingDevice(memory);
  const marks: boolean[] = [];
  const writes = new LazyWrites(device, function* mark(dirty): Task<void> {
    marks.push(dirty);
    yield* wait(device.write(72, Uint8Array.of(dirty ? 1 : 0), { event: 'dirty_bit' }));
  });
  const flush = (what: Partial<LazyFlush> = {}): void => {
    void run(writes.flush({ dataWritten: true, ordered: false, reachBytes: 0, ...what }));
  };
  const since = (): string[] => {
    const seen = device.log.slice(from).map(({ kind, event }) => (kind === 'flush' ? 'flush' : event!));
    from = device.log.length;
    return seen;
  };
  let from = 0;
  return { memory, device, writes, marks, flush, since };
}

/** With the mark set: one commit has been. */
function marked() {
  const all = setUp();
  all.writes.write(mappings, 0, eight(1));
  all.flush();
  all.since();
  return all;
}

function eight(value: number): Uint8Array {
  return new Uint8Array(8).fill(value);
}

describe('lazy writes', () => {
  it('[LAZ-001] set the mark, durable with the data, before the first mapping, and once', () => {
    const { writes, flush, since } = setUp();
    writes.write(refcounts, 4096, eight(1));
    writes.write(mappings, 0, eight(1));
    flush();
    expect(since()).toEqual(['dirty_bit', 'flush', 'l2_update', 'flush']);
    writes.write(mappings, 8, eight(1));
    flush();
    expect(since()).toEqual(['l2_update', 'flush']);
  });

  it('[LAZ-003] flush data first where a change asks for it, or the file may be too short', () => {
    const { writes, flush, since } = marked();
    writes.write(mappings, 8, eight(1));
    flush({ ordered: true });
    expect(since()).toEqual(['flush', 'l2_update', 'flush']);
    writes.write(mappings, 16, eight(1));
    flush({ reachBytes: 65537 });
    expect(since()).toEqual(['flush', 'l2_update', 'flush']);
    writes.write(mappings, 24, eight(1));
    flush({ reachBytes: 65536 });
    expect(since()).toEqual(['l2_update', 'flush']);
    writes.write(tables, 512, eight(1));
    flush();
    expect(since()).toEqual(['flush', 'reftable_update', 'flush']);
  });

  it('take one flush for data alone, none where nothing was written, and no mark for either', () => {
    const { writes, flush, since, marks } = setUp();
    writes.write(refcounts, 4096, eight(1));
    flush();
    expect(since()).toEqual(['flush']);
    flush({ dataWritten: false });
    expect([since(), marks]).toEqual([[], []]);
    expect(writes.isEmpty).toBe(false);
  });

  it('[LAZ-002] settle: refcounts, flush, the mark, flush; not while a mapping waits', () => {
    const { writes, since } = marked();
    writes.write(refcounts, 4096, eight(7));
    writes.write(mappings, 8, eight(1));
    void run(writes.settle());
    expect([since(), writes.isEmpty]).toEqual([[], false]);
    void run(writes.flush({ dataWritten: false, ordered: false, reachBytes: 0 }));
    since();
    void run(writes.settle());
    expect(since()).toEqual(['refblock_update', 'flush', 'dirty_bit', 'flush']);
    expect([writes.isEmpty, writes.pendingBytes]).toEqual([true, 0]);
    void run(writes.settle());
    expect(since()).toEqual([]);
  });

  it('bound what stays behind: much of it goes out with a commit, without a flush of its own', () => {
    const { writes, flush, since } = marked();
    writes.write(refcounts, 65536, new Uint8Array(600 * 1024).fill(1));
    writes.write(mappings, 8, eight(1));
    flush();
    expect(new Set(since())).toEqual(new Set(['refblock_update', 'l2_update', 'flush']));
    expect(writes.pendingBytes).toBe(0);
  });

  it('show what waits over what was read, and never write what was freed', () => {
    const { writes, flush, since } = marked();
    writes.write(refcounts, 4096, eight(7));
    const seen = new Uint8Array(8);
    writes.patch(4096, seen);
    expect(seen).toEqual(eight(7));
    writes.forget(4096, 8);
    writes.write(mappings, 8192, eight(1));
    writes.forget(8192, 512);
    flush({ dataWritten: false });
    expect(since()).toEqual([]);
  });

  it('[LAZ-004] call back when the mappings are durable, and not where a flush fails', async () => {
    const { writes, flush } = marked();
    let called = 0;
    writes.write(mappings, 8, eight(1));
    writes.afterMappings(() => called++);
    expect(called).toBe(0);
    flush();
    expect(called).toBe(1);
    const broken = new FaultDevice(new MemoryDevice({ sizeBytes: 65536 }));
    broken.addRule({ operation: 'flush', fault: { kind: 'fail' } });
    const failing = new LazyWrites(broken, function* none(): Task<void> {});
    failing.write(mappings, 8, eight(1));
    failing.afterMappings(() => called++);
    await expect(async () =>
      run(failing.flush({ dataWritten: true, ordered: false, reachBytes: 0 })),
    ).rejects.toMatchObject({ code: 'FLUSH_FAILED' });
    expect(called).toBe(1);
  });
});
