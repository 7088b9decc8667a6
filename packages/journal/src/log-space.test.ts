import { PatchMap } from '@qcow2/block-device';
import { hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { LogSpace } from './log-space.ts';
import type { RecoveredLog } from './recovery.ts';

const ring = { hostOffset: 8192, lengthBytes: 10 * 512, blockBytes: 512 };
const slot = {
  generation: 4,
  blockSizeOrder: 9,
  journalId: 1n,
  areaHostOffset: hostOffset(0),
  areaLengthBytes: 65536,
  tailPosition: 512,
  tailSequence: 7,
  tailSalt: 2n,
  tailChain: 3,
  flags: 0,
  durableSequence: 6,
};

function emptyLog(): RecoveredLog {
  return {
    slot,
    ring,
    hostWrites: new PatchMap(),
    records: [],
    openIntents: [],
    claimedSequence: 6,
    guestBytes: 0,
    payloadBytes: 0,
  };
}

function record(sequence: number) {
  return { sequence, salt: 2n, crc: sequence };
}

describe('the space of a log', () => {
  it('[JRN-WB-005] always keeps one block free', () => {
    const space = new LogSpace(ring, emptyLog());
    expect(space.roomBytes).toBe(9 * 512);
    expect(() => space.reserve(9 * 512 + 1)).toThrow(expect.objectContaining({ code: 'INVARIANT' }));
    space.reserve(9 * 512);
    space.append(record(7), 9 * 512);
    expect(space.roomBytes).toBe(0);
    expect(() => space.reserve(512)).toThrow(expect.objectContaining({ code: 'INVARIANT' }));
  });

  it('[JRN-RECOV-018] is wanting by the fault of the log as long as records live that recovery found', () => {
    const found = { ...emptyLog(), records: [{ ...record(7), endLog: 512 + 8 * 512 }] };
    const space = new LogSpace(ring, found);
    expect(space.roomBytes).toBe(512);
    expect(() => space.reserve(1024)).toThrow(
      expect.objectContaining({
        code: 'JOURNAL_DAMAGED',
        context: { hostOffset: 8192 + 512, clause: 'JRN-RECOV-018' },
      }),
    );
    space.append(record(8), 512);
    space.passThrough(7);
    expect(() => space.reserve(512)).toThrow(expect.objectContaining({ code: 'INVARIANT' }));
  });

  it('[JRN-WB-004] is free only when the slot that moved the tail is durable', () => {
    const space = new LogSpace(ring, emptyLog());
    space.append(record(7), 1024);
    space.append(record(8), 512);
    expect(space.roomBytes).toBe(6 * 512);
    space.passThrough(7);
    expect([space.usedBytes, space.roomBytes, space.slotDue]).toEqual([512, 6 * 512, true]);
    const next = space.nextSlot(8, 3);
    expect(next).toMatchObject({
      generation: 5,
      tailPosition: 512 + 1024,
      tailSequence: 8,
      tailChain: 7,
      durableSequence: 8,
    });
    expect([space.slotDue, space.slotUnderWay, space.roomBytes]).toEqual([false, true, 6 * 512]);
    space.flushed(2);
    expect([space.slotUnderWay, space.roomBytes]).toEqual([true, 6 * 512]);
    space.flushed(3);
    expect([space.slotUnderWay, space.roomBytes]).toEqual([false, 8 * 512]);
  });

  it('[JRN-SLOT-017] refuses a slot while the one before it is under way', () => {
    const space = new LogSpace(ring, emptyLog());
    space.append(record(7), 512);
    space.passThrough(7);
    space.nextSlot(7, 1);
    expect(() => space.nextSlot(7, 2)).toThrow(expect.objectContaining({ code: 'INVARIANT' }));
    space.flushed(1);
    expect(space.nextSlot(7, 2).generation).toBe(6);
  });

  it('wraps: the tail of a slot is a place in the ring', () => {
    const space = new LogSpace(ring, emptyLog());
    let flush = 0;
    for (let sequence = 7; sequence < 60; sequence++) {
      const before = space.headLog;
      space.reserve(3 * 512);
      space.append(record(sequence), 3 * 512);
      space.passThrough(sequence);
      const next = space.nextSlot(sequence, ++flush);
      expect(next.tailPosition).toBe((before + 3 * 512) % ring.lengthBytes);
      expect(next.tailSequence).toBe(sequence + 1);
      space.flushed(flush);
      expect([space.usedBytes, space.isEmpty]).toEqual([0, true]);
    }
  });

  it('goes on from a log that was recovered', () => {
    const records = [
      { ...record(7), endLog: 1024 },
      { ...record(8), endLog: 2048 },
    ];
    const space = new LogSpace(ring, { ...emptyLog(), records });
    expect([space.last.sequence, space.usedBytes, space.roomBytes]).toEqual([8, 1536, 6 * 512]);
    expect(space.tailSequence).toBe(7);
  });
});

describe('how far records reach behind what a slot calls durable', () => {
  it('[JRN-SLOT-018] is half the ring, and a slot is due when half of that is used', () => {
    const space = new LogSpace(ring, emptyLog());
    space.append(record(7), 1024);
    expect([space.slotDue, space.isInReach]).toEqual([false, true]);
    space.append(record(8), 512);
    expect([space.slotDue, space.isInReach]).toEqual([true, true]);
    space.append(record(9), 1024);
    expect(space.isInReach).toBe(false);
    expect(space.nextSlot(7, 3)).toMatchObject({ tailSequence: 7, durableSequence: 7 });
    // Written is not durable: the older slot may be the one that a crash leaves.
    expect([space.slotDue, space.isInReach]).toEqual([true, false]);
    space.flushed(3);
    expect(space.isInReach).toBe(true);
  });

  it('[JRN-SLOT-018] is 4 MiB in a large ring, and goes on from what recovery found', () => {
    const large = { ...ring, lengthBytes: 256 << 20 };
    const log = { ...emptyLog(), ring: large, slot: { ...slot, durableSequence: 7 } };
    const records = [7, 8].map((sequence, index) => ({
      ...record(sequence),
      endLog: 512 + (index + 1) * 4096,
    }));
    const space = new LogSpace(large, { ...log, records });
    space.append(record(9), (4 << 20) - 4096 - 512);
    expect(space.isInReach).toBe(true);
    space.append(record(10), 512);
    expect(space.isInReach).toBe(false);
  });
});
