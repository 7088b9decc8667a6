import type { LuksHeader } from '@qcow2/codec';
import { describe, expect, it } from 'vitest';
import { luksFacts } from './luks-facts.ts';

const header: LuksHeader = {
  cipherName: 'aes',
  cipherMode: 'cbc',
  ivGenerator: 'essiv',
  ivHash: 'sha256',
  hashName: 'sha1',
  keyBytes: 32,
  payloadOffset: 4040 * 512,
  digest: new Uint8Array(20),
  digestSalt: new Uint8Array(32),
  digestIterations: 1000,
  uuid: '2f3c9a1e-0000-4000-8000-000000000000',
  slots: [{ active: true, iterations: 2000, salt: new Uint8Array(32), materialOffset: 4096 }],
};

describe('luksFacts', () => {
  it('names ciphers and slots', () => {
    expect(luksFacts(header)).toEqual({
      cipherAlgorithm: 'aes-256',
      cipherMode: 'cbc',
      ivGenerator: 'essiv',
      ivHash: 'sha256',
      hash: 'sha1',
      uuid: header.uuid,
      payloadOffset: 4040 * 512,
      masterKeyIterations: 1000,
      slots: [{ active: true, iterations: 2000, stripes: 4000, keyOffset: 4096 }],
    });
  });

  it('names a cipher of xts by half its key', () => {
    expect(luksFacts({ ...header, cipherMode: 'xts', keyBytes: 64 }).cipherAlgorithm).toBe('aes-256');
  });
});
