/** A suite that passes everything proves nothing: each device here breaks the contract in one way, and must be found out. */
import { strict as assert } from 'node:assert';
import { describe, expect, it } from 'vitest';
import type { BlockDevice, Extent, WriteOptions } from '../src/block-device.ts';
import { blockDeviceContract } from '../src/contract.ts';
import { FaultDevice, MemoryDevice } from '../src/index.ts';

/** Titles of the suite's tests that fail on such devices. */
async function failures(create: (sizeBytes: number) => BlockDevice): Promise<string[]> {
  const tests: { title: string; body: () => Promise<void> }[] = [];
  blockDeviceContract(
    {
      describe: (_title, body) => body(),
      it: (title, body) => tests.push({ title, body }),
      assert,
    },
    { name: 'broken', create, capabilities: new MemoryDevice().capabilities, returns: 'values', seeds: [1] },
  );
  const failed: string[] = [];
  for (const { title, body } of tests) {
    await body().catch(() => failed.push(title));
  }
  return failed;
}

class LosesTheLastByte extends MemoryDevice {
  override write(offset: number, bytes: Uint8Array): void {
    super.write(offset, bytes.subarray(0, Math.max(1, bytes.length - 1)));
  }
}
class DoesNotCheckTheEnd extends MemoryDevice {
  override read(offset: number, into: Uint8Array): void {
    super.read(offset, into.subarray(0, Math.max(0, Math.min(into.length, this.sizeBytes - offset))));
  }
}
class ZeroesTooMuch extends MemoryDevice {
  override writeZeroes(offset: number, lengthBytes: number): void {
    const end = Math.min(this.sizeBytes, Math.ceil((offset + lengthBytes) / 512) * 512);
    super.writeZeroes(offset, Math.max(lengthBytes, end - offset));
  }
}
class DiscardsItsNeighbours extends MemoryDevice {
  override discard(offset: number, lengthBytes: number): void {
    super.discard(offset, lengthBytes);
    if (lengthBytes > 0) super.writeZeroes(Math.floor(offset / 512) * 512, lengthBytes);
  }
}
class GrowsByNothing extends MemoryDevice {
  override write(offset: number, bytes: Uint8Array): void {
    if (bytes.length === 0 && offset > this.sizeBytes) this.resize(offset);
    else super.write(offset, bytes);
  }
}
class DoesNotMergeExtents extends MemoryDevice {
  override extents(offset: number, lengthBytes: number): readonly Extent[] {
    return super.extents(offset, lengthBytes).flatMap((extent) => {
      if (extent.lengthBytes < 2) return [extent];
      const half = Math.floor(extent.lengthBytes / 2);
      const rest = { ...extent, offset: extent.offset + half, lengthBytes: extent.lengthBytes - half };
      return [{ ...extent, lengthBytes: half }, rest];
    });
  }
}
class CallsEverythingAHole extends MemoryDevice {
  override extents(offset: number, lengthBytes: number): readonly Extent[] {
    const merged = super.extents(offset, lengthBytes);
    return merged.length === 0 ? [] : [{ offset, lengthBytes, kind: 'hole' }];
  }
}
class KeepsServing extends MemoryDevice {
  override close(): void {}
}
class RefusesFua extends MemoryDevice {
  override write(offset: number, bytes: Uint8Array, options?: WriteOptions): void {
    if (options?.fua === true) throw new RangeError('what is FUA?');
    super.write(offset, bytes);
  }
}
class ThrowsForeignErrors extends MemoryDevice {
  override read(offset: number, into: Uint8Array): void {
    try {
      super.read(offset, into);
    } catch {
      throw new RangeError('no');
    }
  }
}
class ShowsOldBytes extends MemoryDevice {
  #old = new Uint8Array(0);
  override resize(sizeBytes: number): void {
    const from = this.sizeBytes;
    if (sizeBytes < from && !Number.isNaN(sizeBytes)) this.#old = this.snapshot();
    super.resize(sizeBytes);
    if (sizeBytes > from) super.write(from, this.#old.subarray(from, sizeBytes));
  }
}
describe('the contract finds out', () => {
  it('nothing about a device that keeps it', async () => {
    expect(await failures((sizeBytes) => new MemoryDevice({ sizeBytes }))).toEqual([]);
  });

  it('a device that waits where it says that it does not', async () => {
    const failed = await failures(
      (sizeBytes) => new FaultDevice(new MemoryDevice({ sizeBytes }), { mode: 'async' }),
    );
    expect(failed).toEqual(['answers as its manifest says: at once, or with promises']);
  });

  for (const Broken of [
    LosesTheLastByte,
    DoesNotCheckTheEnd,
    ZeroesTooMuch,
    DiscardsItsNeighbours,
    GrowsByNothing,
    DoesNotMergeExtents,
    CallsEverythingAHole,
    KeepsServing,
    RefusesFua,
    ThrowsForeignErrors,
    ShowsOldBytes,
  ]) {
    it(`a device that ${Broken.name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`).trim()}`, async () => {
      const failed = await failures((sizeBytes) => new Broken({ sizeBytes }));
      expect(failed).not.toEqual([]);
    });
  }
});
