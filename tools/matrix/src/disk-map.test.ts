import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MemoryDevice } from '@qcow2/block-device';
import { createImage, openImage } from '@qcow2/driver';
import { afterAll, describe, expect, it } from 'vitest';
import { misplaced, ourMap, theirMap } from './disk-map.ts';

const entry = { start: 0, length: 512, depth: 0, present: true, zero: false, data: true };

describe('two maps in one form', () => {
  it('joins what is alike and stands in a row, and calls data without an offset compressed', () => {
    const map = theirMap(
      [
        { ...entry, offset: 4096 },
        { ...entry, start: 512, zero: true, offset: 4608 },
        { ...entry, start: 1024, offset: 0 },
        { ...entry, start: 1536 },
      ],
      false,
    );
    expect(map).toEqual([
      { ...entry, length: 1024, compressed: false, offset: 4096 },
      { ...entry, start: 1024, compressed: false, offset: 0 },
      { ...entry, start: 1536, compressed: true, offset: undefined },
    ]);
    expect(theirMap([entry], true)).toEqual([{ ...entry, compressed: undefined, offset: undefined }]);
  });

  it('shows what is below a hole as one deeper, and where that has ended as the image’s own zeros', async () => {
    const [device, below] = [new MemoryDevice(), new MemoryDevice({ sizeBytes: 4100 })];
    await createImage(device, {
      sizeBytes: 16384,
      clusterBytes: 4096,
      backingFile: 'x',
      backingFormat: 'raw',
    });
    const image = await openImage(device, { backing: below });
    await image.write(8192, new Uint8Array(4096).fill(1));
    await image.writeZeroes(0, 4096);
    const map = await ourMap({ image, backing: below }, false);
    expect(
      map.map(({ start, length, depth, present, data, offset }) => [
        start,
        length,
        depth,
        present,
        data,
        offset,
      ]),
    ).toEqual([
      [0, 4096, 0, true, false, undefined],
      [4096, 512, 1, true, false, 4096],
      [4608, 3584, 0, false, false, undefined],
      [8192, 4096, 0, true, true, expect.any(Number)],
      [12288, 4096, 0, false, false, undefined],
    ]);
    await image.close();
  });
});

describe('the place of bytes', () => {
  const folder = mkdtempSync(join(tmpdir(), 'qcow2-map-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it('is where the file has them', () => {
    const path = join(folder, 'file');
    writeFileSync(path, new Uint8Array(1024).fill(3, 512));
    const bytes = new Uint8Array(512).fill(3);
    expect(misplaced([{ ...entry, offset: 512 }], path, bytes)).toBe(undefined);
    expect(misplaced([{ ...entry, offset: 256 }], path, bytes)).toContain('are not at 256');
    expect(misplaced([entry, { ...entry, data: false, offset: 0 }], path, bytes)).toBe(undefined);
  });
});
