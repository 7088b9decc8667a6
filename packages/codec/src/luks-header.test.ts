import { luksConstants, luksHeadBytes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { refusal, viewOf } from '../test/support/samples.ts';
import {
  decodeLuksHeader,
  encodeLuksHeader,
  type LuksHeader,
  luksMaterialBytes,
  luksSlotOffset,
} from './luks-header.ts';

const stride = 256 * 1024;

function sample(change: Partial<LuksHeader> = {}): LuksHeader {
  return {
    cipherName: 'aes',
    cipherMode: 'cbc',
    ivGenerator: 'essiv',
    ivHash: 'sha256',
    hashName: 'sha1',
    keyBytes: 32,
    payloadOffset: 4096 + 8 * stride,
    digest: new Uint8Array(20).fill(1),
    digestSalt: new Uint8Array(32).fill(2),
    digestIterations: 1000,
    uuid: '2f3c9a1e-0000-4000-8000-000000000000',
    slots: Array.from({ length: 8 }, (_, slot) => ({
      active: slot === 0,
      iterations: slot === 0 ? 2000 : 0,
      salt: new Uint8Array(32).fill(slot),
      materialOffset: 4096 + slot * stride,
    })),
    ...change,
  };
}

/** The bytes of a sample after something was written over them. */
function spoiled(spoil: (view: DataView) => void): Uint8Array {
  const bytes = encodeLuksHeader(sample());
  spoil(viewOf(bytes));
  return bytes;
}

describe('the LUKS header', () => {
  it('[LUKS-HDR-003, LUKS-HDR-004, LUKS-HDR-005, LUKS-HDR-006, LUKS-HDR-007] says cipher, mode, hash, and comes back whole', () => {
    const bytes = encodeLuksHeader(sample());
    expect(bytes).toHaveLength(luksHeadBytes);
    expect(decodeLuksHeader(bytes)).toEqual(sample());
    expect(new TextDecoder().decode(bytes.subarray(40, 56))).toBe('cbc-essiv:sha256');
    const plain = sample({ cipherMode: 'xts', ivGenerator: 'plain64', ivHash: undefined, keyBytes: 64 });
    expect(decodeLuksHeader(encodeLuksHeader(plain))).toEqual(plain);
    const bare = sample({ cipherMode: 'ecb', ivGenerator: '', ivHash: undefined });
    expect(decodeLuksHeader(encodeLuksHeader(bare))).toEqual(bare);
  });

  it('[LUKS-HDR-013, LUKS-HDR-014, LUKS-HDR-008, LUKS-HDR-009, LUKS-HDR-010, LUKS-HDR-011] big-endian, eight slots at byte 208', () => {
    const view = viewOf(encodeLuksHeader(sample()));
    expect(view.getUint32(164)).toBe(1000);
    expect(view.getUint8(112)).toBe(1);
    expect(view.getUint8(132)).toBe(2);
    expect(view.getUint8(168)).toBe('2'.charCodeAt(0));
    expect(luksSlotOffset(0)).toBe(208);
    expect(view.getUint32(208)).toBe(luksConstants.keySlotActive);
    expect(view.getUint32(luksSlotOffset(7))).toBe(luksConstants.keySlotDisabled);
    expect(luksSlotOffset(8)).toBe(luksHeadBytes);
  });

  it('[LUKS-HDR-012] names end at the first zero, or with their field', () => {
    const long = 'x'.repeat(32);
    expect(decodeLuksHeader(encodeLuksHeader(sample({ hashName: long }))).hashName).toBe(long);
    const bytes = encodeLuksHeader(sample());
    bytes.set([0, 0x41], 74);
    expect(decodeLuksHeader(bytes).hashName).toBe('sh');
    expect(refusal(() => encodeLuksHeader(sample({ hashName: `${long}x` })))).toMatchObject({
      code: 'BAD_FIELD',
      field: 'hashName',
      clause: 'LUKS-HDR-012',
    });
  });

  it('[LUKS-HDR-001, LUKS-HDR-002] is refused by field and place', () => {
    const at = (bytes: Uint8Array) => refusal(() => decodeLuksHeader(bytes, { hostOffset: 4096 }));
    expect(at(spoiled((view) => view.setUint8(0, 0)))).toMatchObject({
      code: 'BAD_MAGIC',
      hostOffset: 4096,
      clause: 'LUKS-HDR-001',
    });
    expect(at(spoiled((view) => view.setUint8(5, 0)))).toMatchObject({ code: 'BAD_FIELD' });
    expect(at(spoiled((view) => view.setUint16(6, 2)))).toMatchObject({
      code: 'BAD_FIELD',
      hostOffset: 4102,
      field: 'version',
      clause: 'LUKS-HDR-002',
    });
    expect(at(encodeLuksHeader(sample()).subarray(0, 591))).toMatchObject({ code: 'TRUNCATED' });
  });

  it('[LUKS-LIM-001, LUKS-LIM-002, LUKS-SLOT-001, LUKS-SLOT-002, LUKS-SLOT-003, LUKS-SLOT-005] absurd sizes and counts are refused', () => {
    const clauseOf = (spoil: (view: DataView) => void) =>
      refusal(() => decodeLuksHeader(spoiled(spoil))).clause;
    expect(clauseOf((view) => view.setUint32(108, 65))).toBe('LUKS-HDR-007');
    expect(clauseOf((view) => view.setUint32(108, 0))).toBe('LUKS-HDR-007');
    expect(clauseOf((view) => view.setUint32(164, luksConstants.maxIterations + 1))).toBe('LUKS-HDR-010');
    expect(clauseOf((view) => view.setUint32(212, luksConstants.maxIterations + 1))).toBe('LUKS-SLOT-002');
    expect(clauseOf((view) => view.setUint32(212, 0))).toBe('LUKS-SLOT-002');
    expect(clauseOf((view) => view.setUint32(208, 1))).toBe('LUKS-SLOT-001');
    expect(clauseOf((view) => view.setUint32(252, 4001))).toBe('LUKS-SLOT-005');
    expect(decodeLuksHeader(encodeLuksHeader(sample())).slots[3]?.salt).toEqual(new Uint8Array(32).fill(3));
  });

  it('[LUKS-SLOT-004, LUKS-SLOT-006, LUKS-SLOT-007, LUKS-SLOT-008, LUKS-LIM-003] key material lies where nothing else is', () => {
    expect(luksMaterialBytes(32)).toBe(128_000);
    expect(luksMaterialBytes(33)).toBe(132_096);
    const lengthBytes = 4096 + 7 * stride + 128_000;
    const put = (slot: number, sectors: number) =>
      spoiled((view) => view.setUint32(luksSlotOffset(slot) + 40, sectors));
    const at = (bytes: Uint8Array) => refusal(() => decodeLuksHeader(bytes, { lengthBytes }));
    expect(decodeLuksHeader(put(7, 8 + (7 * stride) / 512), { lengthBytes }).slots[7]?.materialOffset).toBe(
      4096 + 7 * stride,
    );
    expect(at(put(7, 9 + (7 * stride) / 512))).toMatchObject({
      code: 'TRUNCATED',
      clause: 'LUKS-SLOT-007',
      hostOffset: luksSlotOffset(7) + 40,
    });
    expect(at(put(2, 1))).toMatchObject({ code: 'OVERLAP', clause: 'LUKS-SLOT-007' });
    expect(at(put(2, 0xffffffff))).toMatchObject({ code: 'TRUNCATED' });
    expect(at(put(2, 8 + 249))).toMatchObject({ code: 'OVERLAP', clause: 'LUKS-SLOT-008' });
    expect(() => decodeLuksHeader(put(2, 8 + 250), { lengthBytes })).not.toThrow();
  });
});
