/**
 * Entries and refcounts that lead where they must not: found by the fuzzer, each once able to write over the header, far
 * behind the file, or for ever. Refused by name now, and nothing is written there.
 */
import { MemoryDevice } from '@qcow2/block-device';
import { decodeHeader, findHeaderExtension, type Qcow2Header } from '@qcow2/codec';
import {
  decodeJournalExtension,
  decodeSlot,
  encodeRecord,
  journalGeometry,
  peekRecordHeader,
} from '@qcow2/codec/journal/v1';
import { guestOffset, headerExtensionTypes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';

const clusterBytes = 4096;

async function image(): Promise<{ memory: MemoryDevice; header: Qcow2Header }> {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes: 1 << 20, clusterBytes });
  const opened = await openImage(memory);
  await opened.write(0, new Uint8Array(clusterBytes).fill(1));
  await opened.flush();
  opened.abandon();
  return { memory, header: decodeHeader(memory.snapshot().subarray(0, clusterBytes)) };
}

function putEntry(memory: MemoryDevice, at: number, value: bigint): void {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  memory.write(at, bytes);
}

function entryAt(memory: MemoryDevice, at: number): bigint {
  const bytes = new Uint8Array(8);
  memory.read(at, bytes);
  return new DataView(bytes.buffer).getBigUint64(0);
}

const copied = 1n << 63n;

describe('an entry that leads beyond the file', () => {
  it('[LIM-018] is refused: an L2 table, for reading and for writing', async () => {
    const { memory, header } = await image();
    putEntry(memory, header.l1Offset, copied | (1n << 40n));
    const opened = await openImage(memory);
    const refusal = { code: 'TRUNCATED', context: { clause: 'LIM-018', hostOffset: 2 ** 40 } };
    await expect((async () => opened.read(0, new Uint8Array(512)))()).rejects.toMatchObject(refusal);
    await expect((async () => opened.write(0, new Uint8Array(512)))()).rejects.toMatchObject(refusal);
    await opened.close();
    expect(memory.sizeBytes).toBeLessThan(2 ** 20);
  });

  it('[LIM-018] is refused: a guest cluster that is written', async () => {
    const { memory, header } = await image();
    const l2 = Number(entryAt(memory, header.l1Offset) & ~copied);
    putEntry(memory, l2, copied | (1n << 40n));
    const opened = await openImage(memory);
    await expect((async () => opened.write(0, new Uint8Array(512)))()).rejects.toMatchObject({
      code: 'TRUNCATED',
      context: { clause: 'LIM-018' },
    });
    opened.abandon();
    expect(memory.sizeBytes).toBeLessThan(2 ** 20);
  });

  it('[LIM-018] is refused: a refcount block', async () => {
    const { memory, header } = await image();
    putEntry(memory, header.refcountTableOffset, 1n << 40n);
    const opened = await openImage(memory);
    await expect((async () => opened.write(65536, new Uint8Array(512)))()).rejects.toMatchObject({
      code: 'TRUNCATED',
      context: { clause: 'LIM-018' },
    });
    opened.abandon();
    expect((await checkImage(memory)).findings.some(({ code }) => code === 'OUT_OF_RANGE')).toBe(true);
  });
});

describe('an entry that leads to other metadata', () => {
  it.each([
    ['the first cluster', () => 0],
    ['the L1 table', (header: Qcow2Header) => header.l1Offset],
    ['the refcount table', (header: Qcow2Header) => header.refcountTableOffset],
  ])('[LIM-019] is refused: %s as an L2 table', async (_name, place) => {
    const { memory, header } = await image();
    const at = place(header);
    if (at === 0) return expectL2AtHeader(memory, header);
    putEntry(memory, header.l1Offset, copied | BigInt(at));
    const opened = await openImage(memory);
    await expect((async () => opened.write(0, new Uint8Array(512)))()).rejects.toMatchObject({
      code: 'OVERLAP',
      context: { clause: 'LIM-019', hostOffset: at },
    });
    opened.abandon();
  });

  /** Offset 0 in an entry says "none": the flag without it is refused as such. */
  async function expectL2AtHeader(memory: MemoryDevice, header: Qcow2Header): Promise<void> {
    const before = memory.snapshot().subarray(0, clusterBytes);
    putEntry(memory, header.l1Offset, copied);
    const opened = await openImage(memory);
    await expect((async () => opened.write(0, new Uint8Array(512)))()).rejects.toMatchObject({
      context: { clause: 'L1E-004' },
    });
    opened.abandon();
    expect(memory.snapshot().subarray(0, clusterBytes)).toEqual(before);
  }
});

describe('refcounts that give away what is in use', () => {
  it('[LIM-020] are refused where the refcount block of the header is gone', async () => {
    const { memory, header } = await image();
    const before = memory.snapshot().subarray(0, clusterBytes);
    putEntry(memory, header.refcountTableOffset, 0n);
    const opened = await openImage(memory);
    await expect((async () => opened.write(65536, new Uint8Array(512)))()).rejects.toMatchObject({
      code: 'REFCOUNT_WRONG',
      context: { clause: 'LIM-020', hostOffset: 0 },
    });
    opened.abandon();
    expect(memory.snapshot().subarray(0, clusterBytes)).toEqual(before);
  });

  it('[LIM-020] are refused where the L1 table counts as free', async () => {
    const { memory, header } = await image();
    const block = Number(entryAt(memory, header.refcountTableOffset));
    memory.write(block + (header.l1Offset / clusterBytes) * 2, new Uint8Array(2));
    const opened = await openImage(memory);
    await expect((async () => opened.write(65536, new Uint8Array(512)))()).rejects.toMatchObject({
      code: 'REFCOUNT_WRONG',
      context: { clause: 'LIM-020', hostOffset: header.l1Offset },
    });
    opened.abandon();
  });

  it('[RCT-005] a cluster in use beyond all refcount blocks is refused before its mapping changes', async () => {
    const { memory, header } = await image();
    const l2 = Number(entryAt(memory, header.l1Offset) & ~copied);
    putEntry(memory, l2, copied | BigInt(512 * 2048 * clusterBytes));
    const opened = await openImage(memory);
    await expect((async () => opened.discard(0, clusterBytes))()).rejects.toMatchObject({
      code: 'REFCOUNT_WRONG',
      context: { clause: 'RCT-005' },
    });
    opened.abandon();
    expect(entryAt(memory, l2)).toBe(copied | BigInt(512 * 2048 * clusterBytes));
  });
});

describe('a log that holds more than the disk', () => {
  it('[JRN-DESC-030] a guest write beyond its end is refused, for reading and for writing', async () => {
    const memory = new MemoryDevice();
    await createImage(memory, {
      sizeBytes: 1 << 18,
      clusterBytes,
      journal: { sizeBytes: 65536, blockBytes: 512 },
    });
    const opened = await openImage(memory);
    await opened.write(0, new Uint8Array(512).fill(1));
    await opened.flush();
    opened.abandon();
    appendGuestWrite(memory, 1 << 18);
    const before = memory.snapshot();
    for (const readOnly of [true, false]) {
      await expect(openImage(memory, { readOnly })).rejects.toMatchObject({
        code: 'BAD_FIELD',
        context: { clause: 'JRN-DESC-030', guestOffset: 1 << 18 },
      });
    }
    expect(memory.snapshot()).toEqual(before);
  });

  /** One more record behind the one there is, sound in itself. */
  function appendGuestWrite(memory: MemoryDevice, at: number): void {
    const bytes = memory.snapshot();
    const { extensions } = decodeHeader(bytes.subarray(0, clusterBytes));
    const data = findHeaderExtension(extensions, headerExtensionTypes.journal)!;
    const area = decodeJournalExtension(data, { hostOffset: 0, clusterBytes }).journals[0]!;
    const slot = decodeSlot(bytes.subarray(area.hostOffset, area.hostOffset + 512), area);
    const ringAt = area.hostOffset + journalGeometry(area.lengthBytes, 512).ringStart;
    const last = peekRecordHeader(bytes, ringAt)!;
    const record = encodeRecord({
      sequence: last.sequence + 1,
      journalId: slot.journalId,
      salt: last.salt,
      position: last.lengthBlocks * 512,
      chain: last.crc,
      durableThrough: last.sequence,
      life: false,
      blockBytes: 512,
      descriptors: [
        { type: 'guest-write', guestOffset: guestOffset(at), lengthBytes: 512, payloadOffset: 0 },
      ],
      payload: [new Uint8Array(512).fill(2)],
    });
    memory.write(ringAt + last.lengthBlocks * 512, record.bytes);
  }
});
