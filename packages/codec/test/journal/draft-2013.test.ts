import { hostOffset } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import {
  advanceDraftBlock,
  type DraftDescriptor,
  decodeDraftHeader,
  decodeDraftTransaction,
  draftChecksum,
  draftGeometry,
  draftReplayCount,
  encodeDraftHeader,
  encodeDraftTransaction,
  isDraftHeader,
  nextDraftSequence,
  peekDraftBlock,
} from '../../src/journal/draft-2013.ts';
import { hexVector } from './hex-vector.ts';
import { thrown } from './thrown.ts';

const place = { blockIndex: 6, blockBytes: 512, ringBlocks: 7 };

/** What refuses the vector after `change`, its checksum made right again. */
function headerRefusal(change: (view: DataView) => void) {
  const bytes = hexVector('draft-header');
  const view = new DataView(bytes.buffer);
  change(view);
  view.setUint32(28, draftChecksum([bytes], 28));
  return thrown(() => decodeDraftHeader(bytes, { hostOffset: 0x50000, clusterBytes: 512 }));
}

function refusal(change: (view: DataView) => void) {
  const bytes = hexVector('draft-transaction');
  const view = new DataView(bytes.buffer);
  change(view);
  view.setUint32(4, draftChecksum([bytes], 4));
  return thrown(() => decodeDraftTransaction(bytes, { hostOffset: 0x50c00, ...place }));
}

const field = (at: number, value: number) => refusal((view) => view.setUint32(at, value));

describe("the draft's journal header is refused", () => {
  it('[JD13-HDR-002] without its magic', () => {
    expect(headerRefusal((view) => view.setUint8(0, 0x51))).toEqual({
      code: 'BAD_MAGIC',
      clause: 'JD13-HDR-002',
    });
    expect(isDraftHeader(hexVector('draft-header'))).toBe(true);
    expect(isDraftHeader(hexVector('v1-slot-new'))).toBe(false);
    expect(isDraftHeader(new Uint8Array(3))).toBe(false);
  });

  it('[JD13-HDR-003] with no block behind it', () => {
    expect(headerRefusal((view) => view.setUint32(8, 1023))).toMatchObject({ clause: 'JD13-HDR-003' });
    expect(headerRefusal((view) => view.setUint32(8, 2047))).toMatchObject({ clause: 'JD13-HDR-005' });
    expect(headerRefusal((view) => view.setUint32(8, 2048))).toBeUndefined();
    const header = { blockSizeOrder: 9, syncedIndex: 0, syncedSequence: 0, committedSequence: 0 };
    expect(draftGeometry({ ...header, journalLengthBytes: 2047 }).ringBlocks).toBe(2);
    const large = { ...header, blockSizeOrder: 12, journalLengthBytes: 4096 };
    const refused = thrown(() =>
      decodeDraftHeader(encodeDraftHeader(large), { hostOffset: 0, clusterBytes: 0x10000 }),
    );
    expect(refused).toMatchObject({ clause: 'JD13-HDR-003' });
  });

  it('[JD13-HDR-004] with blocks below 512 bytes or above a cluster', () => {
    expect(headerRefusal((view) => view.setUint32(12, 8))).toMatchObject({ clause: 'JD13-HDR-004' });
    expect(headerRefusal((view) => view.setUint32(12, 10))).toMatchObject({ clause: 'JD13-HDR-004' });
    expect(headerRefusal((view) => view.setUint32(12, 60))).toMatchObject({ clause: 'JD13-HDR-004' });
  });

  it('[JD13-HDR-005] with a synced block that the ring does not have', () => {
    expect(headerRefusal((view) => view.setUint32(16, 8))).toMatchObject({ clause: 'JD13-HDR-005' });
    expect(headerRefusal((view) => view.setUint32(16, 7))).toBeUndefined();
    expect(headerRefusal((view) => view.setUint32(16, 0))).toBeUndefined();
  });

  it('[JD13-HDR-009] with reserved bytes', () => {
    expect(headerRefusal((view) => view.setUint8(32, 1))).toMatchObject({ clause: 'JD13-HDR-009' });
    expect(headerRefusal((view) => view.setUint8(511, 1))).toMatchObject({ clause: 'JD13-HDR-009' });
  });

  it('[JD13-HDR-008] where a block larger than 512 bytes is changed beyond them', () => {
    const header = {
      journalLengthBytes: 0x10000,
      blockSizeOrder: 12,
      syncedIndex: 0,
      syncedSequence: 0,
      committedSequence: 0,
    };
    const block = encodeDraftHeader(header);
    expect(block).toHaveLength(4096);
    block[4000] = 1;
    const context = { hostOffset: 0, clusterBytes: 0x10000 };
    expect(thrown(() => decodeDraftHeader(block, context))).toMatchObject({ clause: 'JD13-HDR-008' });
    expect(thrown(() => decodeDraftHeader(block.subarray(0, 512), context))).toMatchObject({
      code: 'TRUNCATED',
    });
    expect(thrown(() => encodeDraftHeader({ ...header, blockSizeOrder: 60 }))).toMatchObject({
      code: 'BAD_FIELD',
    });
  });
});

describe("the draft's arithmetic", () => {
  it('[JD13-RING-004, JD13-HDR-007] wraps sequences at 2^32', () => {
    expect(nextDraftSequence(0)).toBe(1);
    expect(nextDraftSequence(0xffffffff)).toBe(0);
    const header = { journalLengthBytes: 4096, blockSizeOrder: 9, syncedIndex: 0 };
    expect(draftReplayCount({ ...header, syncedSequence: 5, committedSequence: 5 })).toBe(0);
    expect(draftReplayCount({ ...header, syncedSequence: 5, committedSequence: 9 })).toBe(4);
    expect(draftReplayCount({ ...header, syncedSequence: 0xffffffff, committedSequence: 0 })).toBe(1);
  });

  it('[JD13-RING-001, JD13-RING-003] goes on at block 1 behind the last', () => {
    expect(advanceDraftBlock(1, 0, place)).toBe(1);
    expect(advanceDraftBlock(1, 6, place)).toBe(7);
    expect(advanceDraftBlock(6, 3, place)).toBe(2);
    expect(advanceDraftBlock(7, 1, place)).toBe(1);
  });

  it('sums bytes whatever their order, and complements', () => {
    expect(draftChecksum([Uint8Array.of(1, 2, 9, 9, 9, 9), Uint8Array.of(3)], 2)).toBe(0xfffffff9);
    expect(draftChecksum([Uint8Array.of(9, 9, 9, 9)], 0)).toBe(0xffffffff);
  });
});

describe("the draft's transaction is refused", () => {
  it('[JD13-BLK-001] without its magic', () => {
    expect(field(0, 0)).toEqual({ code: 'BAD_MAGIC', clause: 'JD13-BLK-001' });
    expect(peekDraftBlock(new Uint8Array(512))).toBeUndefined();
    expect(peekDraftBlock(new Uint8Array(8))).toBeUndefined();
    const expected = { sequence: 0xffffffff, dataBlockCount: 2 };
    expect(peekDraftBlock(hexVector('draft-transaction'))).toEqual(expected);
  });

  it('[JD13-BLK-004, JD13-BLK-005] with descriptors outside its block', () => {
    expect(field(12, 23)).toMatchObject({ clause: 'JD13-BLK-004' });
    expect(field(12, 405)).toMatchObject({ clause: 'JD13-BLK-005' });
    expect(field(16, 481)).toMatchObject({ clause: 'JD13-BLK-005' });
    expect(field(16, 0xffffffff)).toMatchObject({ clause: 'JD13-BLK-005' });
  });

  it('[JD13-BLK-006, JD13-RING-002] with more blocks than there are', () => {
    expect(field(20, 3)).toMatchObject({ code: 'TRUNCATED' });
    expect(field(20, 7)).toMatchObject({ clause: 'JD13-BLK-006' });
    expect(field(20, 0xffffffff)).toMatchObject({ clause: 'JD13-BLK-006' });
  });

  it('[JD13-DESC-001, JD13-DESC-002] with descriptors that do not fill their room', () => {
    const size = (value: number) => refusal((view) => view.setUint16(34, value));
    expect(size(3)).toMatchObject({ clause: 'JD13-DESC-001' });
    expect(size(0)).toMatchObject({ clause: 'JD13-DESC-001' });
    expect(size(200)).toMatchObject({ clause: 'JD13-DESC-002' });
    expect(field(16, 110)).toMatchObject({ clause: 'JD13-DESC-002' });
  });

  it('[JD13-DESC-004, JD13-DESC-006, JD13-DESC-007] with half a repetition', () => {
    expect(refusal((view) => view.setUint16(34, 40))).toMatchObject({ clause: 'JD13-DESC-004' });
    expect(refusal((view) => view.setUint16(70, 28))).toMatchObject({ clause: 'JD13-DESC-006' });
    expect(refusal((view) => view.setUint16(94, 20))).toMatchObject({ clause: 'JD13-DESC-007' });
  });

  it('[JD13-DESC-005] with data that is not its own', () => {
    expect(field(48, 5)).toMatchObject({ clause: 'JD13-DESC-005' });
    expect(field(48, 0)).toMatchObject({ clause: 'JD13-DESC-005' });
    expect(field(48, 8)).toMatchObject({ clause: 'JD13-DESC-005' });
    expect(field(36, 1025)).toMatchObject({ clause: 'JD13-DESC-005' });
    expect(field(36, 1024)).toBeUndefined();
    expect(field(48, 2)).toMatchObject({ clause: 'JD13-DESC-005' });
  });

  it('[JD13-DESC-006] with a copy onto its source', () => {
    const expected = { code: 'OVERLAP', clause: 'JD13-DESC-006' };
    expect(field(72, 0x1001)).toEqual(expected);
  });

  it('[JD13-DESC-009] with ranges beyond 2^53', () => {
    for (const at of [40, 76, 84, 100]) {
      expect(refusal((view) => view.setBigUint64(at, (1n << 53n) - 1n))).toMatchObject({
        code: 'OFFSET_TOO_LARGE',
      });
      expect(refusal((view) => view.setBigUint64(at, 1n << 63n))).toMatchObject({ code: 'OFFSET_TOO_LARGE' });
    }
  });
});

describe("the draft's transaction is not made", () => {
  const revoke: DraftDescriptor = {
    type: 'revoke',
    ranges: Array.from({ length: 41 }, () => ({ lengthBytes: 1, hostOffset: hostOffset(0) })),
  };
  const data = new Uint8Array(0);

  it('[JD13-BLK-005] where its descriptors do not fit one block', () => {
    const descriptors = [revoke];
    expect(thrown(() => encodeDraftTransaction({ sequence: 1, descriptors, data }, place))).toMatchObject({
      code: 'INVARIANT',
    });
    const fitting = [{ ...revoke, ranges: revoke.ranges.slice(0, 40) }];
    expect(encodeDraftTransaction({ sequence: 1, descriptors: fitting, data }, place)).toHaveLength(512);
  });

  it('[JD13-BLK-006] where its data is no whole number of blocks, or fills the ring', () => {
    for (const lengthBytes of [1, 511, 7 * 512]) {
      const content = { sequence: 1, descriptors: [], data: new Uint8Array(lengthBytes) };
      expect(thrown(() => encodeDraftTransaction(content, place))).toMatchObject({ code: 'INVARIANT' });
    }
  });

  it('[JD13-DESC-005] where a chunk lies outside its data', () => {
    const chunks = [{ lengthBytes: 1, hostOffset: hostOffset(0), journalBlockIndex: 7 }];
    const content = { sequence: 1, descriptors: [{ type: 'write-data' as const, chunks }], data };
    expect(thrown(() => encodeDraftTransaction(content, place))).toMatchObject({ clause: 'JD13-DESC-005' });
  });
});
