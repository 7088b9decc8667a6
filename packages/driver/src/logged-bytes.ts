/**
 * Guest bytes in records of the journal: in an encrypted image cipher text, under the image's key, by sector numbers that no
 * cluster has [JRN-COMMIT-012]. The engine knows nothing of it: what it is handed, and what it hands over at recovery, are
 * bytes. In memory the overlay has them in the clear, as a guest's cache has.
 *
 * A sector that is logged twice gives two cipher texts under one number, as one that is written twice in place does; who sees
 * both learns which of their blocks differ. Nothing else in the file has such a number.
 */
import type { GuestWrite } from '@qcow2/journal';
import { cipherSectorBytes, type GuestCipher, loggedSectorBase } from './encryption.ts';

/** What a record holds of guest writes. The bytes given are left as they are. */
export function loggedCipherText(
  cipher: GuestCipher | undefined,
  writes: readonly GuestWrite[],
): readonly GuestWrite[] {
  if (cipher === undefined) return writes;
  return writes.map(({ guestOffset, bytes }) => {
    const hidden = bytes.slice();
    cipher.encrypt(hidden, loggedSectorBase + guestOffset / cipherSectorBytes);
    return { guestOffset, bytes: hidden };
  });
}

/** The guest's bytes out of what a record holds, which is left as it is. */
export function loggedPlainText(
  cipher: GuestCipher | undefined,
  guestOffset: number,
  logged: Uint8Array,
): Uint8Array {
  if (cipher === undefined) return logged;
  const bytes = logged.slice();
  cipher.decrypt(bytes, loggedSectorBase + guestOffset / cipherSectorBytes);
  return bytes;
}
