/**
 * Images with a dirty journal of the draft of 2013, and what they must show after replay: made by
 * `draft-2013/make_vectors.py` from the draft's own C declarations, without a line of our code. They say what our
 * reading of the draft is worth, where QEMU can not: no release of it has the journal.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { inflateSync } from 'node:zlib';
import { FormatError } from '@qcow2/spec';
import { sha256 } from './vector.ts';

export interface DraftVector {
  readonly name: string;
  /** Which part of the draft the vector is there for. */
  readonly why: string;
  /** The image as a crash left it. The caller owns it. */
  readonly bytes: Uint8Array;
  /** Transactions that a replay performs. Absent where the image is to be refused. */
  readonly transactions?: number;
  /** SHA-256 of the disk that the guest sees after the replay. */
  readonly guestSha256?: string;
  /** The code of the error with which opening is refused. */
  readonly error?: 'JOURNAL_DAMAGED' | 'UNSUPPORTED_FEATURE';
}

interface StoredVector extends Omit<DraftVector, 'bytes'> {
  readonly sizeBytes: number;
  readonly sha256: string;
  /** Deflated (zlib), in base64. */
  readonly image: string;
}

/** @throws BAD_CHECKSUM where the bytes are not those that were made */
export function loadDraftVectors(): DraftVector[] {
  const path = join(import.meta.dirname, '..', 'draft-2013', 'vectors.json');
  const stored = JSON.parse(readFileSync(path, 'utf8')) as StoredVector[];
  return stored.map(({ image, sizeBytes, sha256: expected, ...vector }) => {
    const bytes = new Uint8Array(
      inflateSync(Buffer.from(image, 'base64'), { maxOutputLength: Math.max(1, sizeBytes) }),
    );
    if (bytes.length !== sizeBytes || sha256(bytes) !== expected) {
      throw new FormatError('BAD_CHECKSUM', 'the bytes are not those that were made', { path: vector.name });
    }
    return { ...vector, bytes };
  });
}
