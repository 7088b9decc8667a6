/**
 * Appending records: sequence, salt and chain of this life, and the ring's space.
 *
 * A record is appended in one piece and is valid or not (CRC): a torn append is no record, and nothing of it
 * was acknowledged (JRN-REC). The first record of a life brings a fresh salt and says so, so that no block of an
 * earlier life ever continues this one's chain [JRN-RECOV-011].
 */
import type { BlockDevice, Task } from '@qcow2/block-device';
import { encodeRecord, type JournalDescriptor } from '@qcow2/codec/journal/v1';
import { InvariantError } from '@qcow2/spec';
import type { LogSpace } from './log-space.ts';
import type { GuestWrite } from './microtransaction.ts';
import { type RingGeometry, writeRing } from './ring.ts';

export interface RecordWriterOptions {
  readonly device: BlockDevice;
  readonly ring: RingGeometry;
  readonly space: LogSpace;
  readonly journalId: bigint;
  /** The salt of this life, random [JRN-RECOV-011]. */
  readonly salt: bigint;
}

export class RecordWriter {
  readonly #device: BlockDevice;
  readonly #ring: RingGeometry;
  readonly #space: LogSpace;
  readonly #journalId: bigint;
  readonly #salt: bigint;
  /** The longest record that this ring takes [JRN-REC-019]. */
  readonly maxRecordBytes: number;
  /** Most records are built here: a new buffer for each flush would be most of what a flush leaves to collect. */
  readonly #scratch: Uint8Array;
  /** The next record opens a life with the fresh salt. */
  #lifePending = true;
  #nextSequence: number;

  constructor(options: RecordWriterOptions) {
    this.#device = options.device;
    this.#ring = options.ring;
    this.#space = options.space;
    this.#journalId = options.journalId;
    this.#salt = options.salt;
    this.#nextSequence = options.space.last.sequence + 1;
    const { lengthBytes, blockBytes } = options.ring;
    const blocks = Math.max(1, Math.floor(lengthBytes / 4 / blockBytes));
    this.maxRecordBytes = Math.min(blocks * blockBytes, 16 << 20);
    this.#scratch = new Uint8Array(Math.min(this.maxRecordBytes, Math.max(blockBytes, 64 << 10)));
  }

  /** Sequence of the last record appended, or being appended. */
  get lastSequence(): number {
    return this.#nextSequence - 1;
  }

  /**
   * Append one record; its guest writes are copied. Not durable on return. Returns its length in bytes.
   * @throws INVARIANT where it does not fit: space is reserved before anything is changed
   */
  *append(
    changes: readonly JournalDescriptor[],
    guestWrites: readonly GuestWrite[],
    durableThrough: number,
  ): Task<number> {
    const sequence = this.#nextSequence;
    const descriptors = [...changes];
    const payload: Uint8Array[] = [];
    let payloadOffset = 0;
    for (const { guestOffset, bytes } of guestWrites) {
      descriptors.push({ type: 'guest-write', guestOffset, lengthBytes: bytes.length, payloadOffset });
      payload.push(bytes);
      payloadOffset += bytes.length;
    }
    const at = this.#space.headLog;
    const record = encodeRecord({
      sequence,
      journalId: this.#journalId,
      salt: this.#salt,
      position: at % this.#ring.lengthBytes,
      chain: this.#space.last.crc,
      durableThrough,
      life: this.#lifePending,
      blockBytes: this.#ring.blockBytes,
      descriptors,
      payload,
      scratch: this.#scratch,
    });
    const lengthBytes = record.bytes.length;
    if (lengthBytes > this.maxRecordBytes) {
      throw new InvariantError('a microtransaction does not fit into a journal record');
    }
    this.#space.reserve(lengthBytes);
    // What is settled while the append waits refers to this record too, whose guest writes are taken.
    this.#nextSequence = sequence + 1;
    yield* writeRing(this.#device, this.#ring, at, record.bytes, 'journal_append');
    this.#lifePending = false;
    this.#space.append({ sequence, salt: this.#salt, crc: record.crc }, lengthBytes);
    return lengthBytes;
  }
}
