/**
 * qcow2's first encryption (crypt method aes) [ENC-002]: AES-CBC-128, the passphrase itself the key. No digest says
 * whether it is the right one: a wrong one shows noise. To get data out of old images; new ones get LUKS.
 */
import type { ImageEncryption } from '@qcow2/driver';
import { sectorCipher } from './sector-cipher.ts';
import { wipe } from './wipe.ts';

const keyBytes = 16;

/** @param passphrase the caller's: read at `unlock`, never kept; what is longer than 16 bytes is cut off */
export function legacyAes(passphrase: Uint8Array): ImageEncryption {
  return {
    format: 'aes',
    unlock: async () => {
      const key = new Uint8Array(keyBytes);
      key.set(passphrase.subarray(0, keyBytes));
      const choice = { cipherName: 'aes', cipherMode: 'cbc', ivGenerator: 'plain64' };
      const cipher = sectorCipher(choice, key);
      wipe(key);
      return {
        usesHostOffset: false,
        mayLog: true,
        encrypt: (bytes, firstSector) => cipher.encrypt(bytes, firstSector),
        decrypt: (bytes, firstSector) => cipher.decrypt(bytes, firstSector),
      };
    },
  };
}
