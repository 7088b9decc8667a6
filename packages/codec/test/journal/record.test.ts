import { describe, expect, it } from 'vitest';
import { crc32c, decodeRecord, encodeRecord, peekRecordHeader, verifyRecord } from '../../src/journal/v1.ts';
import { hexVector } from './hex-vector.ts';
import { thrown } from './thrown.ts';

const context = { hostOffset: 0x52000, blockBytes: 512, maxBlocks: 16 };

/** The vector's bytes after `change`, their checksum made right again: written so, not damaged. */
function written(name: string, change: (view: DataView) => void): Uint8Array {
  const bytes = hexVector(name);
  const view = new DataView(bytes.buffer);
  change(view);
  view.setUint32(4, 0);
  view.setUint32(4, crc32c(bytes));
  return bytes;
}

const refusal = (change: (view: DataView) => void, name = 'v1-record-settle') =>
  thrown(() => decodeRecord(written(name, change), context));
const at32 = (at: number, value: number) => refusal((view) => view.setUint32(at, value));

describe('a record is refused', () => {
  it('[JRN-REC-002] without its magic', () => {
    expect(at32(0, 0x716a7232)).toEqual({ code: 'BAD_MAGIC', clause: 'JRN-REC-002' });
  });

  it('[JRN-REC-004] with sequence 0', () => {
    const zero = written('v1-record-settle', (view) => view.setBigUint64(8, 0n));
    expect(peekRecordHeader(zero)).toBeUndefined();
    expect(thrown(() => decodeRecord(zero, context))).toMatchObject({ code: 'BAD_MAGIC' });
  });

  it('[JRN-REC-008, JRN-REC-019] with a length that the ring or the bytes do not have', () => {
    expect(at32(40, 0)).toMatchObject({ code: 'BAD_MAGIC' });
    expect(at32(40, 3)).toEqual({ code: 'TRUNCATED', clause: 'JRN-REC-008' });
    expect(at32(40, 17)).toEqual({ code: 'LIMIT_EXCEEDED', clause: 'JRN-REC-019' });
    expect(at32(40, 0xffffffff)).toEqual({ code: 'LIMIT_EXCEEDED', clause: 'JRN-REC-019' });
  });

  it('[JRN-REC-010] that calls itself durable', () => {
    const itself = refusal((view) => view.setBigUint64(48, 42n));
    expect(itself).toEqual({ code: 'BAD_FIELD', clause: 'JRN-REC-010' });
  });

  it('[JRN-REC-011] with descriptors that leave it', () => {
    expect(at32(56, 0x84)).toMatchObject({ clause: 'JRN-REC-011' });
    expect(at32(56, 0x400)).toMatchObject({ clause: 'JRN-REC-011' });
    expect(at32(56, 0xfffffff8)).toMatchObject({ clause: 'JRN-REC-011' });
  });

  it('[JRN-REC-012] with payload that leaves it', () => {
    expect(at32(60, 1024 - 208 + 1)).toMatchObject({ clause: 'JRN-REC-012' });
    expect(at32(60, 0xffffffff)).toMatchObject({ clause: 'JRN-REC-012' });
  });

  it('[JRN-REC-013] with payload among its descriptors', () => {
    expect(at32(64, 200)).toMatchObject({ clause: 'JRN-REC-013' });
    expect(at32(64, 212)).toMatchObject({ clause: 'JRN-REC-013' });
    expect(at32(64, 0xfffffff8)).toMatchObject({ clause: 'JRN-REC-012' });
  });

  it('[JRN-REC-014] with descriptors in its header', () => {
    expect(refusal((view) => view.setUint16(68, 72))).toMatchObject({ clause: 'JRN-REC-014' });
    expect(refusal((view) => view.setUint16(68, 84))).toMatchObject({ clause: 'JRN-REC-014' });
  });

  it('[JRN-REC-015, JRN-REC-016] with flags or reserved bytes that nobody defined', () => {
    const flags = refusal((view) => view.setUint16(70, 2));
    expect(flags).toEqual({ code: 'RESERVED_SET', clause: 'JRN-REC-015' });
    const reserved = refusal((view) => view.setUint8(79, 1));
    expect(reserved).toEqual({ code: 'RESERVED_SET', clause: 'JRN-REC-016' });
  });

  it('[JRN-REC-020] with numbers beyond 2^53', () => {
    for (const at of [8, 32, 48]) {
      const huge = written('v1-record-settle', (view) => view.setBigUint64(at, 1n << 53n));
      expect(verifyRecord(huge, context)).toBeUndefined();
    }
  });
});

describe('a record', () => {
  it('[JRN-REC-014] may have a longer header', () => {
    // The revoke becomes the tail of the header: 24 bytes fewer of descriptors.
    const bytes = written('v1-record-settle', (view) => {
      view.setUint16(68, 80 + 24);
      view.setUint32(56, 0x80 - 24);
    });
    const types = decodeRecord(bytes, context).descriptors.map((descriptor) => descriptor.type);
    expect(types).toEqual(['inline-write', 'inline-write', 'guest-settled', 'guest-write']);
  });

  it('[JRN-REC-017] is read whatever stands in its padding', () => {
    const bytes = written('v1-record-settle', (view) => view.setUint8(1023, 7));
    expect(decodeRecord(bytes, context).sequence).toBe(42);
  });

  it('[JRN-REC-005, JRN-REC-006, JRN-REC-007] says which journal and life it is of, and where it stands', () => {
    const header = verifyRecord(hexVector('v1-record-settle'), context);
    expect(header).toMatchObject({
      journalId: 0x0123456789abcdefn,
      salt: 0x0f1e2d3c4b5a6978n,
      position: 0xc00,
    });
  });

  it('is verified without touching its bytes, wherever they lie in their buffer', () => {
    const vector = hexVector('v1-record-settle');
    const buffer = new Uint8Array(vector.length + 8);
    for (let from = 0; from < 8; from++) {
      buffer.set(vector, from);
      const piece = buffer.subarray(from, from + vector.length);
      expect(verifyRecord(piece, context)?.crc).toBe(0xe34ccde4);
      expect(piece).toEqual(vector);
    }
  });

  it('is not made longer than 16 MiB, nor with references behind its payload', () => {
    const content = {
      sequence: 1,
      journalId: 1n,
      salt: 1n,
      position: 0,
      chain: 0,
      durableThrough: 0,
      life: true,
      blockBytes: 4096,
      descriptors: [],
    };
    const long = [new Uint8Array(0x1000000)];
    expect(thrown(() => encodeRecord({ ...content, payload: long }))).toMatchObject({ code: 'INVARIANT' });
    const settle = decodeRecord(hexVector('v1-record-settle'), context);
    const descriptors = settle.descriptors;
    const short = [new Uint8Array(511)];
    expect(thrown(() => encodeRecord({ ...content, descriptors, payload: short }))).toMatchObject({
      code: 'INVARIANT',
    });
  });
});
