import { journalIntentKinds } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import {
  decodeDetachedTableIntent,
  decodeGrowIntent,
  encodeDetachedTableIntent,
  encodeGrowIntent,
  intentKindName,
} from './intents.ts';

const origin = { hostOffset: 0x5000 };
const grow = { sizeBeforeBytes: 4096, sizeAfterBytes: 2 ** 40, reachBytes: 65536 };

describe('the intent to grow', () => {
  it('[JRN-INTENT-020] gives back both sizes and the reach, from 24 bytes', () => {
    const body = encodeGrowIntent(grow);
    expect(body).toHaveLength(24);
    expect(new DataView(body.buffer).getBigUint64(8)).toBe(1n << 40n);
    expect(decodeGrowIntent(body, origin)).toEqual(grow);
    for (const length of [0, 23, 25, 32]) {
      const other = new Uint8Array(length);
      other.set(body.subarray(0, length));
      expect(() => decodeGrowIntent(other, origin)).toThrow(
        expect.objectContaining({
          code: 'BAD_FIELD',
          context: expect.objectContaining({ clause: 'JRN-INTENT-020', hostOffset: 0x5000 }),
        }),
      );
    }
    expect(intentKindName(journalIntentKinds.grow)).toBe('grow');
    expect(intentKindName(0)).toBeUndefined();
  });

  it.each([
    ['sizeAfterBytes', 8, { ...grow, sizeAfterBytes: 4096, reachBytes: 4096 }],
    ['sizeAfterBytes', 8, { ...grow, sizeAfterBytes: 0 }],
    ['reachBytes', 16, { ...grow, reachBytes: 4095 }],
    ['reachBytes', 16, { ...grow, reachBytes: 2 ** 40 + 1 }],
  ])('[JRN-INTENT-021] is refused for a wrong %s', (field, at, wrong) => {
    const refusal = expect.objectContaining({
      code: 'BAD_FIELD',
      context: expect.objectContaining({ field, clause: 'JRN-INTENT-021' }),
    });
    expect(() => encodeGrowIntent(wrong)).toThrow(refusal);
    const body = encodeGrowIntent(grow);
    const view = new DataView(body.buffer);
    view.setBigUint64(0, BigInt(wrong.sizeBeforeBytes));
    view.setBigUint64(8, BigInt(wrong.sizeAfterBytes));
    view.setBigUint64(16, BigInt(wrong.reachBytes));
    expect(() => decodeGrowIntent(body, origin)).toThrow(refusal);
    expect(() => decodeGrowIntent(body, origin)).toThrow(
      expect.objectContaining({ context: expect.objectContaining({ hostOffset: 0x5000 + at }) }),
    );
  });

  it('is refused where a size is no number here', () => {
    const body = encodeGrowIntent(grow);
    body[8] = 0xff;
    expect(() => decodeGrowIntent(body, origin)).toThrow(
      expect.objectContaining({ code: 'OFFSET_TOO_LARGE' }),
    );
  });
});

describe('the intent on a detached table', () => {
  const geometry = { clusterBytes: 4096, l2Entries: 512 };
  const table = { l1Offset: 0x9000, l1Entries: 3, countedFrom: 5, countedTo: 1536 };
  const refusal = (code: string, clause: string, hostOffset: number) =>
    expect.objectContaining({ code, context: expect.objectContaining({ clause, hostOffset }) });

  it('[JRN-INTENT-030] gives back the table and the range, from 32 bytes', () => {
    const body = encodeDetachedTableIntent(table, geometry);
    expect(body).toHaveLength(32);
    const view = new DataView(body.buffer);
    expect([view.getBigUint64(0), view.getUint32(8), view.getUint32(12)]).toEqual([0x9000n, 3, 0]);
    expect([view.getBigUint64(16), view.getBigUint64(24)]).toEqual([5n, 1536n]);
    expect(decodeDetachedTableIntent(body, geometry, origin)).toEqual(table);
    expect(intentKindName(journalIntentKinds.detachedTable)).toBe('detachedTable');
    for (const length of [0, 24, 31, 33]) {
      const other = new Uint8Array(length);
      other.set(body.subarray(0, length));
      expect(() => decodeDetachedTableIntent(other, geometry, origin)).toThrow(
        refusal('BAD_FIELD', 'JRN-INTENT-030', 0x5000),
      );
    }
    view.setUint32(12, 1);
    expect(() => decodeDetachedTableIntent(body, geometry, origin)).toThrow(
      refusal('RESERVED_SET', 'JRN-INTENT-030', 0x500c),
    );
  });

  it.each([
    ['a table over the header', { l1Offset: 0 }, 0],
    ['a table above 32 MiB', { l1Entries: 4194305 }, 8],
    ['a range that ends before it begins', { countedTo: 4 }, 24],
    ['a range behind what the table maps', { countedTo: 1537 }, 24],
  ])('[JRN-INTENT-031] is refused for %s', (_, wrong, at) => {
    const intent = { ...table, ...wrong };
    expect(() => encodeDetachedTableIntent(intent, geometry)).toThrow(
      refusal('BAD_FIELD', 'JRN-INTENT-031', at),
    );
    const body = encodeDetachedTableIntent(table, geometry);
    const view = new DataView(body.buffer);
    view.setBigUint64(0, BigInt(intent.l1Offset));
    view.setUint32(8, intent.l1Entries);
    view.setBigUint64(24, BigInt(intent.countedTo));
    expect(() => decodeDetachedTableIntent(body, geometry, origin)).toThrow(
      refusal('BAD_FIELD', 'JRN-INTENT-031', 0x5000 + at),
    );
  });

  it('[JRN-INTENT-031] is refused for a table off a cluster boundary', () => {
    const body = encodeDetachedTableIntent(table, geometry);
    new DataView(body.buffer).setBigUint64(0, 0x9200n);
    expect(() => decodeDetachedTableIntent(body, geometry, origin)).toThrow(
      refusal('BAD_ALIGNMENT', 'JRN-INTENT-031', 0x5000),
    );
  });
});
