/** The draft's codec against journals that were made from the draft's C declarations, byte for byte and both ways. */
import {
  advanceDraftBlock,
  type DraftGeometry,
  type DraftJournalHeader,
  decodeDraftHeader,
  decodeDraftTransaction,
  draftGeometry,
  draftReplayCount,
  encodeDraftHeader,
  encodeDraftTransaction,
  isDraftHeader,
  nextDraftSequence,
  peekDraftBlock,
} from '@qcow2/codec/journal/draft-2013';
import { FormatError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { loadDraftVectors } from '../src/draft-vectors.ts';

const clusterBytes = 4096;
const vectors = loadDraftVectors();

class Journal {
  readonly header: DraftJournalHeader;
  readonly headerBytes: Uint8Array;
  readonly geometry: DraftGeometry;
  readonly #bytes: Uint8Array;
  readonly #at: number;

  constructor(image: Uint8Array) {
    const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
    // [JD13-BIND-003]
    this.#at = Number(view.getBigUint64(104));
    this.#bytes = image;
    const sector = image.subarray(this.#at, this.#at + clusterBytes);
    expect(isDraftHeader(sector)).toBe(true);
    const blockBytes = 2 ** new DataView(sector.buffer, sector.byteOffset).getUint32(12);
    this.headerBytes = sector.subarray(0, blockBytes);
    this.header = decodeDraftHeader(this.headerBytes, { hostOffset: this.#at, clusterBytes });
    this.geometry = draftGeometry(this.header);
  }

  hostOffset(blockIndex: number): number {
    return this.#at + blockIndex * this.geometry.blockBytes;
  }

  /** Blocks from an index on, in one piece. */
  blocks(blockIndex: number, count: number): Uint8Array {
    const { blockBytes } = this.geometry;
    const bytes = new Uint8Array(count * blockBytes);
    for (let i = 0; i < count; i++) {
      const at = this.hostOffset(advanceDraftBlock(blockIndex, i, this.geometry));
      bytes.set(this.#bytes.subarray(at, at + blockBytes), i * blockBytes);
    }
    return bytes;
  }

  /** Index and sequence of what is to be replayed first. */
  start(): { blockIndex: number; sequence: number } {
    const { syncedIndex, syncedSequence } = this.header;
    const sequence = nextDraftSequence(syncedSequence);
    if (syncedIndex === 0) return { blockIndex: 1, sequence };
    const synced = peekDraftBlock(this.blocks(syncedIndex, 1));
    const behind = 1 + (synced?.dataBlockCount ?? 0);
    return { blockIndex: advanceDraftBlock(syncedIndex, behind, this.geometry), sequence };
  }
}

describe.each(vectors)('$name', ({ name, bytes, transactions, error }) => {
  it('[JD13-HDR-001, JD13-HDR-008] has a journal header that is read and written byte for byte', () => {
    const journal = new Journal(bytes);
    const written = encodeDraftHeader(journal.header);
    expect(Buffer.compare(written, journal.headerBytes.subarray(0, written.length))).toBe(0);
  });

  it('[JD13-RING-001, JD13-RING-002, JD13-RING-003, JD13-BLK-002] has the transactions that it says, byte for byte', () => {
    const journal = new Journal(bytes);
    const { geometry } = journal;
    let { blockIndex, sequence } = journal.start();
    let found = 0;
    const walk = () => {
      for (let left = draftReplayCount(journal.header); left > 0; left--) {
        const count = 1 + (peekDraftBlock(journal.blocks(blockIndex, 1))?.dataBlockCount ?? 0);
        const run = journal.blocks(blockIndex, Math.min(count, geometry.ringBlocks));
        const place = { blockIndex, ...geometry };
        const transaction = decodeDraftTransaction(run, {
          hostOffset: journal.hostOffset(blockIndex),
          ...place,
        });
        expect(transaction.sequence).toBe(sequence);
        const extended = new DataView(run.buffer).getUint32(12) !== 24;
        const refused = transaction.descriptors.some(({ type }) => type === 'unknown');
        if (!extended && !refused)
          expect(Buffer.compare(encodeDraftTransaction(transaction, place), run)).toBe(0);
        if (refused) throw new FormatError('BAD_FIELD', name);
        blockIndex = advanceDraftBlock(blockIndex, count, geometry);
        sequence = nextDraftSequence(sequence);
        found++;
      }
    };
    if (error === undefined) walk();
    else expect(walk).toThrow(FormatError);
    if (transactions !== undefined) expect(found).toBe(transactions);
  });
});
