import { describe, expect, it } from 'vitest';
import { DiskModel } from './disk-model.ts';

function modelWith(granularityBytes: number): DiskModel {
  const model = new DiskModel(new Uint8Array(16 * 512).fill(7));
  model.addBitmap('b', granularityBytes, true);
  return model;
}

function set(bits: Uint8Array): number[] {
  return [...bits.keys()].filter((sector) => bits[sector] === 1);
}

describe('bits', () => {
  it('are those of whole granules, up to the end of the disk', () => {
    const model = modelWith(2048);
    model.write(4 * 512 - 1, new Uint8Array(2));
    expect(set(model.bitmaps[0]!.least)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    model.resize(5 * 512);
    expect(set(model.bitmaps[0]!.most)).toEqual([0, 1, 2, 3, 4]);
    model.resize(9 * 512);
    expect(set(model.bitmaps[0]!.least)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  it('of a discard are sure only where bytes have changed', () => {
    const model = modelWith(512);
    model.discard(512, 2048, { start: 1024, end: 2048 });
    expect(set(model.bitmaps[0]!.least)).toEqual([2, 3]);
    expect(set(model.bitmaps[0]!.most)).toEqual([1, 2, 3, 4]);
    expect(model.bytes.subarray(1020, 1030)).toEqual(Uint8Array.of(7, 7, 7, 7, 0, 0, 0, 0, 0, 0));
  });

  it('are not set while a bitmap is off, and merged by its granules', () => {
    const model = modelWith(512);
    model.addBitmap('coarse', 4096, false);
    model.fill(512, 1, 0);
    const [fine, coarse] = [model.bitmaps[0]!, model.bitmaps[1]!];
    expect(set(coarse.most)).toEqual([]);
    model.mergeBitmap(coarse, fine);
    expect(set(coarse.least)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    model.clearBitmap(fine);
    expect(set(fine.least)).toEqual([]);
  });
});

it('a snapshot keeps what the disk held, and its size', () => {
  const model = modelWith(512);
  model.createSnapshot('s');
  model.fill(0, 512, 1);
  model.resize(512);
  model.applySnapshot(model.snapshots[0]!);
  expect(model.bytes).toEqual(new Uint8Array(16 * 512).fill(7));
  model.deleteSnapshot(model.snapshots[0]!);
  expect(model.snapshots).toEqual([]);
});
