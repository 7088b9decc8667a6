/**
 * The names that a LUKS header has for ciphers, modes, generators and hashes, and which of them are served: those
 * that QEMU writes and Node's OpenSSL has. Every other is refused by its name, never guessed at.
 */
import { FormatError, UnsupportedFeatureError } from '@qcow2/spec';

export type CipherMode = 'xts' | 'cbc' | 'ctr' | 'ecb';

/** OpenSSL's name without the mode, by LUKS name and key length in bytes. */
const blockCiphers: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  aes: { 16: 'aes-128', 24: 'aes-192', 32: 'aes-256' },
  sm4: { 16: 'sm4' },
};

/** OpenSSL's name and the digest's length, by LUKS name. */
const hashes: Readonly<Record<string, { readonly name: string; readonly bytes: number }>> = {
  md5: { name: 'md5', bytes: 16 },
  sha1: { name: 'sha1', bytes: 20 },
  sha224: { name: 'sha224', bytes: 28 },
  sha256: { name: 'sha256', bytes: 32 },
  sha384: { name: 'sha384', bytes: 48 },
  sha512: { name: 'sha512', bytes: 64 },
  ripemd160: { name: 'ripemd160', bytes: 20 },
};

export interface HashName {
  readonly name: string;
  readonly bytes: number;
}

/**
 * @param keyBytes of one block cipher key: half the master key with xts
 * @throws UNSUPPORTED_FEATURE for a cipher that is not served; BAD_FIELD for a key length that it does not have
 */
export function blockCipherName(cipherName: string, keyBytes: number): string {
  const lengths = own(blockCiphers, cipherName);
  if (lengths === undefined) throw unsupported('cipher', cipherName, 'cipherName');
  const name = lengths[keyBytes];
  if (name !== undefined) return name;
  throw new FormatError('BAD_FIELD', `${cipherName} has no keys of this length`, {
    field: 'keyBytes',
    value: keyBytes,
    clause: 'LUKS-DATA-007',
  });
}

/** @throws UNSUPPORTED_FEATURE */
export function cipherModeOf(name: string): CipherMode {
  if (name === 'xts' || name === 'cbc' || name === 'ctr' || name === 'ecb') return name;
  throw unsupported('cipher mode', name, 'cipherMode');
}

/** @throws UNSUPPORTED_FEATURE */
export function hashOf(name: string, field: 'hashName' | 'cipherMode' = 'hashName'): HashName {
  const hash = own(hashes, name);
  if (hash === undefined) throw unsupported('hash', name, field);
  return hash;
}

export function unsupported(what: string, name: string, field: string): UnsupportedFeatureError {
  return new UnsupportedFeatureError('UNSUPPORTED_FEATURE', `an encryption ${what} that is not served`, {
    feature: `${what} ${JSON.stringify(name)}`,
    field,
    clause: 'LUKS-DATA-006',
  });
}

/** A name comes from an image: it must not find what every object has. */
function own<T>(table: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}
