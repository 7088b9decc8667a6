import { journalIntentKinds } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { decodeGrowIntent, encodeGrowIntent, intentKindName } from './intents.ts';

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
