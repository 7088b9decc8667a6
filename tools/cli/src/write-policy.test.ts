import { MemoryDevice, type WriteOptions, type WriteZeroesOptions } from '@qcow2/block-device';
import { blockDeviceContract } from '@qcow2/block-device/contract';
import { assert, describe, expect, it } from 'vitest';
import { plainPolicy, type WritePolicy, withWritePolicy } from './write-policy.ts';

const sizeBytes = 65536;
const data = new Uint8Array(512).fill(1);
const zeros = new Uint8Array(512);

for (const policy of [
  { durable: 'at once', zeroes: 'off' },
  { durable: 'never', zeroes: 'unmap' },
] as const) {
  blockDeviceContract(
    { describe, it, assert },
    {
      name: `a disk whose writes are durable ${policy.durable}, zeros: ${policy.zeroes}`,
      create: (size) => withWritePolicy(new MemoryDevice({ sizeBytes: size }), policy),
      capabilities: new MemoryDevice().capabilities,
    },
  );
}

/** Remembers what it was asked for. */
class Spy extends MemoryDevice {
  readonly asked: unknown[][] = [];

  override write(offset: number, bytes: Uint8Array, options?: WriteOptions): void {
    this.asked.push(['write', options?.fua === true]);
    super.write(offset, bytes, options);
  }

  override discard(offset: number, lengthBytes: number, options?: WriteOptions): void {
    this.asked.push(['discard', options?.fua === true]);
    super.discard(offset, lengthBytes, options);
  }

  override writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void {
    this.asked.push(['writeZeroes', options?.fua === true, options?.mayUnmap]);
    super.writeZeroes(offset, lengthBytes, options);
  }

  override flush(): void {
    this.asked.push(['flush', false]);
    super.flush();
  }
}

/** What reaches the disk of a write, a write of zeros, a discard, a write with FUA and a flush. */
async function reaching(policy: WritePolicy): Promise<readonly unknown[][]> {
  const below = new Spy({ sizeBytes });
  const disk = withWritePolicy(below, policy);
  await disk.write(0, data);
  await disk.write(512, zeros);
  await disk.discard(1024, 512);
  await disk.write(2048, data, { fua: true });
  await disk.flush();
  return below.asked;
}

it('hands everything on as it comes where nothing else is said', () => {
  const disk = new MemoryDevice({ sizeBytes });
  expect(withWritePolicy(disk, plainPolicy)).toBe(disk);
});

it('makes each change durable by itself', async () => {
  expect(await reaching({ durable: 'at once', zeroes: 'off' })).toEqual([
    ['write', true],
    ['write', true],
    ['discard', true],
    ['write', true],
    ['flush', false],
  ]);
});

it('asks for no durability at all', async () => {
  expect(await reaching({ durable: 'never', zeroes: 'off' })).toEqual([
    ['write', false],
    ['write', false],
    ['discard', false],
    ['write', false],
  ]);
});

it('knows zeros by their bytes, and gives them back only where that is asked for', async () => {
  const kept = await reaching({ durable: 'by flush', zeroes: 'on' });
  expect(kept[1]).toEqual(['writeZeroes', false, false]);
  const given = await reaching({ durable: 'at once', zeroes: 'unmap' });
  expect(given[1]).toEqual(['writeZeroes', true, true]);
  expect(given[0]).toEqual(['write', true]);
});
