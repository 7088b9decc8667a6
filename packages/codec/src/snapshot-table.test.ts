import { describe, expect, it } from 'vitest';
import { ascii, refusal, sampleSnapshot, viewOf } from '../test/support/samples.ts';
import { decodeSnapshot, decodeSnapshotTable, encodeSnapshotTable, type Snapshot } from './snapshot-table.ts';

const decodeOne = (bytes: Uint8Array) => decodeSnapshotTable(bytes, 1).snapshots[0];
/** A version 2 entry without extra data. */
const bare: Snapshot = {
  l1Offset: 0x40000,
  l1Entries: 2,
  id: '7',
  name: '',
  dateSeconds: 0,
  dateNanoseconds: 0,
  vmClockNanoseconds: 0n,
  vmStateLengthBytes: 5,
  vmStateInExtraData: false,
  unknownExtraData: new Uint8Array(),
};

describe('entries of the snapshot table', () => {
  it('[SNP-001, SNP-002, SNP-003, SNP-004, SNP-005, SNP-006, SNP-007, SNP-008, SNP-009, SNP-010] are head, extra data, id, name, padding', () => {
    const snapshot = sampleSnapshot({ id: '12', name: 'näme', vmStateLengthBytes: 77 });
    const bytes = encodeSnapshotTable([snapshot], 3);
    const view = viewOf(bytes);
    expect([0, 24].map((at) => view.getBigUint64(at))).toEqual([0x40000n, 2n ** 60n]);
    expect([8, 16, 20, 32, 36].map((at) => view.getUint32(at))).toEqual([
      2, 1_700_000_000, 999_999_999, 77, 24,
    ]);
    expect([12, 14].map((at) => view.getUint16(at))).toEqual([2, 5]);
    expect(bytes.subarray(64, 71)).toEqual(ascii('12näme'));
    expect(bytes).toHaveLength(72);
    expect(decodeSnapshotTable(bytes, 1)).toEqual({ snapshots: [snapshot], lengthBytes: 71 });
  });

  it('[SNP-011, SNP-012, SNP-013, SNP-014] have extra data at 40, 48 and 56', () => {
    const view = viewOf(encodeSnapshotTable([sampleSnapshot({ vmStateLengthBytes: 2 ** 33 })], 3));
    expect([40, 48, 56].map((at) => view.getBigUint64(at))).toEqual([2n ** 33n, 2n ** 30n, 2n ** 64n - 1n]);
  });

  it('[SNP-012] say the length of the VM state in 64 bits where they can', () => {
    const bytes = encodeSnapshotTable([sampleSnapshot({ vmStateLengthBytes: 2 ** 33 })], 3);
    expect(viewOf(bytes).getUint32(32)).toBe(0xffffffff);
    viewOf(bytes).setUint32(32, 1);
    expect(decodeOne(bytes)?.vmStateLengthBytes).toBe(2 ** 33);
    expect(refusal(() => encodeSnapshotTable([{ ...bare, vmStateLengthBytes: 2 ** 32 }], 2)).clause).toBe(
      'SNP-012',
    );
  });

  it('[SNP-009, SNP-011, SNP-016] of version 2 need no extra data', () => {
    const bytes = encodeSnapshotTable([bare], 2);
    expect(bytes).toHaveLength(48);
    expect(decodeOne(bytes)).toEqual(bare);
  });

  it.each([0, 4, 8, 12, 15, 16, 20, 23, 24, 32, 1024])(
    '[SNP-011, SNP-017] keep %i bytes of extra data as they are',
    (length) => {
      const bytes = new Uint8Array(40 + length + 8);
      bytes.set(encodeSnapshotTable([{ ...bare, vmStateLengthBytes: 0 }], 2).subarray(0, 40));
      viewOf(bytes).setUint32(36, length);
      for (let at = 0; at < length; at++) bytes[40 + at] = at % 8 < 2 ? 0 : at + 1;
      bytes[40 + length] = 0x37;
      const decoded = decodeOne(bytes);
      expect(decoded?.diskSizeBytes !== undefined).toBe(length >= 16);
      expect(decoded?.instructionCount !== undefined).toBe(length >= 24);
      expect(decoded?.unknownExtraData).toHaveLength(length < 24 ? length % 8 : length - 24);
      const again = encodeSnapshotTable(decoded === undefined ? [] : [decoded], 2);
      expect(again.subarray(40)).toEqual(bytes.subarray(40, again.length));
    },
  );

  it('[SNP-015, SNP-016] of version 3 are written with a disk size and read without', () => {
    expect(refusal(() => encodeSnapshotTable([bare], 3)).clause).toBe('SNP-015');
    expect(decodeOne(encodeSnapshotTable([bare], 2))?.diskSizeBytes).toBeUndefined();
  });

  it('[SNP-011] have no gaps in their extra data', () => {
    const { diskSizeBytes: _size, ...withoutSize } = sampleSnapshot();
    for (const gap of [withoutSize, sampleSnapshot({ vmStateInExtraData: false })]) {
      expect(refusal(() => encodeSnapshotTable([gap], 2)).clause).toBe('SNP-011');
    }
  });

  it('[SNP-001] begin at multiples of 8', () => {
    const snapshots = ['a', 'bb', 'ccccccccc'].map((name) => sampleSnapshot({ name }));
    const bytes = encodeSnapshotTable(snapshots, 3);
    expect(bytes.length % 8).toBe(0);
    expect(decodeSnapshotTable(bytes, 3).snapshots).toEqual(snapshots);
    expect(decodeSnapshot(bytes, 72).snapshot.name).toBe('bb');
  });
});

describe('snapshot tables are refused', () => {
  it('[SNP-018] where they end before their last entry does, but not for its padding', () => {
    const bytes = encodeSnapshotTable([sampleSnapshot({ name: 'abc' }), sampleSnapshot({ name: 'abc' })], 3);
    const { lengthBytes } = decodeSnapshotTable(bytes, 2);
    expect(decodeSnapshotTable(bytes.subarray(0, lengthBytes), 2).lengthBytes).toBe(lengthBytes);
    for (let length = 0; length < lengthBytes; length++) {
      expect(refusal(() => decodeSnapshotTable(bytes.subarray(0, length), 2)).code).toBe('TRUNCATED');
    }
  });

  it.each([
    ['SNP-002', 'BAD_ALIGNMENT', 7, 1, 0x70000],
    ['SNP-002', 'OFFSET_TOO_LARGE', 0, 1, 0x70000],
    ['LIM-003', 'LIMIT_EXCEEDED', 8, 1, 0x70008],
    ['LIM-008', 'LIMIT_EXCEEDED', 36, 1, 0x70024],
    ['SNP-013', 'OFFSET_TOO_LARGE', 48, 1, 0x70030],
  ])('[SNP-002, SNP-013, LIM-003, LIM-008] %s, %s', (clause, code, at, byte, hostOffset) => {
    const bytes = encodeSnapshotTable([sampleSnapshot()], 3);
    bytes[at] = byte;
    const options = { hostOffset: 0x70000, clusterBytes: 65536 };
    expect(refusal(() => decodeSnapshotTable(bytes, 1, options))).toMatchObject({ clause, code, hostOffset });
  });

  it('[LIM-006] with more than 65536 entries', () => {
    const error = { code: 'LIMIT_EXCEEDED', clause: 'LIM-006' };
    expect(refusal(() => decodeSnapshotTable(new Uint8Array(), 65537))).toMatchObject(error);
  });

  it('[LIM-007] above 64 MiB', () => {
    const long = sampleSnapshot({ id: 'i'.repeat(65535), name: 'n'.repeat(65535) });
    const entryBytes = encodeSnapshotTable([long], 3).length;
    const most = Math.floor((64 * 2 ** 20) / entryBytes);
    expect(encodeSnapshotTable(Array(most).fill(long), 3)).toHaveLength(most * entryBytes);
    const error = { code: 'LIMIT_EXCEEDED', clause: 'LIM-007' };
    expect(refusal(() => encodeSnapshotTable(Array(most + 1).fill(long), 3))).toMatchObject(error);
  });

  it('[SNP-004, SNP-005] with an id or a name of 64 KiB', () => {
    const tooLong = 'x'.repeat(65536);
    expect(refusal(() => encodeSnapshotTable([sampleSnapshot({ id: tooLong })], 3)).clause).toBe('SNP-004');
    expect(refusal(() => encodeSnapshotTable([sampleSnapshot({ name: tooLong })], 3)).clause).toBe('SNP-005');
  });
});
