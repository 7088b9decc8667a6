import { FaultDevice, ManualScheduler, MemoryDevice, RecordingDevice, run } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { OrderedWrites } from './ordered-writes.ts';

const refcounts = 0;
const tables = 1;
const mappings = 2;

function setUp() {
  const memory = new MemoryDevice({ sizeBytes: 65536 });
  const device = new RecordingDevice(memory);
  return { memory, device, writes: new OrderedWrites(device) };
}

function eight(value: number): Uint8Array {
  return new Uint8Array(8).fill(value);
}

function events(device: RecordingDevice): string[] {
  return device.log.map(({ kind, event }) => (kind === 'flush' ? 'flush' : event!));
}

describe('ordered writes', () => {
  it('writes refcounts, then tables, then mappings, with a flush between any two', () => {
    const { device, writes } = setUp();
    writes.write(mappings, 0, eight(3));
    writes.write(refcounts, 4096, eight(1));
    writes.write(tables, 8192, eight(2));
    void run(writes.flush(false));
    expect(events(device)).toEqual([
      'refblock_update',
      'flush',
      'reftable_update',
      'flush',
      'l2_update',
      'flush',
    ]);
  });

  it('has data durable before a mapping leads to it, and before a table does', () => {
    for (const step of [tables, mappings] as const) {
      const { device, writes } = setUp();
      writes.write(step, 0, eight(3));
      void run(writes.flush(true));
      expect(events(device)[0]).toBe('flush');
      expect(events(device)).toHaveLength(3);
    }
  });

  it('takes one flush for data alone, two with a mapping, none where nothing waits', () => {
    const count = (data: boolean, ...steps: (0 | 1 | 2)[]): number => {
      const { device, writes } = setUp();
      for (const step of steps) writes.write(step, step * 4096, eight(1));
      void run(writes.flush(data));
      return device.counters.flushes;
    };
    expect(count(false)).toBe(0);
    expect(count(true)).toBe(1);
    expect(count(true, refcounts)).toBe(1);
    expect(count(true, refcounts, mappings)).toBe(2);
    expect(count(true, mappings)).toBe(2);
    expect(count(false, mappings)).toBe(1);
    expect(count(true, refcounts, tables, mappings)).toBe(3);
  });

  it('shows what waits over what was read, and while it is on the way', async () => {
    const memory = new MemoryDevice({ sizeBytes: 65536 });
    const scheduler = new ManualScheduler();
    const device = new FaultDevice(memory, { scheduler });
    device.addRule({ operation: 'write', fault: { kind: 'delay' } });
    const writes = new OrderedWrites(device);
    writes.write(mappings, 16, eight(1));
    const seen = (): number => {
      const into = new Uint8Array(32);
      memory.read(0, into);
      writes.patch(0, into);
      return into[16]!;
    };
    expect(seen()).toBe(1);
    const flushing = run(writes.flush(false));
    for (let i = 0; i < 50; i++) await Promise.resolve();
    expect(scheduler.held).toHaveLength(1);
    expect(seen()).toBe(1);
    writes.write(mappings, 16, eight(2));
    expect(seen()).toBe(2);
    scheduler.releaseAll();
    await flushing;
    expect(seen()).toBe(2);
    await run(writes.flush(false));
    const onDevice = new Uint8Array(8);
    memory.read(16, onDevice);
    expect(onDevice).toEqual(eight(2));
    expect(writes.isEmpty).toBe(true);
  });

  it('leaves what is queued during a flush for the next one, and calls back when the flush before it is done', async () => {
    const memory = new MemoryDevice({ sizeBytes: 65536 });
    const scheduler = new ManualScheduler();
    const device = new FaultDevice(memory, { scheduler });
    device.addRule({ operation: 'flush', fault: { kind: 'delay' } });
    const writes = new OrderedWrites(device);
    const called: string[] = [];
    writes.write(mappings, 0, eight(1));
    writes.afterMappings(() => called.push('first'));
    const flushing = run(writes.flush(false));
    for (let i = 0; i < 50; i++) await Promise.resolve();
    writes.write(mappings, 4096, eight(2));
    writes.afterMappings(() => called.push('second'));
    expect(called).toEqual([]);
    scheduler.releaseAll();
    await flushing;
    expect(called).toEqual(['first']);
    const second = new Uint8Array(8);
    memory.read(4096, second);
    expect(second).toEqual(eight(0));
    expect(writes.isEmpty).toBe(false);
    await run(writes.flush(false));
    expect(called).toEqual(['first', 'second']);
    expect([writes.isEmpty, writes.pendingBytes]).toEqual([true, 0]);
  });

  it('never writes what was freed', () => {
    const { memory, device, writes } = setUp();
    for (const step of [refcounts, tables, mappings] as const) writes.write(step, 4096 + step * 8, eight(1));
    writes.write(mappings, 8192, eight(2));
    writes.forget(4096, 4096);
    void run(writes.flush(false));
    expect(events(device)).toEqual(['l2_update', 'flush']);
    const freed = new Uint8Array(24);
    memory.read(4096, freed);
    expect(freed).toEqual(new Uint8Array(24));
  });

  it('copies what it is given', () => {
    const { memory, writes } = setUp();
    const bytes = eight(1);
    writes.write(mappings, 0, bytes);
    bytes.fill(9);
    void run(writes.flush(false));
    const seen = new Uint8Array(8);
    memory.read(0, seen);
    expect(seen).toEqual(eight(1));
  });

  it.each(['write', 'flush'] as const)('calls nobody back where a %s fails', async (operation) => {
    const device = new FaultDevice(new MemoryDevice({ sizeBytes: 65536 }));
    device.addRule({ operation, fault: { kind: 'fail' } });
    const writes = new OrderedWrites(device);
    let called = false;
    writes.write(mappings, 0, eight(1));
    writes.afterMappings(() => {
      called = true;
    });
    await expect(async () => run(writes.flush(false))).rejects.toMatchObject({
      code: operation === 'write' ? 'WRITE_FAILED' : 'FLUSH_FAILED',
    });
    expect(called).toBe(false);
    // What failed is still what the image means: it is shown to readers.
    const seen = new Uint8Array(8);
    writes.patch(0, seen);
    expect(seen).toEqual(eight(1));
  });
});
