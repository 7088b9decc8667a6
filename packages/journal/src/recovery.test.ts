/** What recovery believes, and what it refuses: logs made by hand, and each of their bits turned round. */
import { RecordingDevice, run } from '@qcow2/block-device';
import {
  crc32c,
  decodeDescriptors,
  descriptorSizeBytes,
  encodeDescriptor,
  encodeRecord,
  type JournalDescriptor,
} from '@qcow2/codec/journal/v1';
import { guestOffset, hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { area, LogBuilder, readSlot, ring, slotAt } from '../test/support/log-builder.ts';
import { searchReach } from './chain.ts';
import { type RecoveredLog, reassertLog, recoverLog } from './recovery.ts';

type Event = readonly ['write', number, number, number] | readonly ['settled', number, number, number];

interface Recovered {
  readonly log: RecoveredLog;
  readonly events: Event[];
}

async function recover(
  builder: LogBuilder,
  device: RecordingDevice | undefined = undefined,
  intentKinds: readonly number[] = [],
): Promise<Recovered> {
  const events: Event[] = [];
  const sink = {
    intentKinds: new Set(intentKinds),
    guestWrite: (at: number, bytes: Uint8Array, sequence: number) => {
      events.push(['write', at, bytes[0]!, sequence]);
    },
    guestSettled: (at: number, length: number, through: number) => {
      events.push(['settled', at, length, through]);
    },
  };
  return { log: await run(recoverLog(device ?? builder.device, area, sink)), events };
}

function inline(at: number, value: number, length = 8): JournalDescriptor {
  return { type: 'inline-write', hostOffset: hostOffset(at), bytes: new Uint8Array(length).fill(value) };
}

function intent(intentId: number, intentKind: number, value = 0, length = 8): JournalDescriptor {
  return { type: 'intent', intentId, intentKind, body: new Uint8Array(length).fill(value) };
}

function encoded(descriptor: JournalDescriptor): Uint8Array {
  const bytes = new Uint8Array(descriptorSizeBytes(descriptor));
  encodeDescriptor(descriptor, new DataView(bytes.buffer), 0);
  return bytes;
}

function guestWrite(at: number): JournalDescriptor {
  return { type: 'guest-write', guestOffset: guestOffset(at), lengthBytes: 512, payloadOffset: 0 };
}

function bytesAt(log: RecoveredLog, at: number, length = 8): number[] {
  const into = new Uint8Array(length);
  log.hostWrites.apply(at, into);
  return [...into];
}

/** Five records, each durable before the next was made. */
async function fiveRecords(tailPosition = 0): Promise<LogBuilder> {
  const builder = await LogBuilder.make(tailPosition);
  for (let i = 1; i <= 5; i++) {
    builder.append([inline(1024 * i, i), guestWrite(4096 * i)], [new Uint8Array(512).fill(i)]);
  }
  return builder;
}

describe('the chain', () => {
  it('[JRN-RECOV-004] holds what follows the tail, up to where nothing follows', async () => {
    const { log, events } = await recover(await fiveRecords());
    expect(log.records.map(({ sequence }) => sequence)).toEqual([1, 2, 3, 4, 5]);
    expect(events.map(([, at, , sequence]) => [at, sequence])).toEqual(
      [1, 2, 3, 4, 5].map((i) => [4096 * i, i]),
    );
  });

  it('[JRN-RECOV-004] wraps with the ring, from any tail', async () => {
    for (let tail = 0; tail < ring.lengthBytes; tail += 512) {
      const { log } = await recover(await fiveRecords(tail));
      expect(log.records).toHaveLength(5);
      expect(bytesAt(log, 5 * 1024)[0]).toBe(5);
    }
  });

  it.each([
    ['another sequence', { sequence: 4 }],
    ['another place', { position: 1024 }],
    ['another journal', { journalId: 1n }],
    ['another chain', { chain: 77 }],
    ['another salt, in the same life', { salt: 99n }],
  ])('[JRN-RECOV-004, JRN-RECOV-008] ends before a record with %s', async (_, over) => {
    const builder = await LogBuilder.make();
    builder.append([inline(1024, 1)]);
    builder.append([inline(2048, 2)], [], { durableThrough: 0, ...over });
    const { log } = await recover(builder);
    expect(log.records.map(({ sequence }) => sequence)).toEqual([1]);
  });

  it('goes on with a record of a new life and a new salt', async () => {
    const builder = await LogBuilder.make();
    builder.append([inline(1024, 1)]);
    builder.append([inline(2048, 2)], [], { life: true, salt: 4711n });
    builder.append([inline(3072, 3)], [], { salt: 4711n });
    expect((await recover(builder)).log.records).toHaveLength(3);
  });

  it('[JRN-RECOV-008] ends at a torn record of which nothing knows that it was durable', async () => {
    const builder = await fiveRecords();
    const last = builder.placed.at(-1)!;
    builder.device.write(last.at + 512, new Uint8Array(512));
    const { log, events } = await recover(builder);
    expect(log.records).toHaveLength(4);
    expect(events).toHaveLength(4);
  });

  it('is not misled by what an earlier turn of the ring, or a life that was lost, has left behind', async () => {
    // Record 2 torn; 3 to 5 appended under the same flush, so that they claim record 1 only.
    const builder = await LogBuilder.make();
    builder.append([inline(1024, 1)]);
    for (let i = 2; i <= 5; i++) builder.append([inline(1024 * i, i)], [], { durableThrough: 1 });
    builder.flip(builder.placed[1]!.at + 100);
    expect((await recover(builder)).log.records).toHaveLength(1);
  });
});

describe('effects', () => {
  it('[JRN-RECOV-009] are gathered, later ones over earlier ones, and nothing is written', async () => {
    const builder = await LogBuilder.make();
    builder.append([inline(1024, 1, 16)]);
    builder.append([inline(1028, 2, 4), inline(2048, 3)]);
    builder.append([{ type: 'revoke', hostOffset: hostOffset(2048), lengthBytes: 4 }]);
    const device = new RecordingDevice(builder.device);
    const { log } = await recover(builder, device);
    expect(bytesAt(log, 1024, 16)).toEqual([1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
    expect(bytesAt(log, 2048)).toEqual([0, 0, 0, 0, 3, 3, 3, 3]);
    expect(device.log).toEqual([]);
  });

  it('hands guest writes and settled ranges on in the order of the log', async () => {
    const builder = await LogBuilder.make();
    builder.append([guestWrite(512)], [new Uint8Array(512).fill(7)]);
    builder.append([
      { type: 'guest-settled', guestOffset: guestOffset(0), lengthBytes: 1024, throughSequence: 1 },
    ]);
    const { events } = await recover(builder);
    expect(events).toEqual([
      ['write', 512, 7, 1],
      ['settled', 0, 1024, 1],
    ]);
  });

  it.each([
    [
      'a copy',
      {
        type: 'copy',
        targetHostOffset: hostOffset(1024),
        sourceHostOffset: hostOffset(4096),
        lengthBytes: 512,
      },
    ],
    [
      'a fill',
      {
        type: 'fill-from-backing',
        targetHostOffset: hostOffset(1024),
        guestOffset: guestOffset(0),
        lengthBytes: 512,
      },
    ],
    ['an intent', { type: 'intent', intentKind: 1, intentId: 1, body: new Uint8Array(8) }],
    ['a type that is not known', { type: 'unknown', number: 0x7fff, body: new Uint8Array(8) }],
  ] as const)('[JRN-DESC-002] of %s refuse the image', async (_, descriptor) => {
    const builder = await LogBuilder.make();
    builder.append([descriptor as JournalDescriptor]);
    await expect(recover(builder)).rejects.toMatchObject({ code: 'UNSUPPORTED_FEATURE' });
  });

  it('[JRN-INTENT-006] of an open intent whose kind the client does not serve refuse the image, by name', async () => {
    const builder = await LogBuilder.make();
    builder.append([intent(9, 1)]);
    const place = builder.append([intent(10, 2)]);
    await expect(recover(builder, undefined, [1])).rejects.toMatchObject({
      code: 'UNSUPPORTED_FEATURE',
      context: { feature: 'journal intent kind 2', hostOffset: place.at, clause: 'JRN-INTENT-006' },
    });
    expect((await recover(builder, undefined, [1, 2])).log.openIntents).toHaveLength(2);
    // What is over asks for nothing any more.
    builder.append([{ type: 'intent-done', intentId: 10 }]);
    expect((await recover(builder, undefined, [1])).log.openIntents).toHaveLength(1);
  });

  it('[JRN-INTENT-007] leave open what did not end, with the last that was said of it', async () => {
    const builder = await LogBuilder.make();
    // Its beginning is not in the log any more.
    builder.append([{ type: 'intent-done', intentId: 3 }]);
    builder.append([intent(4, 1, 1), intent(5, 1, 1), { type: 'intent-done', intentId: 4 }, intent(5, 1, 2)]);
    const last = builder.append([intent(6, 2, 9), intent(5, 1, 3)]);
    const { log } = await recover(builder, undefined, [1, 2]);
    const hostOffset = last.at;
    expect(log.openIntents).toEqual([
      { id: 5, kind: 1, body: new Uint8Array(8).fill(3), sequence: 3, hostOffset },
      { id: 6, kind: 2, body: new Uint8Array(8).fill(9), sequence: 3, hostOffset },
    ]);
  });

  it('[JRN-INTENT-008] open no more than four operations, and bodies have no more than 256 bytes', async () => {
    const builder = await LogBuilder.make();
    builder.append([1, 2, 3, 4, 5].map((id) => intent(id, 1)).concat([{ type: 'intent-done', intentId: 1 }]));
    expect((await recover(builder, undefined, [1])).log.openIntents).toHaveLength(4);
    builder.append([intent(6, 1)]);
    const refused = { code: 'BAD_FIELD', context: { clause: 'JRN-INTENT-008' } };
    await expect(recover(builder, undefined, [1])).rejects.toMatchObject(refused);
    const flood = await LogBuilder.make();
    flood.append(Array.from({ length: 200 }, (_, i) => intent(i + 1, 1)));
    await expect(recover(flood, undefined, [1])).rejects.toMatchObject(refused);
    expect(() => encoded(intent(1, 1, 0, 257))).toThrow(/256/);
    const bytes = encoded(intent(1, 1, 0, 256));
    const longer = new Uint8Array(bytes.length + 8);
    longer.set(bytes);
    new DataView(longer.buffer).setUint32(4, longer.length);
    const context = { hostOffset: 0, payloadLengthBytes: 0, sequence: 1 };
    expect(decodeDescriptors(bytes, context)).toHaveLength(1);
    expect(() => decodeDescriptors(longer, context)).toThrow(
      expect.objectContaining({ ...refused, context: expect.objectContaining(refused.context) }),
    );
  });

  it('[JRN-INTENT-009] do not repeat an intent as another kind', async () => {
    const builder = await LogBuilder.make();
    builder.append([intent(1, 1)]);
    builder.append([intent(1, 2)]);
    await expect(recover(builder, undefined, [1, 2])).rejects.toMatchObject({
      code: 'BAD_FIELD',
      context: { field: 'intentKind', clause: 'JRN-INTENT-009' },
    });
  });

  it('of a type that may be ignored, and of a no-op, are none', async () => {
    const builder = await LogBuilder.make();
    builder.append([
      { type: 'unknown', number: 0x8000, body: new Uint8Array(8) } as JournalDescriptor,
      { type: 'no-op', lengthBytes: 16 },
    ]);
    const { log } = await recover(builder);
    expect(log.records).toHaveLength(1);
    expect(log.hostWrites.isEmpty).toBe(true);
  });

  it('[JRN-DESC-013] never reach into the area', async () => {
    for (const at of [area.hostOffset - 4, area.hostOffset, area.hostOffset + area.lengthBytes - 4]) {
      const builder = await LogBuilder.make();
      builder.append([inline(at, 1)]);
      await expect(recover(builder)).rejects.toMatchObject({ context: { clause: 'JRN-DESC-013' } });
    }
    const beside = await LogBuilder.make();
    beside.append([inline(area.hostOffset - 8, 1)]);
    expect((await recover(beside)).log.records).toHaveLength(1);
  });

  it('[JRN-RECOV-005] of a record that follows and breaks a clause refuse the image with what was found', async () => {
    const builder = await LogBuilder.make();
    builder.append([inline(1024, 1)]);
    const { slot } = builder;
    const record = encodeRecord({
      sequence: 2,
      journalId: slot.journalId,
      salt: slot.tailSalt + 1n,
      position: 512,
      chain: chainOf(builder),
      durableThrough: 1,
      life: false,
      blockBytes: 512,
      descriptors: [inline(2048, 2)],
      payload: [],
    });
    // The padding count of its descriptor is out of range, and the checksum agrees.
    const view = new DataView(record.bytes.buffer);
    view.setUint16(82, 9);
    view.setUint32(4, 0);
    const crc = crc32c(record.bytes);
    view.setUint32(4, crc);
    builder.place(record.bytes, slot.tailSalt + 1n, crc);
    await expect(recover(builder)).rejects.toMatchObject({ name: 'FormatError' });
    await expect(recover(builder)).rejects.not.toMatchObject({ code: 'JOURNAL_DAMAGED' });
  });
});

function chainOf(builder: LogBuilder): number {
  const word = new Uint8Array(4);
  builder.device.read(builder.placed.at(-1)!.at + 4, word);
  return new DataView(word.buffer).getUint32(0);
}

describe('slots', () => {
  it('[JRN-RECOV-001] that are damaged refuse the image, whichever bit it is', async () => {
    const builder = await fiveRecords();
    for (const index of [0, 1]) {
      for (let at = 0; at < 512; at++) {
        builder.flip(slotAt(index) + at, at % 8);
        await expect(recover(builder), `byte ${at} of slot ${index}`).rejects.toMatchObject({
          code: 'JOURNAL_DAMAGED',
        });
        builder.flip(slotAt(index) + at, at % 8);
      }
    }
    expect((await recover(builder)).log.records).toHaveLength(5);
  });

  it('[JRN-RECOV-001] name the place', async () => {
    const builder = await fiveRecords();
    builder.flip(slotAt(1) + 60);
    await expect(recover(builder)).rejects.toMatchObject({ context: { hostOffset: slotAt(1) } });
  });

  it.each([
    ['journal id', { journalId: 5n }],
    ['block size', { blockSizeOrder: 10 }],
    ['generation by more than one', { generation: 3 }],
  ])('[JRN-RECOV-002] that differ in %s refuse the image', async (_, over) => {
    const builder = await LogBuilder.make();
    const slot = readSlot(builder.device, 1);
    builder.writeSlot(1, { ...slot, ...over });
    await expect(recover(builder)).rejects.toMatchObject({ code: 'JOURNAL_DAMAGED' });
  });

  it('[JRN-RECOV-003] rule by the higher generation', async () => {
    for (const [first, second, ruling] of [
      [0, 1, 1],
      [2, 1, 0],
    ] as const) {
      const builder = await fiveRecords();
      const base = readSlot(builder.device, 0);
      const tail = builder.placed[2]!;
      const moved = {
        tailPosition: tail.at - ring.hostOffset,
        tailSequence: 3,
        tailSalt: base.tailSalt + 1n,
        tailChain: chainBefore(builder, 2),
        durableSequence: 2,
      };
      builder.writeSlot(0, { ...base, generation: first, ...(ruling === 0 ? moved : {}) });
      builder.writeSlot(1, { ...base, generation: second, ...(ruling === 1 ? moved : {}) });
      const { log } = await recover(builder);
      expect(log.slot.generation).toBe(Math.max(first, second));
      expect(log.records.map(({ sequence }) => sequence)).toEqual([3, 4, 5]);
    }
  });
});

function chainBefore(builder: LogBuilder, index: number): number {
  const word = new Uint8Array(4);
  builder.device.read(builder.placed[index - 1]!.at + 4, word);
  return new DataView(word.buffer).getUint32(0);
}

describe('damage below what was durable', () => {
  it('[JRN-RECOV-006] is refused where the slot knows of the record, with its sequence and place', async () => {
    const builder = await fiveRecords();
    builder.writeSlots({ durableSequence: 5 });
    const last = builder.placed[4]!;
    builder.flip(last.at + 200);
    await expect(recover(builder)).rejects.toMatchObject({
      code: 'JOURNAL_DAMAGED',
      message: expect.stringContaining('5'),
      context: { hostOffset: last.at, clause: 'JRN-RECOV-006' },
    });
  });

  it('[JRN-RECOV-006] is refused where nothing is left of the log', async () => {
    const builder = await LogBuilder.make();
    builder.writeSlots({ durableSequence: 3 });
    await expect(recover(builder)).rejects.toMatchObject({ code: 'JOURNAL_DAMAGED' });
  });

  it('[JRN-RECOV-007] is refused where a later record knows, whichever bit of it is wrong', async () => {
    for (const tail of [0, ring.lengthBytes - 1536]) {
      const builder = await fiveRecords(tail);
      for (const { sequence, at, lengthBytes } of builder.placed.slice(0, -1)) {
        for (let byte = 0; byte < lengthBytes; byte += byte < 256 ? 1 : 13) {
          const inRing = (at - ring.hostOffset + byte) % ring.lengthBytes;
          builder.flip(ring.hostOffset + inRing, byte % 8);
          await expect(recover(builder), `byte ${byte} of record ${sequence}`).rejects.toMatchObject({
            code: 'JOURNAL_DAMAGED',
            message: expect.stringContaining(`record ${sequence} `),
            context: { hostOffset: at, clause: 'JRN-RECOV-007' },
          });
          builder.flip(ring.hostOffset + inRing, byte % 8);
        }
      }
      expect((await recover(builder)).log.records).toHaveLength(5);
    }
  });

  it('is the trace of a crash in the last record, whichever bit it is: all before it is kept', async () => {
    const builder = await fiveRecords();
    const { at, lengthBytes } = builder.placed[4]!;
    for (let byte = 0; byte < lengthBytes; byte += byte < 256 ? 1 : 13) {
      builder.flip(at + byte, byte % 8);
      const { log } = await recover(builder);
      expect(log.records.map(({ sequence }) => sequence)).toEqual([1, 2, 3, 4]);
      builder.flip(at + byte, byte % 8);
    }
  });

  it('is refused where the ring was overwritten with zeros in the middle of the log', async () => {
    const builder = await fiveRecords();
    builder.device.write(builder.placed[1]!.at, new Uint8Array(2048));
    await expect(recover(builder)).rejects.toMatchObject({ code: 'JOURNAL_DAMAGED' });
  });
});

describe('what was recovered is made durable', () => {
  it('[JRN-RECOV-010] byte for byte: the ruling slot, and the records above the highest claim', async () => {
    const builder = await LogBuilder.make(ring.lengthBytes - 1024);
    builder.append([inline(1024, 1)]);
    builder.append([inline(2048, 2)], [], { durableThrough: 1 });
    builder.append([inline(3072, 3, 1200)], [], { durableThrough: 1 });
    const before = builder.device.snapshot();
    const device = new RecordingDevice(builder.device);
    const { log } = await recover(builder);
    expect(log.claimedSequence).toBe(1);
    await run(reassertLog(device, area, log));
    expect(Buffer.compare(before, builder.device.snapshot())).toBe(0);
    const written = device.log.flatMap((each) => (each.kind === 'write' ? [each.offset] : []));
    const wrapped = ring.hostOffset;
    expect(written).toEqual(
      [slotAt(1), builder.placed[1]!.at, builder.placed[2]!.at, wrapped].slice(0, written.length),
    );
    expect(written.length).toBeGreaterThanOrEqual(3);
    expect(device.log.at(-1)?.kind).toBe('flush');
  });
});

describe('how far recovery looks for a witness', () => {
  it('[JRN-RECOV-007] half a ring behind what the slot calls durable, and no farther', () => {
    const reach = (lengthBytes: number, usedBytes: number, claimedBytes: number, lastBeginBytes: number) =>
      searchReach(
        { hostOffset: 0, blockBytes: 512, lengthBytes },
        { usedBytes, claimedBytes, lastBeginBytes },
      );
    const half = 1 << 19;
    expect(reach(1 << 30, 4096, 0, 2048)).toBe((4 << 20) - 4096);
    expect(reach(1 << 20, 4096, 4096, 2048)).toBe(half);
    // A record may end behind all that records may begin in: then nothing is searched.
    expect(reach(1 << 20, half + 512, 0, half - 512)).toBe(0);
    // A log whose records begin farther than a writer lets them was written by another one: all of it is searched.
    expect(reach(1 << 20, half + 512, 0, half)).toBe(half - 512);
  });
});
