import { describe, expect, it } from 'vitest';
import { chainEndOfSlot, crc32c, decodeSlot, encodeSlot } from '../../src/journal/v1.ts';
import { hexVector } from './hex-vector.ts';
import { thrown } from './thrown.ts';

/** What refuses the vector's slot after `change`, its checksum made right again. */
function refusal(change: (view: DataView) => void, hostOffset = 0x50000, name = 'v1-slot-new') {
  const bytes = hexVector(name);
  const view = new DataView(bytes.buffer);
  change(view);
  view.setUint32(508, crc32c(bytes.subarray(0, 508)));
  return thrown(() => decodeSlot(bytes, { hostOffset }));
}

describe('a slot is refused', () => {
  it('[JRN-SLOT-002] without its magic', () => {
    expect(refusal((view) => view.setUint8(7, 0x32))).toEqual({ code: 'BAD_MAGIC', clause: 'JRN-SLOT-002' });
  });

  it('[JRN-SLOT-003] of another version, as not supported', () => {
    const expected = { code: 'UNSUPPORTED_FEATURE', clause: 'JRN-SLOT-003' };
    expect(refusal((view) => view.setUint32(8, 2))).toEqual(expected);
  });

  it('[JRN-SLOT-004] with blocks below 512 bytes or above 2 MiB', () => {
    expect(refusal((view) => view.setUint32(12, 8))).toMatchObject({ clause: 'JRN-SLOT-004' });
    expect(refusal((view) => view.setUint32(12, 22))).toMatchObject({ clause: 'JRN-SLOT-004' });
  });

  it('[JRN-SLOT-005, JRN-SLOT-007] where it does not say that it stands', () => {
    const expected = { code: 'BAD_FIELD', clause: 'JRN-SLOT-007' };
    expect(refusal(() => undefined, 0x51000)).toEqual(expected);
    expect(refusal((view) => view.setBigUint64(16, 1n))).toEqual(expected);
    expect(refusal((view) => view.setBigUint64(32, 0x60000n))).toEqual(expected);
    expect(refusal((view) => view.setBigUint64(16, 1n), 0x51000)).toBeUndefined();
    expect(refusal((view) => view.setBigUint64(16, 2n))).toBeUndefined();
  });

  it('[JRN-SLOT-008] with an area that does not hold slots and eight blocks', () => {
    const ofLength = (length: bigint) => refusal((view) => view.setBigUint64(40, length));
    expect(ofLength(0xffffn)).toMatchObject({ clause: 'JRN-SLOT-008' });
    expect(ofLength(0x40000001n)).toMatchObject({ clause: 'JRN-SLOT-008' });
    expect(refusal((view) => view.setUint32(12, 21))).toMatchObject({ clause: 'JRN-SLOT-008' });
  });

  it('[JRN-SLOT-009] with a tail inside a block or behind the ring', () => {
    const tailAt = (position: bigint) => refusal((view) => view.setBigUint64(48, position));
    expect(tailAt(512n)).toEqual({ code: 'BAD_ALIGNMENT', clause: 'JRN-SLOT-009' });
    expect(tailAt(0x100000n - 8192n)).toEqual({ code: 'BAD_FIELD', clause: 'JRN-SLOT-009' });
    expect(tailAt(0x100000n - 8192n - 4096n)).toBeUndefined();
  });

  it('[JRN-SLOT-010] with a tail sequence of 0', () => {
    expect(refusal((view) => view.setBigUint64(56, 0n))).toMatchObject({ clause: 'JRN-SLOT-010' });
  });

  it('[JRN-SLOT-013, JRN-SLOT-015] with flags or reserved bytes', () => {
    expect(refusal((view) => view.setUint32(76, 1))).toMatchObject({ clause: 'JRN-SLOT-013' });
    for (const at of [88, 300, 507]) {
      const expected = { code: 'RESERVED_SET', clause: 'JRN-SLOT-015' };
      expect(refusal((view) => view.setUint8(at, 1))).toEqual(expected);
    }
  });

  it('[JRN-SLOT-014] with a tail beyond what was durable', () => {
    const durable = (sequence: bigint) =>
      refusal((view) => view.setBigUint64(80, sequence), 0x52000, 'v1-slot-moved');
    expect(durable(0x100000000n)).toMatchObject({ clause: 'JRN-SLOT-014' });
    expect(durable(0x100000001n)).toBeUndefined();
  });

  it('[JRN-SLOT-016] with a wrong checksum', () => {
    const bytes = hexVector('v1-slot-new');
    bytes[508] = (bytes[508] as number) ^ 1;
    const expected = { code: 'BAD_CHECKSUM', clause: 'JRN-SLOT-016' };
    expect(thrown(() => decodeSlot(bytes, { hostOffset: 0x50000 }))).toEqual(expected);
  });
});

describe('a slot', () => {
  it('[JRN-SLOT-011, JRN-SLOT-012] gives the chain that the record at its tail continues', () => {
    const slot = decodeSlot(hexVector('v1-slot-moved'), { hostOffset: 0x52000 });
    expect(chainEndOfSlot(slot)).toEqual({
      sequence: 0x100000001,
      journalId: 0xffffffffffffffffn,
      salt: 0x8000000000000001n,
      crc: 0xdeadbeef,
      endPosition: 0x6000,
    });
  });

  it('is not made from values out of range', () => {
    const slot = decodeSlot(hexVector('v1-slot-new'), { hostOffset: 0x50000 });
    expect(thrown(() => encodeSlot({ ...slot, blockSizeOrder: 30 }))).toMatchObject({ code: 'BAD_FIELD' });
    expect(thrown(() => encodeSlot({ ...slot, tailSequence: -1 }))).toMatchObject({ code: 'BAD_FIELD' });
  });
});
