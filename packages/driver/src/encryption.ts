/**
 * What the driver asks of encryption, and no more: keys, passphrases and ciphers are someone else's (`@qcow2/crypto`, or
 * whoever implements this), so that the driver runs where there is no cipher.
 *
 * Guest data is encrypted in sectors of 512 bytes by their number. Metadata never is [ENC-001].
 */

/** Bytes that are encrypted together. */
export const cipherSectorBytes = 512;

/**
 * Sectors of logged guest bytes count from here, at guest offset 0 [JRN-COMMIT-012]: no cluster has such a
 * sector number, so nothing in the journal is cipher text that some cluster may show as well.
 */
export const loggedSectorBase = 2 ** 52;

/** Encrypts and decrypts in place. Synchronous; holds no buffer beyond the call. */
export interface GuestCipher {
  /** Sectors are numbered by where they stand in the file; else by where the guest sees them. */
  readonly usesHostOffset: boolean;
  /**
   * Guest bytes may stand in the journal: two texts under one sector number, side by side in one file, do not give them away,
   * as they would where a cipher does no more than add a stream (ctr) [JRN-COMMIT-012].
   */
  readonly mayLog: boolean;
  /** @param bytes whole sectors */
  encrypt(bytes: Uint8Array, firstSector: number): void;
  decrypt(bytes: Uint8Array, firstSector: number): void;
}

/** The encryption header of an open image: offsets are within it. It holds cipher text and salts, never a key. */
export interface EncryptionHeaderArea {
  /** Of its first byte in the image, for errors. */
  readonly hostOffset: number;
  readonly lengthBytes: number;
  /** Zeros beyond the end of the file. */
  read(at: number, into: Uint8Array): Promise<void>;
  /** @throws OUT_OF_RANGE; READ_ONLY */
  write(at: number, bytes: Uint8Array): Promise<void>;
  flush(): Promise<void>;
}

/** What opens an encrypted image for its data. Given to `openImage`. */
export interface ImageEncryption {
  /** As the header's crypt method says. */
  readonly format: 'aes' | 'luks';
  /**
   * @param header undefined for aes
   * @throws WRONG_SECRET where no key comes of it; FormatError, UNSUPPORTED_FEATURE
   */
  unlock(header: EncryptionHeaderArea | undefined): Promise<GuestCipher>;
}

/** What makes an image encrypted. Given to `createImage`. */
export interface NewEncryption {
  readonly format: 'luks';
  /** Computes a key and all that the image holds of it. */
  prepare(): Promise<PreparedEncryption>;
}

export interface PreparedEncryption {
  /** Bytes of the encryption header. */
  readonly headerBytes: number;
  /** What stands in it; the rest is zeros. */
  readonly pieces: readonly { readonly at: number; readonly bytes: Uint8Array }[];
  /** Opens the image that is made, while it is made. */
  readonly encryption: ImageEncryption;
}
