/** Initialization vectors: what makes equal sectors in different places different. [LUKS-DATA-003, LUKS-DATA-004] */
import { hash } from 'node:crypto';
import { FormatError } from '@qcow2/spec';
import { BlockCipher, blockBytes } from './block-cipher.ts';
import { type CipherMode, hashOf, unsupported } from './names.ts';
import { wipe } from './wipe.ts';

/** Vectors of `count` sectors from `first` on, one behind the other; a new buffer. */
export type VectorGenerator = (first: number, count: number) => Uint8Array;

export interface VectorChoice {
  readonly cipherName: string;
  readonly cipherMode: CipherMode;
  readonly ivGenerator: string;
  readonly ivHash?: string | undefined;
}

/** @throws UNSUPPORTED_FEATURE, BAD_FIELD [LUKS-DATA-007] */
export function vectorGenerator(choice: VectorChoice, key: Uint8Array): VectorGenerator {
  switch (choice.ivGenerator) {
    case 'plain64':
      return (first, count) => plain(first, count, true);
    case 'plain':
      return (first, count) => plain(first, count, false);
    case 'essiv':
      return essiv(choice.cipherName, choice.ivHash ?? '', key);
    case '':
      if (choice.cipherMode === 'ecb') return (_, count) => new Uint8Array(count * blockBytes);
  }
  throw unsupported('generator of initialization vectors', choice.ivGenerator, 'cipherMode');
}

function plain(first: number, count: number, wide: boolean): Uint8Array {
  const vectors = new Uint8Array(count * blockBytes);
  const view = new DataView(vectors.buffer);
  for (let i = 0; i < count; i++) {
    const sector = first + i;
    view.setUint32(i * blockBytes, sector >>> 0, true);
    if (wide) view.setUint32(i * blockBytes + 4, Math.floor(sector / 0x100000000), true);
  }
  return vectors;
}

function essiv(cipherName: string, hashName: string, key: Uint8Array): VectorGenerator {
  const { name, bytes } = hashOf(hashName, 'cipherMode');
  const salt = hash(name, key, 'buffer');
  try {
    const cipher = new BlockCipher(cipherName, salt);
    return (first, count) => cipher.encrypt(plain(first, count, true));
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    const context = { field: 'cipherMode', value: `essiv:${hashName}`, clause: 'LUKS-DATA-007' };
    const message = `a hash of ${bytes} bytes is no key of ${cipherName}`;
    throw new FormatError('BAD_FIELD', message, context, error);
  } finally {
    wipe(salt);
  }
}
