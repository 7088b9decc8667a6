import { describe, expect, it } from 'vitest';
import { MemoryDevice } from './memory-device.ts';

const bytes = (length: number, value: number) => new Uint8Array(length).fill(value);

describe('MemoryDevice', () => {
  it('takes sizes up to 2^53 - 1 and works at their end', () => {
    const device = new MemoryDevice({ sizeBytes: Number.MAX_SAFE_INTEGER });
    const last = Number.MAX_SAFE_INTEGER - 3;
    device.write(last, bytes(3, 7));
    const into = bytes(4, 1);
    device.read(last - 1, into);
    expect([...into]).toEqual([0, 7, 7, 7]);
    device.writeZeroes(0, Number.MAX_SAFE_INTEGER);
    expect(device.allocatedBytes).toBe(0);
    expect(device.extents(0, Number.MAX_SAFE_INTEGER)).toEqual([
      { offset: 0, lengthBytes: Number.MAX_SAFE_INTEGER, kind: 'hole' },
    ]);
  });

  it('reports extents by page, clipped to the range', () => {
    const device = new MemoryDevice({ sizeBytes: 100, pageBytes: 10 });
    device.write(35, bytes(1, 1));
    device.write(45, bytes(1, 1));
    device.write(99, bytes(1, 1));
    expect(device.extents(5, 95)).toEqual([
      { offset: 5, lengthBytes: 25, kind: 'hole' },
      { offset: 30, lengthBytes: 20, kind: 'data' },
      { offset: 50, lengthBytes: 40, kind: 'hole' },
      { offset: 90, lengthBytes: 10, kind: 'data' },
    ]);
    expect(device.extents(33, 4)).toEqual([{ offset: 33, lengthBytes: 4, kind: 'data' }]);
    expect(device.extents(50, 0)).toEqual([]);
  });

  it('frees the pages that a range of zeros covers, the last one up to the end of the device', () => {
    const device = new MemoryDevice({ sizeBytes: 25, pageBytes: 10 });
    device.write(0, bytes(25, 9));
    device.writeZeroes(5, 20);
    expect(device.allocatedBytes).toBe(10);
    expect([...device.snapshot()]).toEqual([9, 9, 9, 9, 9, ...bytes(20, 0)]);
  });

  it('shows zeros, not old bytes, where it grows again after shrinking', () => {
    const device = new MemoryDevice({ sizeBytes: 30, pageBytes: 10 });
    device.write(0, bytes(30, 9));
    device.resize(5);
    device.resize(30);
    expect([...device.snapshot()]).toEqual([9, 9, 9, 9, 9, ...bytes(25, 0)]);
  });

  it('refuses what its capabilities leave out', () => {
    const fixed = new MemoryDevice({ sizeBytes: 10, capabilities: { growable: false, resize: false } });
    expect(() => fixed.write(9, bytes(2, 1))).toThrow(expect.objectContaining({ code: 'OUT_OF_RANGE' }));
    expect(() => fixed.resize(1)).toThrow(expect.objectContaining({ code: 'UNSUPPORTED_OPERATION' }));
    const still = new MemoryDevice({ sizeBytes: 10, capabilities: { write: false } });
    expect(() => still.write(0, bytes(1, 1))).toThrow(expect.objectContaining({ code: 'READ_ONLY' }));
    const blunt = new MemoryDevice({ sizeBytes: 10, capabilities: { discard: false, extents: false } });
    blunt.write(0, bytes(10, 5));
    blunt.discard(0, 10);
    expect([...blunt.snapshot()]).toEqual([...bytes(10, 5)]);
    expect(blunt.extents(0, 10)).toEqual([{ offset: 0, lengthBytes: 10, kind: 'data' }]);
  });

  it('fails with NO_SPACE, unchanged, beyond its largest size', () => {
    const device = new MemoryDevice({ sizeBytes: 10, maxSizeBytes: 20 });
    for (const attempt of [
      () => device.write(15, bytes(6, 1)),
      () => device.writeZeroes(15, 6),
      () => device.resize(21),
    ]) {
      expect(attempt).toThrow(expect.objectContaining({ code: 'NO_SPACE' }));
    }
    expect(device.sizeBytes).toBe(10);
  });

  it('copies: from bytes, to a snapshot, to a clone', () => {
    const source = bytes(10_000, 3);
    source.fill(0, 4096, 8192);
    const device = MemoryDevice.fromBytes(source);
    expect(device.allocatedBytes).toBe(8192);
    const twin = device.clone();
    device.write(0, bytes(10, 4));
    source.fill(5);
    expect(device.snapshot().subarray(0, 11)).toEqual(Uint8Array.of(...bytes(10, 4), 3));
    expect(twin.snapshot().subarray(0, 11)).toEqual(bytes(11, 3));
  });

  it('refuses sizes that can not be', () => {
    for (const options of [{ sizeBytes: -1 }, { sizeBytes: 1.5 }, { pageBytes: 0 }]) {
      expect(() => new MemoryDevice(options)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    }
  });
});
