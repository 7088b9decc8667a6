/**
 * Many microtransactions into the transactions of one commit.
 *
 * All transactions of a commit are committed by one write of the header's sector, so a crash keeps all of them or
 * none: what belongs together may be cut between them where a descriptor block ends. In a batch the same bytes
 * changed twice are logged once. Revokes come first, for they speak of earlier commits (what they end of this one is
 * left out of it), then copies, then writes, which win over copies to their place.
 */
import { PatchMap } from '@qcow2/block-device';
import {
  advanceDraftBlock,
  type DraftCopyChunk,
  type DraftDescriptor,
  type DraftRevokeRange,
  type DraftWriteChunk,
  encodeDraftTransaction,
  nextDraftSequence,
} from '@qcow2/codec/journal/draft-2013';
import {
  draftCopyChunkLayout,
  draftDescriptorHeadLayout,
  draftJournal,
  draftRevokeRangeLayout,
  draftWriteChunkLayout,
  hostOffset,
} from '@qcow2/spec';
import type { HostRange, Microtransaction } from '../microtransaction.ts';
import type { RingGeometry } from '../ring.ts';
import { blockIndexAt } from './area.ts';
import { CopyList } from './copy-list.ts';

const headBytes = draftDescriptorHeadLayout.sizeBytes;
const writeBytes = draftWriteChunkLayout.sizeBytes;
/** The size of a descriptor has 16 bits. */
const maxDescriptorBytes = 0xffff;
/** Transactions of half a ring that end because they have a quarter of it, and the last one. */
const transactionsBySize = 4;

/** What a microtransaction takes in a ring at most, in blocks, less the descriptor blocks. */
export function dataBlocksBound(transaction: Microtransaction, blockBytes: number): number {
  // A revoke or a copy may cut a run of the same batch in two.
  let blocks = (transaction.revokes?.length ?? 0) + (transaction.copies?.length ?? 0);
  for (const { bytes } of transaction.hostWrites ?? []) blocks += Math.ceil(bytes.length / blockBytes);
  return blocks;
}

/** What its descriptors take at most, in bytes. */
export function descriptorBytesBound(transaction: Microtransaction): number {
  return (
    writeBytes * (transaction.hostWrites?.length ?? 0) +
    draftRevokeRangeLayout.sizeBytes * (transaction.revokes?.length ?? 0) +
    draftCopyChunkLayout.sizeBytes * (transaction.copies?.length ?? 0)
  );
}

/** Upper bound of the blocks that transactions with these take together. */
export function blocksBound(dataBlocks: number, descriptorBytes: number, blockBytes: number): number {
  // A block holds at least its room less three heads and one chunk that did not fit any more.
  const room = descriptorRoom(blockBytes) - 3 * headBytes - draftCopyChunkLayout.sizeBytes;
  return dataBlocks + Math.ceil(descriptorBytes / room) + transactionsBySize;
}

function descriptorRoom(blockBytes: number): number {
  return blockBytes - draftJournal.descriptorsOffset;
}

export interface DraftBatch {
  readonly writes: PatchMap;
  readonly copies: CopyList;
  readonly revokes: readonly HostRange[];
  /** Bytes of host writes before merging. */
  readonly submittedBytes: number;
}

/** The microtransactions, in order, as one. */
export function mergeMicrotransactions(transactions: readonly Microtransaction[]): DraftBatch {
  const writes = new PatchMap();
  const copies = new CopyList();
  const revokes: HostRange[] = [];
  let submittedBytes = 0;
  for (const transaction of transactions) {
    for (const range of transaction.revokes ?? []) {
      writes.delete(range.hostOffset, range.lengthBytes);
      copies.delete(range.hostOffset, range.lengthBytes);
      revokes.push(range);
    }
    for (const copy of transaction.copies ?? []) {
      writes.delete(copy.targetHostOffset, copy.lengthBytes);
      copies.add(copy);
    }
    for (const { hostOffset: at, bytes } of transaction.hostWrites ?? []) {
      copies.delete(at, bytes.length);
      writes.set(at, bytes);
      submittedBytes += bytes.length;
    }
  }
  return { writes, copies, revokes, submittedBytes };
}

export interface EncodedTransaction {
  readonly sequence: number;
  readonly bytes: Uint8Array;
  /** Bytes of metadata that its data blocks bring; the rest of them is padding. */
  readonly dataBytes: number;
}

/** The transactions of a batch, the first at a log offset and with a sequence, the others right behind. */
export function* encodeBatch(
  batch: DraftBatch,
  ring: RingGeometry,
  startLog: number,
  firstSequence: number,
): Generator<EncodedTransaction, void, undefined> {
  const ringBlocks = ring.lengthBytes / ring.blockBytes;
  let sequence = firstSequence;
  let at = startLog;
  let open = new OpenTransaction(ring, at);
  const close = (): EncodedTransaction => {
    const place = { blockBytes: ring.blockBytes, ringBlocks, blockIndex: blockIndexAt(ring, at) };
    const bytes = encodeDraftTransaction({ sequence, ...open.content() }, place);
    const done = { sequence, bytes, dataBytes: open.dataBytes };
    sequence = nextDraftSequence(sequence);
    at += bytes.length;
    open = new OpenTransaction(ring, at);
    return done;
  };
  // What does not fit the transaction that is open goes into the next one.
  for (const range of batch.revokes) {
    if (open.addRevoke(range)) continue;
    yield close();
    open.addRevoke(range);
  }
  for (const copy of batch.copies.all()) {
    if (open.addCopy(copy)) continue;
    yield close();
    open.addCopy(copy);
  }
  // A run is cut where the rest of a ring of few blocks would be too short for it.
  for (const run of batch.writes.runs(maxRunBytes(ring))) {
    if (open.addWrite(run)) continue;
    yield close();
    open.addWrite(run);
  }
  if (!open.isEmpty) yield close();
}

function maxRunBytes(ring: RingGeometry): number {
  return Math.max(ring.blockBytes, Math.floor(ring.lengthBytes / 8 / ring.blockBytes) * ring.blockBytes);
}

/** A transaction that is being filled. Each `add…` says whether there was room. */
class OpenTransaction {
  readonly #ring: RingGeometry;
  readonly #firstBlock: number;
  readonly #writes: DraftWriteChunk[] = [];
  readonly #copies: DraftCopyChunk[] = [];
  readonly #revokes: DraftRevokeRange[] = [];
  readonly #data: Uint8Array[] = [];
  #dataBlocks = 0;
  dataBytes = 0;

  constructor(ring: RingGeometry, startLog: number) {
    this.#ring = ring;
    this.#firstBlock = blockIndexAt(ring, startLog + ring.blockBytes);
  }

  get isEmpty(): boolean {
    return this.#writes.length + this.#copies.length + this.#revokes.length === 0;
  }

  addRevoke(range: HostRange): boolean {
    if (!this.#fits(this.#revokes.length, draftRevokeRangeLayout.sizeBytes)) return false;
    this.#revokes.push({ hostOffset: range.hostOffset, lengthBytes: range.lengthBytes });
    return true;
  }

  addCopy(copy: { targetHostOffset: number; sourceHostOffset: number; lengthBytes: number }): boolean {
    if (!this.#fits(this.#copies.length, draftCopyChunkLayout.sizeBytes)) return false;
    this.#copies.push({
      lengthBytes: copy.lengthBytes,
      targetHostOffset: hostOffset(copy.targetHostOffset),
      sourceHostOffset: hostOffset(copy.sourceHostOffset),
    });
    return true;
  }

  addWrite({ offset, bytes }: { offset: number; bytes: Uint8Array }): boolean {
    const { blockBytes, lengthBytes } = this.#ring;
    const ringBlocks = lengthBytes / blockBytes;
    const blocks = Math.ceil(bytes.length / blockBytes);
    const limit = ringBlocks < 32 ? ringBlocks - 2 : ringBlocks / 4;
    const tooLong = this.#dataBlocks > 0 && this.#dataBlocks + blocks > limit;
    if (tooLong || !this.#fits(this.#writes.length, writeBytes)) return false;
    const journalBlockIndex = advanceDraftBlock(this.#firstBlock, this.#dataBlocks, {
      blockBytes,
      ringBlocks,
    });
    this.#writes.push({ lengthBytes: bytes.length, hostOffset: hostOffset(offset), journalBlockIndex });
    const padded = new Uint8Array(blocks * blockBytes);
    padded.set(bytes);
    this.#data.push(padded);
    this.#dataBlocks += blocks;
    this.dataBytes += bytes.length;
    return true;
  }

  content(): { descriptors: DraftDescriptor[]; data: Uint8Array } {
    const descriptors: DraftDescriptor[] = [];
    if (this.#revokes.length > 0) descriptors.push({ type: 'revoke', ranges: this.#revokes });
    if (this.#copies.length > 0) descriptors.push({ type: 'copy-data', chunks: this.#copies });
    if (this.#writes.length > 0) descriptors.push({ type: 'write-data', chunks: this.#writes });
    const data = new Uint8Array(this.#dataBlocks * this.#ring.blockBytes);
    let at = 0;
    for (const piece of this.#data) {
      data.set(piece, at);
      at += piece.length;
    }
    return { descriptors, data };
  }

  /** Whether a descriptor block, and the descriptor that has `count` pieces, have room for one more. */
  #fits(count: number, pieceBytes: number): boolean {
    const used =
      this.#writes.length * writeBytes +
      this.#copies.length * draftCopyChunkLayout.sizeBytes +
      this.#revokes.length * draftRevokeRangeLayout.sizeBytes;
    // Three heads at most: one for each kind.
    const room = descriptorRoom(this.#ring.blockBytes) - 3 * headBytes;
    return used + pieceBytes <= room && headBytes + (count + 1) * pieceBytes <= maxDescriptorBytes;
  }
}
