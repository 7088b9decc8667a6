import { describe, expect, it } from 'vitest';
import {
  FaultDevice,
  type FaultRule,
  ManualScheduler,
  MemoryDevice,
  RecordingDevice,
  ShuffledScheduler,
} from '../../src/index.ts';

const filled = (length: number, value: number) => new Uint8Array(length).fill(value);
const withCode = (code: string) => expect.objectContaining({ code });

function faulty(...rules: FaultRule[]) {
  const below = new MemoryDevice({ sizeBytes: 8192 });
  return { below, device: new FaultDevice(below, { rules }) };
}

describe('FaultDevice rules', () => {
  it('strike the nth operation that fits, once, and tell how often', () => {
    const { device } = faulty();
    const fault = device.addRule({ operation: 'write', nth: 3, fault: { kind: 'fail' } });
    device.write(0, filled(1, 1));
    device.read(0, filled(1, 0));
    device.write(0, filled(1, 1));
    expect(() => device.write(0, filled(1, 1))).toThrow(withCode('WRITE_FAILED'));
    device.write(0, filled(1, 1));
    expect(fault).toMatchObject({ matches: 4, strikes: 1 });
  });

  it('strike as often as asked, or for ever, until they are removed', () => {
    const { device } = faulty({ operation: 'read', nth: 2, times: 2, fault: { kind: 'fail' } });
    const outcomes = Array.from({ length: 5 }, () => attempt(() => device.read(0, filled(1, 0))));
    expect(outcomes).toEqual(['done', 'READ_FAILED', 'READ_FAILED', 'done', 'done']);
    const dead = device.addRule({ times: Number.POSITIVE_INFINITY, fault: { kind: 'fail' } });
    expect(attempt(() => device.flush())).toBe('FLUSH_FAILED');
    expect(attempt(() => device.resize(1))).toBe('WRITE_FAILED');
    expect(attempt(() => device.extents(0, 1))).toBe('READ_FAILED');
    dead.remove();
    expect(attempt(() => device.flush())).toBe('done');
  });

  it('are chosen by event and by place', () => {
    const { device } = faulty(
      { event: ['l2_update', 'refblock_update'], times: Number.POSITIVE_INFINITY, fault: { kind: 'fail' } },
      { range: { offset: 1000, lengthBytes: 10 }, times: Number.POSITIVE_INFINITY, fault: { kind: 'fail' } },
    );
    expect(attempt(() => device.write(0, filled(10, 1), { event: 'l2_update' }))).toBe('WRITE_FAILED');
    expect(attempt(() => device.write(0, filled(10, 1), { event: 'l2_alloc_write' }))).toBe('done');
    expect(attempt(() => device.write(0, filled(10, 1)))).toBe('done');
    expect(attempt(() => device.write(990, filled(10, 1)))).toBe('done');
    expect(attempt(() => device.write(990, filled(11, 1)))).toBe('WRITE_FAILED');
    expect(attempt(() => device.read(1009, filled(1, 1)))).toBe('READ_FAILED');
    expect(attempt(() => device.read(1010, filled(1, 1)))).toBe('done');
    expect(attempt(() => device.flush())).toBe('done');
  });

  it('count together: an operation that one rule strikes counts for the others', () => {
    const { device } = faulty(
      { operation: 'write', nth: 1, fault: { kind: 'fail' } },
      { operation: 'write', nth: 2, fault: { kind: 'fail', errno: 'ENOSPC' } },
    );
    expect(attempt(() => device.write(0, filled(1, 1)))).toBe('WRITE_FAILED');
    expect(attempt(() => device.write(0, filled(1, 1)))).toBe('NO_SPACE');
  });

  it('give errors that name their cause', () => {
    const { device } = faulty({ event: 'refblock_update', fault: { kind: 'fail', errno: 'ENOSPC' } });
    expect(() => device.write(512, filled(5, 1), { event: 'refblock_update' })).toThrow(
      expect.objectContaining({
        code: 'NO_SPACE',
        context: { hostOffset: 512, lengthBytes: 5 },
        cause: withCode('FAULT_INJECTED'),
      }),
    );
  });
});

describe('FaultDevice faults', () => {
  it('fail: nothing is done', () => {
    const { below, device } = faulty({ fault: { kind: 'fail' } });
    expect(() => device.write(0, filled(10, 1))).toThrow(withCode('WRITE_FAILED'));
    expect(below.allocatedBytes).toBe(0);
  });

  it('short: the first bytes are done', () => {
    const { below, device } = faulty(
      { operation: 'write', fault: { kind: 'short', doneBytes: 3 } },
      { operation: 'read', fault: { kind: 'short', doneBytes: 2 } },
      { operation: 'write_zeroes', fault: { kind: 'short', doneBytes: 1 } },
    );
    expect(attempt(() => device.write(10, filled(5, 1)))).toBe('WRITE_FAILED');
    expect([...below.snapshot().subarray(9, 15)]).toEqual([0, 1, 1, 1, 0, 0]);
    const into = filled(5, 9);
    expect(attempt(() => device.read(10, into))).toBe('READ_FAILED');
    expect([...into]).toEqual([1, 1, 9, 9, 9]);
    expect(attempt(() => device.writeZeroes(10, 3))).toBe('WRITE_FAILED');
    expect([...below.snapshot().subarray(9, 15)]).toEqual([0, 0, 1, 1, 0, 0]);
  });

  it('torn: sectors land whole or not at all, counted from the one where the write starts', () => {
    const { below, device } = faulty({
      operation: 'write',
      fault: { kind: 'torn', lands: (sector) => sector % 2 === 0 },
    });
    expect(attempt(() => device.write(500, filled(2000, 7)))).toBe('WRITE_FAILED');
    const landed = [...below.snapshot()].flatMap((byte, i) => (byte === 7 ? [i] : []));
    const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
    expect(landed).toEqual([...range(500, 512), ...range(1024, 1536), ...range(2048, 2500)]);
  });

  it('torn strikes only what can be torn', () => {
    const { device } = faulty({ fault: { kind: 'torn', lands: () => false } });
    expect(attempt(() => device.read(0, filled(1, 0)))).toBe('done');
    expect(attempt(() => device.flush())).toBe('done');
    expect(attempt(() => device.write(0, filled(1, 0)))).toBe('WRITE_FAILED');
  });

  it('delay: before the start, nothing is done until it is let go', async () => {
    const scheduler = new ManualScheduler();
    const below = new MemoryDevice({ sizeBytes: 100 });
    const device = new FaultDevice(below, {
      scheduler,
      rules: [{ operation: 'write', fault: { kind: 'delay' } }],
    });
    const write = device.write(0, filled(10, 1), { event: 'write_data' });
    expect(scheduler.held).toEqual([{ operation: 'write', event: 'write_data', offset: 0, lengthBytes: 10 }]);
    expect(device.write(5, filled(5, 2))).toBe(undefined);
    expect(below.snapshot()[0]).toBe(0);
    scheduler.release();
    await write;
    expect([...below.snapshot().subarray(0, 10)]).toEqual([...filled(10, 1)]);
  });

  it('delay: before completion, it is done and not yet reported', async () => {
    const scheduler = new ManualScheduler();
    const below = new MemoryDevice({ sizeBytes: 100 });
    const rules: FaultRule[] = [
      { operation: 'write', fault: { kind: 'delay', before: 'completion' } },
      { operation: 'write', fault: { kind: 'short', doneBytes: 4 } },
    ];
    const device = new FaultDevice(below, { scheduler, rules });
    const write = device.write(0, filled(10, 1));
    expect([...below.snapshot().subarray(0, 10)]).toEqual([...filled(4, 1), ...filled(6, 0)]);
    scheduler.releaseAll();
    await expect(write).rejects.toThrow(withCode('WRITE_FAILED'));
  });
});

describe('FaultDevice in mode async', () => {
  it('fills buffers with noise until the bytes come', async () => {
    const device = new FaultDevice(new MemoryDevice({ sizeBytes: 10 }), { mode: 'async' });
    const into = new Uint8Array(10);
    const read = device.read(0, into);
    expect(into.every((byte) => byte !== 0)).toBe(true);
    await read;
    expect(into.every((byte) => byte === 0)).toBe(true);
  });

  it('rejects where it would have thrown', async () => {
    const device = new FaultDevice(new MemoryDevice({ sizeBytes: 10 }), {
      mode: 'async',
      rules: [{ operation: 'flush', fault: { kind: 'fail' } }],
    });
    await expect(device.flush()).rejects.toThrow(withCode('FLUSH_FAILED'));
    await expect(device.read(10, new Uint8Array(1))).rejects.toThrow(withCode('OUT_OF_RANGE'));
  });

  it('shuffles by a seed: the same order again for the same seed, another for others', async () => {
    const order = async (seed: number) => {
      const below = new RecordingDevice(new MemoryDevice({ sizeBytes: 100 }));
      const device = new FaultDevice(below, { mode: 'async', scheduler: new ShuffledScheduler(seed) });
      await Promise.all(Array.from({ length: 10 }, (_, i) => device.write(i, filled(1, 1))));
      return below.log.map((operation) => (operation.kind === 'write' ? operation.offset : -1)).join();
    };
    const orders = await Promise.all([1, 2, 3, 4, 1].map(order));
    expect(orders[0]).toBe(orders[4]);
    expect(new Set(orders).size).toBeGreaterThan(1);
  });

  it('releases by hand only what is held', () => {
    expect(() => new ManualScheduler().release()).toThrow(withCode('INVALID_ARGUMENT'));
  });
});

function attempt(operation: () => unknown): unknown {
  try {
    operation();
    return 'done';
  } catch (error) {
    return error instanceof Error && 'code' in error ? error.code : error;
  }
}
