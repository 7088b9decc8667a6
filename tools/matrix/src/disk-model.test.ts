import { describe, expect, it } from 'vitest';
import { contentOf, DiskModel, type Step } from './disk-model.ts';

const fills = { noise: Uint8Array.of(1, 2, 3), mixed: Uint8Array.of(4) };
const step = (kind: Step['kind'], offset: number, lengthBytes: number, fill: Step['fill'] = 9): Step => ({
  kind,
  offset,
  lengthBytes,
  fill,
});

function model(discards = true): DiskModel {
  const made = new DiskModel(5000, { clusterBytes: 1024, discards, fills }, new Uint8Array(3000).fill(7));
  return made;
}

describe('a model of a disk', () => {
  it('shows what is below, and zeros behind it', () => {
    const { bytes } = model();
    expect([bytes[0], bytes[2999], bytes[3000], bytes.length]).toEqual([7, 7, 0, 5000]);
  });

  it('repeats a text from its beginning', () => {
    expect([...contentOf(step('write', 10, 5, 'noise'), fills)]).toEqual([1, 2, 3, 1, 2]);
    expect([...contentOf(step('zero', 10, 2), fills)]).toEqual([0, 0]);
  });

  it('discards whole clusters, and the last one of the disk', () => {
    const disk = model();
    disk.apply(step('discard', 1000, 1100));
    expect([disk.bytes[1023], disk.bytes[1024], disk.bytes[2047], disk.bytes[2048]]).toEqual([7, 0, 0, 7]);
    disk.apply(step('write', 4000, 1000));
    disk.apply(step('discard', 4050, 950));
    expect([disk.bytes[4095], disk.bytes[4096], disk.bytes[4999]]).toEqual([9, 0, 0]);
    const kept = model(false);
    kept.apply(step('discard', 0, 5000));
    expect(kept.bytes[1024]).toBe(7);
  });

  it('takes what is read after a discard of ours: what was there, or zeros, and nothing else', () => {
    const found = new Uint8Array(2048).fill(7).fill(0, 0, 1024);
    const disk = model();
    expect(disk.adopt(step('discard', 0, 2048), found)).toBe(undefined);
    expect([disk.bytes[0], disk.bytes[1024]]).toEqual([0, 7]);
    expect(model().adopt(step('discard', 0, 2048), found.slice().fill(5, 9, 10))).toContain('byte 9 ');
    // A part of a cluster stays.
    expect(model().adopt(step('discard', 0, 100), new Uint8Array(100))).toContain('byte 0 ');
  });

  it('knows what is dirty since it was told to forget, in granules cut at the end of the disk', () => {
    const disk = model();
    disk.apply(step('write', 0, 10));
    disk.forget();
    disk.apply(step('write', 1030, 1));
    disk.apply(step('zero', 2047, 2));
    disk.apply(step('discard', 4990, 10));
    expect(disk.dirty(512)).toEqual([
      { offset: 1024, lengthBytes: 1536 },
      { offset: 4608, lengthBytes: 392 },
    ]);
    expect(disk.dirty(4096)).toEqual([{ offset: 0, lengthBytes: 5000 }]);
  });
});
