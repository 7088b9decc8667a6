import { MemoryDevice, RecordingDevice, run } from '@qcow2/block-device';
import { journalGeometry } from '@qcow2/codec/journal/v1';
import { describe, expect, it } from 'vitest';
import { random } from '../test/support/random.ts';
import { formatArea, readSlots, writeSlot } from './area.ts';

const area = { hostOffset: 8192, lengthBytes: 65536 };

describe('formatting an area', () => {
  it('[JRN-AREA-004] writes every byte of the ring and both slots, durable on return', async () => {
    const memory = new MemoryDevice();
    memory.write(0, new Uint8Array(area.hostOffset + area.lengthBytes).fill(0xee));
    const device = new RecordingDevice(memory);
    await run(formatArea(device, area, 512, random(1).fill));
    const written = new Uint8Array(area.lengthBytes);
    for (const operation of device.log) {
      if (operation.kind !== 'write') continue;
      written.fill(
        1,
        operation.offset - area.hostOffset,
        operation.offset - area.hostOffset + operation.bytes.length,
      );
    }
    expect(written.every((byte) => byte === 1)).toBe(true);
    expect(device.log.at(-1)).toMatchObject({ kind: 'flush' });
    const { ringStart } = journalGeometry(area.lengthBytes, 512);
    const ring = new Uint8Array(area.lengthBytes - ringStart);
    memory.read(area.hostOffset + ringStart, ring);
    expect(ring.every((byte) => byte === 0)).toBe(true);
  });

  it('[JRN-AREA-004] gives both slots the values of an empty log', async () => {
    const memory = new MemoryDevice();
    await run(formatArea(memory, area, 4096, random(1).fill));
    const { newer, older } = await run(readSlots(memory, area));
    const empty = { tailPosition: 0, tailSequence: 1, tailChain: 0, durableSequence: 0, blockSizeOrder: 12 };
    expect(newer).toMatchObject({ ...empty, generation: 1 });
    expect(older).toEqual({ ...newer, generation: 0 });
    await run(formatArea(memory, area, 4096, random(2).fill));
    const again = (await run(readSlots(memory, area))).newer;
    expect(again.journalId).not.toBe(newer.journalId);
    expect(again.tailSalt).not.toBe(newer.tailSalt);
  });
});

describe('slots', () => {
  it('[JRN-SLOT-005] stand in turns, each at the place that its generation names', async () => {
    for (const blockBytes of [512, 4096]) {
      const memory = new MemoryDevice();
      await run(formatArea(memory, area, blockBytes, random(1).fill));
      for (let generation = 2; generation < 7; generation++) {
        const { newer } = await run(readSlots(memory, area));
        expect(newer.generation).toBe(generation - 1);
        await run(writeSlot(memory, area, { ...newer, generation }));
      }
    }
  });

  it('[JRN-RECOV-002] of an area in another place, or of another length, are refused', async () => {
    const memory = new MemoryDevice();
    await run(formatArea(memory, area, 512, random(1).fill));
    const bytes = new Uint8Array(area.lengthBytes);
    memory.read(area.hostOffset, bytes);
    const moved = { ...area, hostOffset: 4 * 65536 };
    memory.write(moved.hostOffset, bytes);
    const longer = { ...area, lengthBytes: 2 * area.lengthBytes };
    memory.resize(8 * 65536);
    for (const other of [moved, longer]) {
      await expect(async () => run(readSlots(memory, other))).rejects.toMatchObject({
        code: 'JOURNAL_DAMAGED',
      });
    }
  });
});
