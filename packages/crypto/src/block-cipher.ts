/**
 * A block cipher of OpenSSL, many blocks at a time, each alone. Modes are built on it (`sector-cipher.ts`): setting a
 * cipher of OpenSSL up for each sector costs more than encrypting it, and so a key is set up once, and a request
 * passes through in few calls.
 *
 * Without padding, `update` of whole blocks returns them all and keeps no state between calls in ECB.
 */
import { type Cipheriv, createCipheriv, createDecipheriv, type Decipheriv } from 'node:crypto';
import { blockCipherName } from './names.ts';

export const blockBytes = 16;

export class BlockCipher {
  readonly #encryption: Cipheriv;
  readonly #decryption: Decipheriv;
  readonly #chain: Cipheriv;
  /** The last block that `#chain` made. */
  #last: Uint8Array = new Uint8Array(blockBytes);

  /**
   * @param cipherName as in a LUKS header
   * @param key not kept; the caller overwrites it
   * @throws UNSUPPORTED_FEATURE, BAD_FIELD
   */
  constructor(cipherName: string, key: Uint8Array) {
    const name = blockCipherName(cipherName, key.length);
    this.#encryption = createCipheriv(`${name}-ecb`, key, null).setAutoPadding(false);
    this.#decryption = createDecipheriv(`${name}-ecb`, key, null).setAutoPadding(false);
    this.#chain = createCipheriv(`${name}-cbc`, key, this.#last).setAutoPadding(false);
  }

  /** Whole blocks, each alone. The result is a new buffer. */
  encrypt(blocks: Uint8Array): Uint8Array {
    return this.#encryption.update(blocks);
  }

  decrypt(blocks: Uint8Array): Uint8Array {
    return this.#decryption.update(blocks);
  }

  /**
   * Blocks chained (CBC) from a vector on. `blocks` is used up. OpenSSL goes on from the last block that it made: that is
   * added to the first block beforehand, and falls out.
   */
  encryptChained(blocks: Uint8Array, vector: Uint8Array): Uint8Array {
    for (let i = 0; i < blockBytes; i++) blocks[i]! ^= vector[i]! ^ this.#last[i]!;
    const result = this.#chain.update(blocks);
    this.#last = result.slice(result.length - blockBytes);
    return result;
  }
}
