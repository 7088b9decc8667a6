import { describe, expect, it } from 'vitest';
import { decodeLuksHeader, luksHeaderBytes } from './luks-header.ts';

/** A header with one active slot, fields after section 2.2 of the LUKS specification. */
function sample(): Uint8Array {
  const bytes = new Uint8Array(luksHeaderBytes);
  const view = new DataView(bytes.buffer);
  bytes.set([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe, 0, 1]);
  const text = (at: number, value: string) => bytes.set(new TextEncoder().encode(value), at);
  text(8, 'aes');
  text(40, 'cbc-essiv:sha256');
  text(72, 'sha1');
  view.setUint32(104, 4040);
  view.setUint32(108, 32);
  view.setUint32(164, 1000);
  text(168, '2f3c9a1e-0000-4000-8000-000000000000');
  view.setUint32(208, 0x00ac71f3);
  view.setUint32(212, 2000);
  view.setUint32(248, 8);
  view.setUint32(252, 4000);
  for (let slot = 1; slot < 8; slot++) view.setUint32(208 + slot * 48, 0x0000dead);
  return bytes;
}

describe('decodeLuksHeader', () => {
  it('names ciphers and slots', () => {
    const facts = decodeLuksHeader(sample(), 0x50000);
    expect(facts).toMatchObject({
      cipherAlgorithm: 'aes-256',
      cipherMode: 'cbc',
      ivGenerator: 'essiv',
      ivHash: 'sha256',
      hash: 'sha1',
      uuid: '2f3c9a1e-0000-4000-8000-000000000000',
      payloadOffset: 4040 * 512,
      masterKeyIterations: 1000,
    });
    expect(facts.slots).toHaveLength(8);
    expect(facts.slots[0]).toEqual({ active: true, iterations: 2000, keyOffset: 4096, stripes: 4000 });
    expect(facts.slots.filter((slot) => slot.active)).toHaveLength(1);
  });

  it('says where a header is wrong', () => {
    expect(() => decodeLuksHeader(sample().subarray(0, 591), 4096)).toThrow(
      expect.objectContaining({ code: 'TRUNCATED', context: expect.objectContaining({ hostOffset: 4096 }) }),
    );
    const noMagic = sample();
    noMagic[0] = 0;
    expect(() => decodeLuksHeader(noMagic, 4096)).toThrow(expect.objectContaining({ code: 'BAD_MAGIC' }));
    const version2 = sample();
    version2[7] = 2;
    expect(() => decodeLuksHeader(version2, 4096)).toThrow(
      expect.objectContaining({ code: 'BAD_FIELD', context: expect.objectContaining({ hostOffset: 4102 }) }),
    );
  });
});
