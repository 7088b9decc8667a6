/**
 * Sectors of 512 bytes, encrypted and decrypted in place, each by itself and by its number [LUKS-DATA-001].
 *
 * The modes are made of a block cipher that takes many blocks at once. So a request costs a few calls of OpenSSL whatever its
 * length; only encrypting with CBC, where each block needs the one before, takes one for each sector. Requests go through in
 * pieces, over working memory that is reused: nothing here waits, so nobody comes in between.
 */
import { BlockCipher, blockBytes } from './block-cipher.ts';
import { type CipherMode, cipherModeOf } from './names.ts';
import { type VectorGenerator, vectorGenerator } from './vector-generator.ts';

export const sectorBytes = 512;
const sectorsPerPiece = 64;
const wordsPerSector = sectorBytes / 4;
const blocksPerSector = sectorBytes / blockBytes;

export interface SectorCipher {
  /** @param bytes whole sectors, changed in place */
  encrypt(bytes: Uint8Array, firstSector: number): void;
  decrypt(bytes: Uint8Array, firstSector: number): void;
}

/** What a LUKS header says about its cipher. */
export interface CipherChoice {
  /** `aes`, … */
  readonly cipherName: string;
  readonly cipherMode: string;
  readonly ivGenerator: string;
  readonly ivHash?: string | undefined;
}

/**
 * @param key the caller's; it may be overwritten afterwards
 * @throws UNSUPPORTED_FEATURE, BAD_FIELD
 */
export function sectorCipher(choice: CipherChoice, key: Uint8Array): SectorCipher {
  const cipherMode = cipherModeOf(choice.cipherMode);
  const vectors = vectorGenerator({ ...choice, cipherMode }, key);
  return inPieces(makers[cipherMode](choice.cipherName, key, vectors));
}

type Piece = (sectors: Uint8Array, firstSector: number, count: number) => void;
interface PieceCipher {
  readonly encrypt: Piece;
  readonly decrypt: Piece;
}
type Maker = (cipherName: string, key: Uint8Array, vectors: VectorGenerator) => PieceCipher;

/** Working memory of one request at a time: the piece, aligned, and a mask over it. */
const piece = new Uint8Array(sectorsPerPiece * sectorBytes);
const pieceWords = new Int32Array(piece.buffer);
const mask = new Uint8Array(piece.length);
const maskWords = new Int32Array(mask.buffer);

const makers: Readonly<Record<CipherMode, Maker>> = { xts, cbc, ctr, ecb };

function inPieces({ encrypt, decrypt }: PieceCipher): SectorCipher {
  const through = (step: Piece) => (bytes: Uint8Array, firstSector: number) => {
    for (let at = 0; at < bytes.length; at += piece.length) {
      const part = bytes.subarray(at, Math.min(bytes.length, at + piece.length));
      piece.set(part);
      const sectors = piece.subarray(0, part.length);
      step(sectors, firstSector + at / sectorBytes, part.length / sectorBytes);
      part.set(sectors);
    }
    // What was guest data in the clear, or a mask over it, does not stay.
    const used = Math.min(bytes.length, piece.length);
    piece.fill(0, 0, used);
    mask.fill(0, 0, used);
  };
  return { encrypt: through(encrypt), decrypt: through(decrypt) };
}

/** Two keys: one for data, one for the masks that go over it before and after [LUKS-DATA-005]. */
function xts(cipherName: string, key: Uint8Array, vectors: VectorGenerator): PieceCipher {
  const half = key.length / 2;
  const data = new BlockCipher(cipherName, key.subarray(0, half));
  const tweak = new BlockCipher(cipherName, key.subarray(half));
  const through =
    (step: (blocks: Uint8Array) => Uint8Array): Piece =>
    (sectors, first, count) => {
      spreadTweaks(tweak.encrypt(vectors(first, count)), count);
      addMask(count);
      sectors.set(step(sectors));
      addMask(count);
    };
  return {
    encrypt: through((blocks) => data.encrypt(blocks)),
    decrypt: through((blocks) => data.decrypt(blocks)),
  };
}

/** Of each sector's first mask all its 32: each the one before times x, in GF(2^128). */
function spreadTweaks(tweaks: Uint8Array, count: number): void {
  const view = new DataView(tweaks.buffer, tweaks.byteOffset, tweaks.byteLength);
  let at = 0;
  for (let sector = 0; sector < count; sector++) {
    let a = view.getInt32(sector * blockBytes, true);
    let b = view.getInt32(sector * blockBytes + 4, true);
    let c = view.getInt32(sector * blockBytes + 8, true);
    let d = view.getInt32(sector * blockBytes + 12, true);
    for (let block = 0; block < blocksPerSector; block++) {
      maskWords[at++] = a;
      maskWords[at++] = b;
      maskWords[at++] = c;
      maskWords[at++] = d;
      const carry = (d >> 31) & 0x87;
      d = (d << 1) | (c >>> 31);
      c = (c << 1) | (b >>> 31);
      b = (b << 1) | (a >>> 31);
      a = (a << 1) ^ carry;
    }
  }
}

function addMask(count: number): void {
  const words = count * wordsPerSector;
  for (let i = 0; i < words; i++) pieceWords[i]! ^= maskWords[i]!;
}

/** Each block is added to the cipher text of the one before. Decrypting needs no chain: all cipher text is there. */
function cbc(cipherName: string, key: Uint8Array, vectors: VectorGenerator): PieceCipher {
  const cipher = new BlockCipher(cipherName, key);
  return {
    encrypt: (sectors, first, count) => {
      const all = vectors(first, count);
      for (let i = 0; i < count; i++) {
        const sector = sectors.subarray(i * sectorBytes, (i + 1) * sectorBytes);
        sector.set(cipher.encryptChained(sector, all.subarray(i * blockBytes, (i + 1) * blockBytes)));
      }
    },
    decrypt: (sectors, first, count) => {
      const all = vectors(first, count);
      for (let i = 0; i < count; i++) {
        const at = i * sectorBytes;
        mask.set(all.subarray(i * blockBytes, (i + 1) * blockBytes), at);
        mask.set(sectors.subarray(at, at + sectorBytes - blockBytes), at + blockBytes);
      }
      sectors.set(cipher.decrypt(sectors));
      addMask(count);
    },
  };
}

/** A mask of encrypted counters; the vector is the first, and counts big-endian. Both ways are the same. */
function ctr(cipherName: string, key: Uint8Array, vectors: VectorGenerator): PieceCipher {
  const cipher = new BlockCipher(cipherName, key);
  const through: Piece = (_, first, count) => {
    const all = vectors(first, count);
    for (let i = 0; i < count; i++) {
      const counter = all.subarray(i * blockBytes, (i + 1) * blockBytes);
      for (let block = 0; block < blocksPerSector; block++) {
        mask.set(counter, i * sectorBytes + block * blockBytes);
        increment(counter);
      }
    }
    const length = count * sectorBytes;
    mask.set(cipher.encrypt(mask.subarray(0, length)));
    addMask(count);
  };
  return { encrypt: through, decrypt: through };
}

function increment(counter: Uint8Array): void {
  for (let i = blockBytes - 1; i >= 0; i--) {
    counter[i] = (counter[i]! + 1) & 0xff;
    if (counter[i] !== 0) return;
  }
}

function ecb(cipherName: string, key: Uint8Array): PieceCipher {
  const cipher = new BlockCipher(cipherName, key);
  return {
    encrypt: (sectors) => sectors.set(cipher.encrypt(sectors)),
    decrypt: (sectors) => sectors.set(cipher.decrypt(sectors)),
  };
}
