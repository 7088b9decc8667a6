import { describe, expect, it } from 'vitest';
import type { BlockDevice } from './block-device.ts';
import { MemoryDevice } from './memory-device.ts';
import { applyRecorded, RecordingDevice } from './recording-device.ts';

describe('RecordingDevice', () => {
  it('logs what changes the device, in order, with events and a clock of starts and completions', () => {
    const device = new RecordingDevice(new MemoryDevice({ sizeBytes: 100 }));
    device.write(0, Uint8Array.of(1, 2), { event: 'l2_update' });
    device.flush({ event: 'flush_metadata' });
    device.writeZeroes(10, 5, { mayUnmap: true, fua: true });
    device.discard(20, 5);
    device.resize(50);
    expect(device.log).toEqual([
      entry(0, { kind: 'write', offset: 0, bytes: Uint8Array.of(1, 2), fua: false, event: 'l2_update' }),
      entry(1, { kind: 'flush', event: 'flush_metadata' }),
      entry(2, { kind: 'write_zeroes', offset: 10, lengthBytes: 5, fua: true, mayUnmap: true }),
      entry(3, { kind: 'discard', offset: 20, lengthBytes: 5 }),
      entry(4, { kind: 'resize', sizeBytes: 50 }),
    ]);
    expect(device.now).toBe(10);
  });

  it('keeps a copy of the bytes, not the buffer', () => {
    const device = new RecordingDevice(new MemoryDevice({ sizeBytes: 4 }));
    const buffer = Uint8Array.of(1, 2);
    device.write(0, buffer);
    buffer.fill(9);
    expect(device.log[0]).toMatchObject({ bytes: Uint8Array.of(1, 2) });
  });

  it('shows an operation as under way until it completes, and what started meanwhile', async () => {
    const gates: PromiseWithResolvers<void>[] = [];
    const device = new RecordingDevice(slowWrites(gates));
    const first = device.write(0, Uint8Array.of(1));
    const second = device.write(1, Uint8Array.of(2));
    expect(device.log.map(({ startedAt, completedAt }) => [startedAt, completedAt])).toEqual([
      [0, undefined],
      [1, undefined],
    ]);
    gates[1]?.resolve();
    await second;
    device.flush();
    gates[0]?.resolve();
    await first;
    // The flush covers the second write, which completed before it started, and not the first.
    expect(device.log.map(({ startedAt, completedAt }) => [startedAt, completedAt])).toEqual([
      [0, 5],
      [1, 2],
      [3, 4],
    ]);
  });

  it('keeps failed operations, thrown and rejected, and passes the failure on', async () => {
    const full = new RecordingDevice(new MemoryDevice({ maxSizeBytes: 1 }));
    expect(() => full.write(0, Uint8Array.of(1, 2))).toThrow(expect.objectContaining({ code: 'NO_SPACE' }));
    expect(full.log).toMatchObject([{ kind: 'write', failed: true, startedAt: 0, completedAt: 1 }]);

    const gates: PromiseWithResolvers<void>[] = [];
    const slow = new RecordingDevice(slowWrites(gates));
    const done = slow.write(0, Uint8Array.of(1));
    gates[0]?.reject(new RangeError('below'));
    await expect(done).rejects.toThrow(RangeError);
    expect(slow.log).toMatchObject([{ failed: true, completedAt: 1 }]);
  });

  it('counts, and forgets on reset while time goes on', () => {
    const device = new RecordingDevice(new MemoryDevice({ sizeBytes: 100 }));
    device.read(0, new Uint8Array(7));
    device.read(0, new Uint8Array(3));
    device.write(0, new Uint8Array(11));
    device.flush();
    device.discard(0, 1);
    device.writeZeroes(0, 1);
    expect(device.counters).toEqual({
      reads: 2,
      readBytes: 10,
      writes: 1,
      writtenBytes: 11,
      flushes: 1,
      discards: 1,
      writeZeroes: 1,
    });
    device.reset();
    expect(device.log).toEqual([]);
    expect(device.counters.reads).toBe(0);
    device.flush();
    expect(device.log).toMatchObject([{ serial: 4, startedAt: 8 }]);
  });

  it('replays: the log applied to a copy of the start makes a copy of the end', () => {
    const below = new MemoryDevice({ sizeBytes: 20_000 });
    const copy = below.clone();
    const device = new RecordingDevice(below);
    device.write(100, new Uint8Array(9000).fill(1), { fua: true, event: 'write_data' });
    device.writeZeroes(200, 5000);
    device.flush();
    device.discard(4096, 4096, { event: 'write_data' });
    device.resize(9000);
    for (const operation of device.log) applyRecorded(operation, copy);
    expect(copy.snapshot()).toEqual(below.snapshot());
  });
});

function entry(serial: number, rest: object) {
  return {
    event: undefined,
    serial,
    startedAt: 2 * serial,
    completedAt: 2 * serial + 1,
    failed: false,
    ...rest,
  };
}

/** A device whose writes complete when their gates open. */
function slowWrites(gates: PromiseWithResolvers<void>[]): BlockDevice {
  const device: BlockDevice = new MemoryDevice({ sizeBytes: 100 });
  device.write = () => {
    const gate = Promise.withResolvers<void>();
    gates.push(gate);
    return gate.promise;
  };
  return device;
}
