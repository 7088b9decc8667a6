import { describe, expect, it } from 'vitest';
import {
  decodeJournalExtension,
  isUsableGeometry,
  journalGeometry,
  maxRecordBlocks,
} from '../../src/journal/v1.ts';
import { hexVector } from './hex-vector.ts';
import { thrown } from './thrown.ts';

const context = { hostOffset: 0x200, clusterBytes: 0x10000 };

/** The vector's extension with `journals` times the same entry, changed by `change`. */
function extension(change: (view: DataView) => void = () => undefined, journals = 1): Uint8Array {
  const vector = hexVector('v1-extension');
  const bytes = new Uint8Array(8 + 24 * journals);
  bytes.set(vector.subarray(0, 8));
  for (let i = 0; i < journals; i++) bytes.set(vector.subarray(8), 8 + 24 * i);
  const view = new DataView(bytes.buffer);
  view.setUint32(4, journals);
  change(view);
  return bytes;
}

const refusal = (bytes: Uint8Array) => thrown(() => decodeJournalExtension(bytes, context));

describe('the extension', () => {
  it('[JRN-BIND-002] of another version is not supported', () => {
    expect(refusal(extension((view) => view.setUint32(0, 2)))).toEqual({
      code: 'UNSUPPORTED_FEATURE',
      clause: 'JRN-BIND-002',
    });
  });

  it('[JRN-BIND-003] names 1 to 8 journals', () => {
    expect(refusal(extension((view) => view.setUint32(4, 0)))).toMatchObject({ clause: 'JRN-BIND-003' });
    expect(refusal(extension(undefined, 9))).toMatchObject({ clause: 'JRN-BIND-003' });
    const eight = extension((view) => {
      for (let i = 0; i < 8; i++) {
        view.setUint32(8 + 24 * i, i === 3 ? 1 : 2);
        view.setBigUint64(16 + 24 * i, 0x1000000n * BigInt(i + 1));
      }
    }, 8);
    expect(decodeJournalExtension(eight, context).journals).toHaveLength(8);
  });

  it('[JRN-BIND-004] is as long as its entries', () => {
    expect(refusal(extension().subarray(0, 31))).toEqual({ code: 'TRUNCATED', clause: 'JRN-BIND-004' });
    const longer = new Uint8Array(40);
    longer.set(extension());
    expect(refusal(longer)).toEqual({ code: 'BAD_FIELD', clause: 'JRN-BIND-004' });
  });

  it('[JRN-BIND-005, JRN-BIND-006] knows two kinds and no flags', () => {
    expect(refusal(extension((view) => view.setUint32(8, 3)))).toMatchObject({ clause: 'JRN-BIND-005' });
    expect(refusal(extension((view) => view.setUint32(12, 1)))).toMatchObject({ clause: 'JRN-BIND-006' });
  });

  it('[JRN-BIND-007] names whole clusters, never the first', () => {
    const at = (offset: bigint) => refusal(extension((view) => view.setBigUint64(16, offset)));
    expect(at(0n)).toEqual({ code: 'BAD_FIELD', clause: 'JRN-BIND-007' });
    expect(at(0x50200n)).toEqual({ code: 'BAD_ALIGNMENT', clause: 'JRN-BIND-007' });
    expect(at(1n << 60n)).toEqual({ code: 'OFFSET_TOO_LARGE', clause: 'JRN-BIND-007' });
    expect(at((1n << 53n) - 0x10000n)).toEqual({ code: 'BAD_FIELD', clause: 'JRN-BIND-007' });
  });

  it('[JRN-BIND-008] names 64 KiB to 1 GiB', () => {
    const long = (length: bigint) => refusal(extension((view) => view.setBigUint64(24, length)));
    expect(long(0n)).toMatchObject({ clause: 'JRN-BIND-008' });
    expect(long(0x40010000n)).toMatchObject({ clause: 'JRN-BIND-008' });
    expect(long(0x18000n)).toEqual({ code: 'BAD_ALIGNMENT', clause: 'JRN-BIND-008' });
    expect(long(0x10000n)).toBeUndefined();
    expect(long(0x40000000n)).toBeUndefined();
  });

  it('[JRN-BIND-010, JRN-BIND-011] has one main journal, and no two that overlap', () => {
    const two = (kind: number, offset: bigint) =>
      refusal(
        extension((view) => {
          view.setUint32(32, kind);
          view.setBigUint64(40, offset);
        }, 2),
      );
    expect(two(1, 0x2000000n)).toMatchObject({ clause: 'JRN-BIND-010' });
    expect(two(2, 0x60000n)).toEqual({ code: 'OVERLAP', clause: 'JRN-BIND-011' });
    expect(two(2, 0x1050000n)).toBeUndefined();
    expect(refusal(extension((view) => view.setUint32(8, 2)))).toMatchObject({ clause: 'JRN-BIND-010' });
  });
});

describe('an area', () => {
  it('[JRN-AREA-001, JRN-AREA-002] has slots a stride apart and a ring of whole blocks', () => {
    expect(journalGeometry(0x10000, 512)).toEqual({
      slotStrideBytes: 4096,
      ringStart: 8192,
      ringBytes: 0x10000 - 8192,
    });
    expect(journalGeometry(0x100000, 8192)).toEqual({
      slotStrideBytes: 8192,
      ringStart: 16384,
      ringBytes: 0x100000 - 16384,
    });
    // 65 KiB of 4 KiB blocks: the last KiB is not used
    expect(journalGeometry(0x10400, 4096).ringBytes).toBe(0x10000 - 8192);
  });

  it('[JRN-AREA-003] has a ring of at least 8 blocks', () => {
    const usable = (lengthBytes: number, blockBytes: number) =>
      isUsableGeometry(journalGeometry(lengthBytes, blockBytes), blockBytes);
    expect(usable(0x10000, 4096)).toBe(true);
    expect(usable(0x50000, 32768)).toBe(true);
    expect(usable(0x48000, 32768)).toBe(false);
    expect(usable(0x10000, 0x200000)).toBe(false);
  });

  it('[JRN-REC-019] takes records of at most a quarter of its ring, and 16 MiB', () => {
    expect(maxRecordBlocks(8 * 4096, 4096)).toBe(2);
    expect(maxRecordBlocks(11 * 4096, 4096)).toBe(2);
    expect(maxRecordBlocks(0x40000000, 4096)).toBe(4096);
  });
});
