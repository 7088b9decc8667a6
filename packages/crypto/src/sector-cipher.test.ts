/** The modes against OpenSSL's own, one sector at a time; there is no second opinion on ESSIV but QEMU's, in test/interop. */
import { createCipheriv, createHash, randomBytes } from 'node:crypto';
import { Qcow2Error } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { type CipherChoice, sectorBytes, sectorCipher } from './sector-cipher.ts';

const first = 2 ** 40 + 77;

function plain64(sector: number): Uint8Array {
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(BigInt(sector));
  return vector;
}

function expected(
  name: string,
  key: Uint8Array,
  bytes: Uint8Array,
  vectorOf: (sector: number) => Uint8Array | null,
) {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += sectorBytes) {
    const cipher = createCipheriv(name, key, vectorOf(first + at / sectorBytes)).setAutoPadding(false);
    parts.push(cipher.update(bytes.subarray(at, at + sectorBytes)));
  }
  return new Uint8Array(Buffer.concat(parts));
}

const choice = (change: Partial<CipherChoice>): CipherChoice => ({
  cipherName: 'aes',
  cipherMode: 'xts',
  ivGenerator: 'plain64',
  ...change,
});

describe('sectors', () => {
  const cases: [string, number, Partial<CipherChoice>][] = [
    ['aes-128-xts', 32, {}],
    ['aes-256-xts', 64, {}],
    ['sm4-cbc', 16, { cipherName: 'sm4', cipherMode: 'cbc' }],
    ['aes-128-cbc', 16, { cipherMode: 'cbc' }],
    ['aes-192-cbc', 24, { cipherMode: 'cbc' }],
    ['aes-256-cbc', 32, { cipherMode: 'cbc' }],
    ['aes-256-ctr', 32, { cipherMode: 'ctr' }],
    ['aes-256-ecb', 32, { cipherMode: 'ecb' }],
    ['aes-128-ecb', 16, { cipherMode: 'ecb', ivGenerator: '' }],
  ];
  // One sector, some, and more than a piece.
  it.each(cases)(
    '[LUKS-DATA-001, LUKS-DATA-003, LUKS-DATA-005, LUKS-DATA-006] are what OpenSSL makes of them: %s',
    (name, keyBytes, change) => {
      const key = randomBytes(keyBytes);
      const cipher = sectorCipher(choice(change), key);
      for (const sectors of [1, 3, 150]) {
        // At an odd place in its buffer, as a guest's request may stand.
        const bytes = new Uint8Array(sectors * sectorBytes + 3).subarray(3);
        bytes.set(randomBytes(bytes.length));
        const before = bytes.slice();
        cipher.encrypt(bytes, first);
        expect(bytes).toEqual(expected(name, key, before, name.endsWith('ecb') ? () => null : plain64));
        cipher.decrypt(bytes, first);
        expect(bytes).toEqual(before);
      }
    },
  );
});

describe('vectors', () => {
  it('[LUKS-DATA-003] plain has 32 bits of the number, plain64 all', () => {
    const key = randomBytes(64);
    const narrow = new Uint8Array(sectorBytes);
    const wrapped = new Uint8Array(sectorBytes);
    const wide = new Uint8Array(sectorBytes);
    sectorCipher(choice({ ivGenerator: 'plain' }), key).encrypt(narrow, first);
    sectorCipher(choice({ ivGenerator: 'plain' }), key).encrypt(wrapped, 77);
    sectorCipher(choice({}), key).encrypt(wide, first);
    expect(narrow).toEqual(wrapped);
    expect(narrow).not.toEqual(wide);
  });

  it('[LUKS-DATA-004] essiv is plain64 encrypted under the hash of the key', () => {
    const key = randomBytes(32);
    const salt = createHash('sha256').update(key).digest();
    const vectorOf = (sector: number) => createCipheriv('aes-256-ecb', salt, null).update(plain64(sector));
    const bytes = new Uint8Array(randomBytes(3 * sectorBytes));
    const before = bytes.slice();
    sectorCipher(choice({ cipherMode: 'cbc', ivGenerator: 'essiv', ivHash: 'sha256' }), key).encrypt(
      bytes,
      first,
    );
    expect(bytes).toEqual(expected('aes-256-cbc', key, before, vectorOf));
  });
});

describe('what is not served', () => {
  const refused: [string, number, Partial<CipherChoice>, string][] = [
    ['serpent', 32, { cipherName: 'serpent', cipherMode: 'cbc' }, 'UNSUPPORTED_FEATURE'],
    ['twofish', 64, { cipherName: 'twofish' }, 'UNSUPPORTED_FEATURE'],
    ['cast5', 16, { cipherName: 'cast5', cipherMode: 'cbc' }, 'UNSUPPORTED_FEATURE'],
    ['constructor', 16, { cipherName: 'constructor', cipherMode: 'cbc' }, 'UNSUPPORTED_FEATURE'],
    ['lrw', 32, { cipherMode: 'lrw' }, 'UNSUPPORTED_FEATURE'],
    ['benbi', 64, { ivGenerator: 'benbi' }, 'UNSUPPORTED_FEATURE'],
    [
      'whirlpool',
      32,
      { cipherMode: 'cbc', ivGenerator: 'essiv', ivHash: 'whirlpool' },
      'UNSUPPORTED_FEATURE',
    ],
    ['essiv:sha1', 32, { cipherMode: 'cbc', ivGenerator: 'essiv', ivHash: 'sha1' }, 'BAD_FIELD'],
    ['no such key', 17, { cipherMode: 'cbc' }, 'BAD_FIELD'],
    ['an odd half', 33, {}, 'BAD_FIELD'],
  ];
  it.each(refused)(
    '[LUKS-DATA-006, LUKS-DATA-007, LUKS-DATA-009] is refused by name: %s',
    (name, keyBytes, change, code) => {
      let error: unknown;
      try {
        sectorCipher(choice(change), new Uint8Array(keyBytes));
      } catch (caught) {
        error = caught;
      }
      expect(error).toBeInstanceOf(Qcow2Error);
      expect(error).toMatchObject({ code });
      if (code === 'UNSUPPORTED_FEATURE') expect(String(error)).toContain(name);
    },
  );
});
