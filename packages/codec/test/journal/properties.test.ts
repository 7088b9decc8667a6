/** What holds for every value and every byte string. fast-check prints the seed of a failure. */
import { FormatError, UnsupportedFeatureError } from '@qcow2/spec';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  decodeDraftHeader,
  decodeDraftTransaction,
  draftChecksum,
  encodeDraftTransaction,
} from '../../src/journal/draft-2013.ts';
import {
  crc32c,
  decodeDescriptors,
  decodeJournalExtension,
  decodeRecord,
  decodeSlot,
  encodeRecord,
  encodeSlot,
  journalGeometry,
  peekRecordHeader,
  type RecordContent,
  verifyRecord,
} from '../../src/journal/v1.ts';
import { draftTransaction, recordContent, slot } from './arbitraries.ts';

const draftPlace = { hostOffset: 0x60200, blockIndex: 1, blockBytes: 512, ringBlocks: 9 };

function contextOf(content: RecordContent) {
  return { hostOffset: 0x50000, blockBytes: content.blockBytes, maxBlocks: 64 };
}

/** Only the errors of a decoder come out, and it comes back. */
function refusedOrDecoded(decode: () => unknown): void {
  try {
    decode();
  } catch (error) {
    if (!(error instanceof FormatError || error instanceof UnsupportedFeatureError)) throw error;
  }
}

describe('round trips', () => {
  it('[JRN-REC-001] every record is read as it was written', () => {
    fc.assert(
      fc.property(recordContent, (content) => {
        const { bytes, crc } = encodeRecord(content);
        const record = decodeRecord(bytes, contextOf(content));
        const { blockBytes: _, payload, ...fields } = content;
        expect(record).toMatchObject({ ...fields, crc, lengthBlocks: bytes.length / content.blockBytes });
        expect([...record.payload]).toEqual(payload.flatMap((piece) => [...piece]));
        expect(record.payloadOffset % 8).toBe(0);
      }),
    );
  });

  it('[JRN-SLOT-001] every slot is read as it was written, and nowhere else', () => {
    fc.assert(
      fc.property(slot, (value) => {
        const bytes = encodeSlot(value);
        const { slotStrideBytes } = journalGeometry(value.areaLengthBytes, 2 ** value.blockSizeOrder);
        const places = [value.areaHostOffset, value.areaHostOffset + slotStrideBytes];
        const index = value.generation % 2;
        expect(decodeSlot(bytes, { hostOffset: places[index] as number })).toEqual(value);
        expect(() => decodeSlot(bytes, { hostOffset: places[1 - index] as number })).toThrow(FormatError);
      }),
    );
  });

  it('[JD13-DESC-004, JD13-DESC-006, JD13-DESC-007] every transaction of the draft is read as it was written', () => {
    fc.assert(
      fc.property(draftTransaction, (transaction) => {
        const bytes = encodeDraftTransaction(transaction, draftPlace);
        expect(decodeDraftTransaction(bytes, draftPlace)).toEqual(transaction);
      }),
    );
  });
});

describe('damage', () => {
  it('[JRN-REC-003] a record with a burst of up to 32 wrong bits is no record', () => {
    fc.assert(
      fc.property(
        recordContent,
        fc.nat(),
        fc.integer({ min: 1, max: 0xffffffff }),
        (content, at, pattern) => {
          const { bytes } = encodeRecord(content);
          const from = at % (bytes.length - 3);
          for (let i = 0; i < 4; i++) {
            bytes[from + i] = (bytes[from + i] as number) ^ ((pattern >>> (8 * i)) & 255);
          }
          expect(verifyRecord(bytes, contextOf(content))).toBeUndefined();
          expect(() => decodeRecord(bytes, contextOf(content))).toThrow(FormatError);
        },
      ),
    );
  });

  it('[JRN-REC-003] a record torn at 512-byte sectors, old bytes showing through, is no record', () => {
    fc.assert(
      fc.property(
        recordContent,
        recordContent,
        fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
        (a, b, kept) => {
          const before = encodeRecord({ ...b, blockBytes: 512 }).bytes;
          const { bytes } = encodeRecord({ ...a, blockBytes: 512 });
          const torn = bytes.slice();
          let changed = false;
          for (let sector = 0; sector * 512 < torn.length; sector++) {
            if ((kept >> BigInt(sector % 64)) & 1n) continue;
            const old = new Uint8Array(512);
            old.set(before.subarray(sector * 512, sector * 512 + 512));
            changed ||= old.some((byte, i) => byte !== torn[sector * 512 + i]);
            torn.set(old, sector * 512);
          }
          const header = verifyRecord(torn, { blockBytes: 512, maxBlocks: 64 });
          if (!changed) expect(header).toBeDefined();
          else expect(header?.crc).not.toBe(peekRecordHeader(bytes)?.crc);
        },
      ),
    );
  });

  it('[JRN-REC-020] a record cut short anywhere is refused', () => {
    fc.assert(
      fc.property(recordContent, fc.nat(), (content, at) => {
        const { bytes } = encodeRecord(content);
        const short = bytes.subarray(0, at % bytes.length);
        expect(verifyRecord(short, contextOf(content))).toBeUndefined();
        expect(() => decodeRecord(short, contextOf(content))).toThrow(FormatError);
      }),
    );
  });
});

describe('malice', () => {
  const garbage = fc.uint8Array({ maxLength: 2048 });
  const mutations = fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { minLength: 1, maxLength: 8 });

  it('[JRN-REC-020] random bytes are refused by every decoder, with an error of theirs', () => {
    fc.assert(
      fc.property(garbage, (bytes) => {
        const limits = { hostOffset: 0, blockBytes: 512, maxBlocks: 16 };
        expect(verifyRecord(bytes, limits)).toBeUndefined();
        refusedOrDecoded(() => decodeRecord(bytes, limits));
        refusedOrDecoded(() => decodeSlot(bytes, { hostOffset: 0 }));
        refusedOrDecoded(() => decodeJournalExtension(bytes, { hostOffset: 0, clusterBytes: 65536 }));
        refusedOrDecoded(() =>
          decodeDescriptors(bytes, { hostOffset: 0, payloadLengthBytes: 100, sequence: 1 }),
        );
        refusedOrDecoded(() => decodeDraftHeader(bytes, { hostOffset: 0, clusterBytes: 65536 }));
        refusedOrDecoded(() => decodeDraftTransaction(bytes, draftPlace));
      }),
      { numRuns: 500 },
    );
  });

  it('[JRN-REC-020] records that were forged, with right checksums, are read or refused', () => {
    fc.assert(
      fc.property(recordContent, mutations, (content, changes) => {
        const { bytes } = encodeRecord(content);
        const headAndDescriptors = peekRecordHeader(bytes)?.payloadOffset ?? 0;
        for (const [at, value] of changes) bytes[at % headAndDescriptors] = value;
        bytes.fill(0, 4, 8);
        new DataView(bytes.buffer).setUint32(4, crc32c(bytes));
        refusedOrDecoded(() => {
          const record = decodeRecord(bytes, contextOf(content));
          for (const descriptor of record.descriptors) {
            if (descriptor.type !== 'guest-write' && descriptor.type !== 'write-payload') continue;
            const { payloadOffset, lengthBytes } = descriptor;
            expect(record.payload.subarray(payloadOffset, payloadOffset + lengthBytes)).toHaveLength(
              lengthBytes,
            );
          }
        });
      }),
      { numRuns: 1000 },
    );
  });

  it('[JRN-SLOT-016] slots that were forged, with right checksums, are read or refused', () => {
    fc.assert(
      fc.property(slot, mutations, (value, changes) => {
        const bytes = encodeSlot(value);
        for (const [at, byte] of changes) bytes[at % 88] = byte;
        new DataView(bytes.buffer).setUint32(508, crc32c(bytes.subarray(0, 508)));
        refusedOrDecoded(() => decodeSlot(bytes, { hostOffset: value.areaHostOffset }));
      }),
    );
  });

  it('[JD13-BLK-002] transactions that were forged, with right sums, are read or refused', () => {
    fc.assert(
      fc.property(draftTransaction, mutations, (transaction, changes) => {
        const bytes = encodeDraftTransaction(transaction, draftPlace);
        for (const [at, byte] of changes) bytes[at % 200] = byte;
        new DataView(bytes.buffer).setUint32(4, draftChecksum([bytes], 4));
        refusedOrDecoded(() => decodeDraftTransaction(bytes, draftPlace));
      }),
      { numRuns: 500 },
    );
  });
});
