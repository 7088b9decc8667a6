/** Hand-written bytes against decoders and encoders: each way, every field. */
import { FormatError, guestOffset, hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import {
  type DraftTransaction,
  decodeDraftHeader,
  decodeDraftTransaction,
  draftChunkBytes,
  draftReplayCount,
  encodeDraftHeader,
  encodeDraftTransaction,
} from '../../src/journal/draft-2013.ts';
import {
  decodeJournalExtension,
  decodeRecord,
  decodeSlot,
  encodeJournalExtension,
  encodeRecord,
  encodeSlot,
  type JournalDescriptor,
} from '../../src/journal/v1.ts';
import { hexVector } from './hex-vector.ts';

const journalId = 0x0123456789abcdefn;
const salt = 0x0f1e2d3c4b5a6978n;
const inRing = { hostOffset: 0x52000, blockBytes: 512, maxBlocks: 16 };
const bytesOf = (...values: number[]) => Uint8Array.from(values);
const filled = (lengthBytes: number, byte: number) => new Uint8Array(lengthBytes).fill(byte);

describe('v1 binding', () => {
  it('[JRN-BIND-001, JRN-BIND-004, JRN-BIND-005] reads and writes the extension', () => {
    const bytes = hexVector('v1-extension');
    const value = {
      version: 1,
      journals: [
        { kind: 'main' as const, flags: 0, hostOffset: hostOffset(0x50000), lengthBytes: 0x1000000 },
      ],
    };
    expect(decodeJournalExtension(bytes, { hostOffset: 0x200, clusterBytes: 0x10000 })).toEqual(value);
    expect(encodeJournalExtension(value)).toEqual(bytes);
  });
});

describe('v1 slots', () => {
  const slots = {
    'v1-slot-new': {
      generation: 0,
      blockSizeOrder: 12,
      journalId,
      areaHostOffset: hostOffset(0x50000),
      areaLengthBytes: 0x100000,
      tailPosition: 0,
      tailSequence: 1,
      tailSalt: 0xfedcba9876543210n,
      tailChain: 0,
      flags: 0,
      durableSequence: 0,
    },
    'v1-slot-moved': {
      generation: 7,
      blockSizeOrder: 13,
      journalId: 0xffffffffffffffffn,
      areaHostOffset: hostOffset(0x50000),
      areaLengthBytes: 0x100000,
      tailPosition: 0x6000,
      tailSequence: 0x100000002,
      tailSalt: 0x8000000000000001n,
      tailChain: 0xdeadbeef,
      flags: 0,
      durableSequence: 0x100000005,
    },
  };

  it.each([
    ['v1-slot-new', 0x50000],
    ['v1-slot-moved', 0x52000],
  ] as const)('[JRN-SLOT-001, JRN-SLOT-006, JRN-SLOT-011, JRN-SLOT-012] reads and writes %s', (name, at) => {
    const bytes = hexVector(name);
    expect(decodeSlot(bytes, { hostOffset: at })).toEqual(slots[name]);
    expect(encodeSlot(slots[name])).toEqual(bytes);
  });
});

describe('v1 records', () => {
  it('[JRN-REC-001, JRN-REC-009, JRN-REC-015] reads and writes the first record of a life', () => {
    const bytes = hexVector('v1-record-life');
    const fields = { sequence: 1, journalId, salt, position: 0, chain: 0, durableThrough: 0, life: true };
    const record = decodeRecord(bytes, inRing);
    expect(record).toMatchObject({ ...fields, lengthBlocks: 1, descriptors: [], payload: bytesOf() });
    expect(encodeRecord({ ...fields, blockBytes: 512, descriptors: [], payload: [] }).bytes).toEqual(bytes);
  });

  const settle: JournalDescriptor[] = [
    { type: 'revoke', hostOffset: hostOffset(0x70000), lengthBytes: 0x10000 },
    { type: 'inline-write', hostOffset: hostOffset(0x40020), bytes: bytesOf(0x80, 0, 0, 0, 0, 9, 0, 0) },
    { type: 'inline-write', hostOffset: hostOffset(0x20012), bytes: bytesOf(0, 1) },
    { type: 'guest-settled', guestOffset: guestOffset(0x40000), lengthBytes: 0x10000, throughSequence: 40 },
    { type: 'guest-write', guestOffset: guestOffset(0x100000200), lengthBytes: 512, payloadOffset: 0 },
  ];
  const rare: JournalDescriptor[] = [
    { type: 'write-payload', hostOffset: hostOffset(0xa0001), lengthBytes: 2, payloadOffset: 1 },
    {
      type: 'copy',
      targetHostOffset: hostOffset(0xb0000),
      sourceHostOffset: hostOffset(0xc0000),
      lengthBytes: 0x10000,
    },
    {
      type: 'fill-from-backing',
      targetHostOffset: hostOffset(0xd0000),
      guestOffset: guestOffset(0x200000000),
      lengthBytes: 512,
    },
    { type: 'intent', intentKind: 7, intentId: 11, body: bytesOf(0x73, 0x6e, 0x61, 0x70, 0x31) },
    { type: 'intent-done', intentId: 10 },
    { type: 'no-op', lengthBytes: 24 },
    { type: 'unknown', number: 0x8001, body: bytesOf(0xc0, 0xff, 0xee, 0xc0, 0xff, 0xee, 0x01) },
    { type: 'no-op', lengthBytes: 8 },
    { type: 'no-op', lengthBytes: 24 },
  ];

  it('[JRN-DESC-023, JRN-DESC-024, JRN-DESC-025, JRN-DESC-026] reads and writes a record that settles a cluster', () => {
    const bytes = hexVector('v1-record-settle');
    const fields = {
      sequence: 42,
      journalId,
      salt,
      position: 0xc00,
      chain: 0x12345678,
      durableThrough: 41,
      life: false,
    };
    const payload = filled(512, 0xa5);
    const record = decodeRecord(bytes, inRing);
    expect(record).toMatchObject({ ...fields, crc: 0xe34ccde4, lengthBlocks: 2, payloadOffset: 208 });
    expect(record.descriptors).toEqual(settle);
    expect(record.payload).toEqual(payload);
    const pieces = [payload.subarray(0, 100), payload.subarray(100)];
    const encoded = encodeRecord({ ...fields, blockBytes: 512, descriptors: settle, payload: pieces });
    expect(encoded).toEqual({ bytes, crc: 0xe34ccde4 });
  });

  it('[JRN-DESC-006, JRN-DESC-020, JRN-DESC-021, JRN-COPY-001, JRN-COPY-002, JRN-INTENT-001, JRN-INTENT-002] reads the rarer descriptors', () => {
    const record = decodeRecord(hexVector('v1-record-rare'), inRing);
    expect(record.descriptors).toEqual(rare);
    expect(record.payload).toEqual(bytesOf(1, 2, 3));
  });

  it('writes the rarer descriptors, the body of a no-op apart', () => {
    const bytes = hexVector('v1-record-rare');
    const fields = { sequence: 9, journalId, salt, position: 512, chain: 1, durableThrough: 0, life: false };
    const payload = [bytesOf(1, 2, 3)];
    const encoded = encodeRecord({ ...fields, blockBytes: 512, descriptors: rare, payload }).bytes;
    encoded.fill(0xff, 224, 240);
    encoded.set(bytes.subarray(4, 8), 4);
    expect(encoded).toEqual(bytes);
  });
});

describe('the draft of 2013', () => {
  const place = { blockIndex: 6, blockBytes: 512, ringBlocks: 7 };

  it('[JD13-HDR-001, JD13-HDR-006, JD13-HDR-007] reads and writes the journal header', () => {
    const bytes = hexVector('draft-header');
    const header = {
      journalLengthBytes: 4096,
      blockSizeOrder: 9,
      syncedIndex: 3,
      syncedSequence: 0xfffffffe,
      committedSequence: 1,
    };
    expect(decodeDraftHeader(bytes, { hostOffset: 0x50000, clusterBytes: 0x10000 })).toEqual(header);
    expect(encodeDraftHeader(header)).toEqual(bytes);
    expect(draftReplayCount(header)).toBe(3);
  });

  const transaction: DraftTransaction = {
    sequence: 0xffffffff,
    descriptors: [
      {
        type: 'write-data',
        chunks: [
          { lengthBytes: 528, hostOffset: hostOffset(0x30000), journalBlockIndex: 7 },
          { lengthBytes: 4, hostOffset: hostOffset(0x100000008), journalBlockIndex: 1 },
        ],
      },
      {
        type: 'copy-data',
        chunks: [
          {
            lengthBytes: 0x1000,
            targetHostOffset: hostOffset(0x50000),
            sourceHostOffset: hostOffset(0x4f000),
          },
        ],
      },
      {
        type: 'revoke',
        ranges: [
          { lengthBytes: 0x10000, hostOffset: hostOffset(0x60000) },
          { lengthBytes: 1, hostOffset: hostOffset(7) },
        ],
      },
      { type: 'no-op', body: bytesOf(1, 2, 3, 4, 5, 6, 7, 8) },
      { type: 'unknown', number: 4, body: bytesOf(0xaa, 0xbb, 0xcc, 0xdd) },
    ],
    data: bytesOf(...filled(512, 0x11), ...filled(16, 0x22), ...filled(496, 0x33)),
  };

  it('[JD13-RING-001, JD13-RING-002, JD13-BLK-003, JD13-BLK-004, JD13-DESC-003, JD13-DESC-004, JD13-DESC-007] reads a transaction that wraps', () => {
    const decoded = decodeDraftTransaction(hexVector('draft-transaction'), { hostOffset: 0x50c00, ...place });
    expect(decoded).toEqual(transaction);
    const write = decoded.descriptors[0];
    const chunks = write?.type === 'write-data' ? write.chunks : [];
    expect(chunks.map((chunk) => [...new Set(draftChunkBytes(decoded, chunk, place))])).toEqual([
      [0x11, 0x22],
      [0x22],
    ]);
  });

  it('writes the same transaction, without the header extension that it does not know', () => {
    const bytes = hexVector('draft-transaction');
    const encoded = encodeDraftTransaction(transaction, place);
    expect(encoded.subarray(24, 24 + 108)).toEqual(bytes.subarray(32, 32 + 108));
    expect(encoded.subarray(512)).toEqual(bytes.subarray(512));
    expect(encoded.subarray(8, 12)).toEqual(bytes.subarray(8, 12));
    expect(decodeDraftTransaction(encoded, { hostOffset: 0, ...place })).toEqual(transaction);
  });
});

describe('every vector', () => {
  const decoders = {
    'v1-slot-new': (bytes: Uint8Array) => decodeSlot(bytes, { hostOffset: 0x50000 }),
    'v1-slot-moved': (bytes: Uint8Array) => decodeSlot(bytes, { hostOffset: 0x52000 }),
    'v1-record-life': (bytes: Uint8Array) => decodeRecord(bytes, inRing),
    'v1-record-settle': (bytes: Uint8Array) => decodeRecord(bytes, inRing),
    'v1-record-rare': (bytes: Uint8Array) => decodeRecord(bytes, inRing),
    'draft-header': (bytes: Uint8Array) =>
      decodeDraftHeader(bytes, { hostOffset: 0x50000, clusterBytes: 0x10000 }),
    'draft-transaction': (bytes: Uint8Array) =>
      decodeDraftTransaction(bytes, { hostOffset: 0, blockIndex: 6, blockBytes: 512, ringBlocks: 7 }),
  };
  const cases = Object.entries(decoders);

  it.each(cases)(
    '[JRN-SLOT-016, JRN-REC-003, JD13-HDR-008, JD13-BLK-002] %s with any bit flipped is refused',
    (name, decode) => {
      const bytes = hexVector(name);
      for (let bit = 0; bit < bytes.length * 8; bit++) {
        const flipped = bytes.slice();
        flipped[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
        expect(() => decode(flipped), `bit ${bit}`).toThrow(FormatError);
      }
    },
  );

  it.each(cases)('[JRN-REC-020] %s cut short anywhere is refused', (name, decode) => {
    const bytes = hexVector(name);
    for (let length = 0; length < bytes.length; length++) {
      expect(() => decode(bytes.subarray(0, length)), `length ${length}`).toThrow(FormatError);
    }
  });
});
