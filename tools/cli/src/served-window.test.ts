import { MemoryDevice } from '@qcow2/block-device';
import { blockDeviceContract } from '@qcow2/block-device/contract';
import { assert, describe, expect, it } from 'vitest';
import { contextFrom, diskFrom } from './served-window.ts';

const start = 4096 + 7;
const fixed = { growable: false, resize: false };

blockDeviceContract(
  { describe, it, assert },
  {
    name: 'the window of a disk',
    create: (sizeBytes) => diskFrom(new MemoryDevice({ sizeBytes: start + sizeBytes }), start),
    capabilities: { ...new MemoryDevice().capabilities, ...fixed },
  },
);

it('leaves what stands before it alone, and is the disk itself from its start on', async () => {
  const disk = new MemoryDevice({ sizeBytes: 8192 });
  disk.write(0, new Uint8Array(8192).fill(7));
  const window = diskFrom(disk, 4096);
  await window.write(0, new Uint8Array([1, 2, 3]));
  const bytes = new Uint8Array(8192);
  disk.read(0, bytes);
  expect(bytes.subarray(0, 4096).every((byte) => byte === 7)).toBe(true);
  expect([...bytes.subarray(4096, 4100)]).toEqual([1, 2, 3, 7]);
  expect(() => window.write(4096 - 1, new Uint8Array(2))).toThrow(
    expect.objectContaining({ code: 'OUT_OF_RANGE' }),
  );
  expect(diskFrom(disk, 0)).toBe(disk);
  expect(diskFrom(disk, 8192).sizeBytes).toBe(0);
  expect(() => diskFrom(disk, 8193)).toThrow(
    'Offset (8193) cannot be greater than size of the containing file (8192)',
  );
});

it('asks contexts of the disk by its own offsets', async () => {
  const asked: number[] = [];
  const context = {
    name: 'x:y',
    status: async (offset: number, lengthBytes: number) => {
      asked.push(offset);
      return [{ lengthBytes, status: 1 }];
    },
  };
  expect(await contextFrom(context, 512).status(100, 10, 1)).toEqual([{ lengthBytes: 10, status: 1 }]);
  expect(asked).toEqual([612]);
});
