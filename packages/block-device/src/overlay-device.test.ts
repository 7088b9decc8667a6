import { describe, expect, it } from 'vitest';
import { FaultDevice } from './fault-device.ts';
import { ManualScheduler } from './fault-scheduler.ts';
import { MemoryDevice } from './memory-device.ts';
import { OverlayDevice } from './overlay-device.ts';
import { RecordingDevice } from './recording-device.ts';

const filled = (length: number, value: number) => new Uint8Array(length).fill(value);

/** An overlay with pages of 10 bytes over 35 bytes of ones whose reads are held. */
function held() {
  const scheduler = new ManualScheduler();
  const base = new FaultDevice(MemoryDevice.fromBytes(filled(35, 1), { pageBytes: 10 }), {
    mode: 'async',
    scheduler,
  });
  return { scheduler, overlay: new OverlayDevice(base, { pageBytes: 10 }) };
}

async function contentOf(overlay: OverlayDevice, scheduler: ManualScheduler): Promise<number[]> {
  const into = new Uint8Array(overlay.sizeBytes);
  const done = overlay.read(0, into);
  scheduler.releaseAll();
  await done;
  return [...into];
}

describe('OverlayDevice', () => {
  it('never writes to its base', () => {
    const base = new RecordingDevice(MemoryDevice.fromBytes(filled(100, 1)));
    const overlay = new OverlayDevice(base);
    overlay.write(10, filled(10, 2), { fua: true });
    overlay.writeZeroes(50, 100);
    overlay.discard(0, 10);
    overlay.resize(20);
    overlay.flush();
    expect(base.log).toEqual([]);
    expect(base.sizeBytes).toBe(100);
  });

  it('loads from its base only what a write leaves standing of a page', () => {
    const base = new RecordingDevice(MemoryDevice.fromBytes(filled(100, 1)));
    const overlay = new OverlayDevice(base, { pageBytes: 10 });
    overlay.write(20, filled(30, 2));
    expect(base.counters.reads).toBe(0);
    overlay.write(55, filled(10, 2));
    expect(base.counters).toMatchObject({ reads: 2, readBytes: 20 });
    overlay.write(57, filled(1, 3));
    expect(base.counters.reads).toBe(2);
    expect(overlay.changedBytes).toBe(50);
  });

  it('asks its base once for pages that lie side by side', () => {
    const base = new RecordingDevice(MemoryDevice.fromBytes(filled(100, 1)));
    const overlay = new OverlayDevice(base, { pageBytes: 10 });
    overlay.write(40, filled(10, 2));
    overlay.read(5, new Uint8Array(90));
    expect(base.counters).toMatchObject({ reads: 2, readBytes: 80 });
  });

  it('loses neither of two writes to one page that wait for it together', async () => {
    const { scheduler, overlay } = held();
    const writes = [overlay.write(2, filled(3, 7)), overlay.write(6, filled(2, 8))];
    expect(scheduler.held.length).toBe(2);
    scheduler.release(1);
    scheduler.release(0);
    await Promise.all(writes);
    expect((await contentOf(overlay, scheduler)).slice(0, 10)).toEqual([1, 1, 7, 7, 7, 1, 8, 8, 1, 1]);
  });

  it('loses no whole-page write that overtakes a partial one', async () => {
    const { scheduler, overlay } = held();
    const partial = overlay.write(2, filled(3, 7));
    expect(overlay.write(0, filled(10, 9))).toBe(undefined);
    scheduler.releaseAll();
    await partial;
    expect((await contentOf(overlay, scheduler)).slice(0, 10)).toEqual([9, 9, 7, 7, 7, 9, 9, 9, 9, 9]);
  });

  it('shows no byte of the base that was cut off while a write waited for its page', async () => {
    const { scheduler, overlay } = held();
    const write = overlay.write(22, filled(2, 7));
    overlay.resize(21);
    scheduler.releaseAll();
    await write;
    overlay.resize(40);
    const end = (await contentOf(overlay, scheduler)).slice(18);
    expect(end).toEqual([1, 1, 1, 0, 7, 7, ...filled(16, 0)]);
  });

  it('describes changed pages, zeroed pages, what the base says, and what lies beyond it', () => {
    const base = new MemoryDevice({ sizeBytes: 60, pageBytes: 10 });
    base.write(0, filled(40, 1));
    const overlay = new OverlayDevice(base, { pageBytes: 10 });
    overlay.writeZeroes(10, 20);
    overlay.write(52, filled(1, 2));
    overlay.resize(100);
    overlay.write(90, filled(5, 3));
    expect(overlay.extents(5, 90)).toEqual([
      { offset: 5, lengthBytes: 5, kind: 'data' },
      { offset: 10, lengthBytes: 20, kind: 'zero' },
      { offset: 30, lengthBytes: 10, kind: 'data' },
      { offset: 40, lengthBytes: 10, kind: 'hole' },
      { offset: 50, lengthBytes: 10, kind: 'data' },
      { offset: 60, lengthBytes: 30, kind: 'hole' },
      { offset: 90, lengthBytes: 5, kind: 'data' },
    ]);
  });

  it('writes to a page that was zeroed without spoiling the others', () => {
    const overlay = new OverlayDevice(MemoryDevice.fromBytes(filled(40, 1)), { pageBytes: 10 });
    overlay.writeZeroes(0, 30);
    overlay.write(15, filled(1, 5));
    const into = new Uint8Array(40);
    overlay.read(0, into);
    expect([...into]).toEqual([...filled(15, 0), 5, ...filled(14, 0), ...filled(10, 1)]);
  });

  it('fails with NO_SPACE, unchanged, beyond its memory', () => {
    const overlay = new OverlayDevice(MemoryDevice.fromBytes(filled(100, 1)), {
      pageBytes: 10,
      maxChangedBytes: 30,
    });
    overlay.write(0, filled(20, 2));
    const refused = expect.objectContaining({ code: 'NO_SPACE' });
    expect(() => overlay.write(15, filled(20, 3))).toThrow(refused);
    expect(() => overlay.writeZeroes(50, 20)).toThrow(refused);
    overlay.write(5, filled(20, 4));
    expect(overlay.changedBytes).toBe(30);
    const into = new Uint8Array(30);
    overlay.read(0, into);
    expect([...into]).toEqual([...filled(5, 2), ...filled(20, 4), ...filled(5, 1)]);
  });
});
