import { FormatError, guestOffset, hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import type { JournalDescriptor } from './descriptors.ts';
import {
  type ChainEnd,
  chainEndOfRecord,
  decodeRecord,
  encodeRecord,
  follows,
  peekRecordHeader,
  type RecordContent,
  recordSizeBlocks,
  verifyRecord,
} from './record.ts';

const context = { hostOffset: 0x50000, blockBytes: 512, maxBlocks: 64 };
const bytesOf = (...values: number[]) => Uint8Array.from(values);

const everyKind: JournalDescriptor[] = [
  { type: 'revoke', hostOffset: hostOffset(0x70000), lengthBytes: 0x10000 },
  { type: 'inline-write', hostOffset: hostOffset(0x30008), bytes: bytesOf(0x80, 0, 0, 0, 0, 5, 0, 0) },
  { type: 'inline-write', hostOffset: hostOffset(0x20003), bytes: bytesOf(1, 2, 3) },
  { type: 'write-payload', hostOffset: hostOffset(0x90000), lengthBytes: 16, payloadOffset: 0 },
  {
    type: 'copy',
    targetHostOffset: hostOffset(0xa0000),
    sourceHostOffset: hostOffset(0xb0000),
    lengthBytes: 512,
  },
  {
    type: 'fill-from-backing',
    targetHostOffset: hostOffset(0xc0000),
    guestOffset: guestOffset(0x100000),
    lengthBytes: 4096,
  },
  { type: 'guest-settled', guestOffset: guestOffset(0x200000), lengthBytes: 0x10000, throughSequence: 6 },
  { type: 'guest-write', guestOffset: guestOffset(0x300200), lengthBytes: 512, payloadOffset: 16 },
  { type: 'intent', intentKind: 3, intentId: 9, body: bytesOf(9, 8, 7) },
  { type: 'intent-done', intentId: 8 },
  { type: 'no-op', lengthBytes: 24 },
  { type: 'unknown', number: 0x8001, body: bytesOf(1, 2, 3, 4, 5) },
];

const content: RecordContent = {
  sequence: 7,
  journalId: 0x0102030405060708n,
  salt: 0xfedcba9876543210n,
  position: 0x4000,
  chain: 0x1234abcd,
  durableThrough: 6,
  life: false,
  blockBytes: 512,
  descriptors: everyKind,
  payload: [new Uint8Array(16).fill(0xaa), new Uint8Array(512).fill(0xbb)],
};

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof FormatError) return error.code;
    throw error;
  }
  return 'no error';
}

describe('records', () => {
  it('[JRN-REC-001] gives back every kind of descriptor and the payload', () => {
    const { bytes, crc } = encodeRecord(content);
    const record = decodeRecord(bytes, context);
    expect(record.descriptors).toEqual(everyKind);
    expect(record.payload).toEqual(bytesOf(...new Array(16).fill(0xaa), ...new Array(512).fill(0xbb)));
    expect(record).toMatchObject({
      crc,
      sequence: 7,
      position: 0x4000,
      chain: 0x1234abcd,
      durableThrough: 6,
    });
    expect(record).toMatchObject({ journalId: content.journalId, salt: content.salt, life: false });
  });

  it('[JRN-REC-008] takes whole blocks and says how many', () => {
    const { bytes } = encodeRecord(content);
    const header = peekRecordHeader(bytes, 0);
    expect(header?.lengthBlocks).toBe(bytes.length / 512);
    const descriptorBytes = header?.descriptorsLengthBytes ?? 0;
    expect(recordSizeBlocks(descriptorBytes, 528, 512)).toBe(bytes.length / 512);
    expect(recordSizeBlocks(0, 512 - 80, 512)).toBe(1);
    expect(recordSizeBlocks(0, 512 - 79, 512)).toBe(2);
  });

  it('[JRN-REC-003] is refused after any single bit is flipped, padding included', () => {
    const { bytes } = encodeRecord(content);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const at = bit >> 3;
      const mask = 1 << (bit & 7);
      bytes[at] = (bytes[at] as number) ^ mask;
      expect(verifyRecord(bytes, context)).toBeUndefined();
      expect(['BAD_MAGIC', 'TRUNCATED', 'LIMIT_EXCEEDED', 'BAD_CHECKSUM']).toContain(
        codeOf(() => decodeRecord(bytes, context)),
      );
      bytes[at] = (bytes[at] as number) ^ mask;
    }
    expect(verifyRecord(bytes, context)?.sequence).toBe(7);
  });

  it('[JRN-REC-018] follows only in sequence, place, journal, chain and life', () => {
    const first = peekRecordHeader(encodeRecord(content).bytes, 0);
    if (first === undefined) return expect.unreachable('no header');
    const end: ChainEnd = {
      sequence: 6,
      journalId: content.journalId,
      salt: content.salt,
      crc: content.chain,
      endPosition: 0x4000,
    };
    expect(follows(end, first)).toBe(true);
    expect(follows({ ...end, sequence: 5 }, first)).toBe(false);
    expect(follows({ ...end, endPosition: 0x4200 }, first)).toBe(false);
    expect(follows({ ...end, journalId: 1n }, first)).toBe(false);
    expect(follows({ ...end, crc: 1 }, first)).toBe(false);
    expect(follows({ ...end, salt: 1n }, first)).toBe(false);
    expect(follows({ ...end, salt: 1n }, { ...first, life: true })).toBe(true);
    const ringBytes = 0x4000 + 512 * 3;
    const wrapped = { ...first, lengthBlocks: 4 };
    expect(chainEndOfRecord(wrapped, 512, ringBytes)).toMatchObject({ sequence: 7, endPosition: 512 });
  });
});
