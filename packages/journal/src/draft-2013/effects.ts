/**
 * What a run of committed transactions does to the image, gathered: bytes for places, and copies from places as
 * they stood before the run.
 *
 * A transaction may copy what an earlier one wrote or copied: then the copy is resolved here, to the bytes or to
 * the first source, so that a source is always a place on the device that the run has not touched before it was
 * read. Resolving takes memory and time that a log of a few blocks could drive up: both are bounded.
 */
import { PatchMap } from '@qcow2/block-device';
import type { DraftTransaction } from '@qcow2/codec/journal/draft-2013';
import { type DraftPlace, draftChunkBytes } from '@qcow2/codec/journal/draft-2013';
import { FormatError } from '@qcow2/spec';
import { CopyList, type PendingCopy } from './copy-list.ts';
import { RangeSet } from './range-set.ts';

/** Pending pieces of copies, and bytes that were copied from pending writes, that recovery holds at most. */
const maxCopies = 65_536;
const maxCopiedBytes = 2 ** 22;
/** Pieces of pending writes looked through to resolve copies and to carry out revokes, in all. */
const maxResolveSteps = 2 ** 30;
/** As in `PatchMap`. */
const stepBytes = 32;

/** What one recovery may spend on resolving, however many runs it is cut into. */
export class ResolveBudget {
  #steps = 0;

  /** @throws LIMIT_EXCEEDED */
  spend(steps: number, blockHostOffset: number): void {
    this.#steps += steps;
    if (this.#steps > maxResolveSteps) throw tooMuch('steps to resolve copies', this.#steps, blockHostOffset);
  }
}

export class DraftEffects {
  readonly writes = new PatchMap();
  readonly copies = new CopyList();
  /** What is copied from, and what was to be until it was revoked or replaced. */
  readonly #sources = new RangeSet();
  readonly #budget: ResolveBudget;
  #copiedBytes = 0;

  constructor(budget = new ResolveBudget()) {
    this.#budget = budget;
  }

  /** Lay the effects of a decoded transaction over what was gathered. @throws LIMIT_EXCEEDED */
  apply(transaction: DraftTransaction, place: DraftPlace & { readonly hostOffset: number }): void {
    // Revokes speak of earlier transactions only, wherever they stand in their own (JD13-DESC-007).
    for (const descriptor of transaction.descriptors) {
      if (descriptor.type !== 'revoke') continue;
      for (const range of descriptor.ranges) {
        this.revoke(range.hostOffset, range.lengthBytes, place.hostOffset);
      }
    }
    for (const descriptor of transaction.descriptors) {
      if (descriptor.type === 'write-data') {
        for (const chunk of descriptor.chunks) {
          this.copies.delete(chunk.hostOffset, chunk.lengthBytes);
          this.writes.set(chunk.hostOffset, draftChunkBytes(transaction, chunk, place));
        }
      } else if (descriptor.type === 'copy-data') {
        for (const chunk of descriptor.chunks) this.#copy(chunk, place.hostOffset);
      }
    }
  }

  /**
   * Nothing that was gathered so far happens within the range.
   * @param blockHostOffset where the transaction stands that says so, for errors
   * @throws LIMIT_EXCEEDED
   */
  revoke(hostOffset: number, lengthBytes: number, blockHostOffset: number): void {
    if (lengthBytes === 0) return;
    this.#budget.spend(this.#stepsWithin(lengthBytes), blockHostOffset);
    this.writes.delete(hostOffset, lengthBytes);
    this.copies.delete(hostOffset, lengthBytes);
  }

  /**
   * Whether the transaction changes a place that something gathered is still to be copied from. True as well where it was and
   * is not any more: what is gathered is then executed earlier than it had to be.
   */
  disturbs(transaction: DraftTransaction): boolean {
    if (this.copies.isEmpty) return false;
    return transaction.descriptors.some((descriptor) => {
      if (descriptor.type === 'write-data') {
        return descriptor.chunks.some((chunk) => this.#sources.touches(chunk.hostOffset, chunk.lengthBytes));
      }
      if (descriptor.type !== 'copy-data') return false;
      return descriptor.chunks.some((chunk) =>
        this.#sources.touches(chunk.targetHostOffset, chunk.lengthBytes),
      );
    });
  }

  /** Behind the last byte that is written or copied to. */
  get endOffset(): number {
    let end = 0;
    for (const { offset, bytes } of this.writes.runs()) end = Math.max(end, offset + bytes.length);
    const last = this.copies.all().at(-1);
    return last === undefined ? end : Math.max(end, last.targetHostOffset + last.lengthBytes);
  }

  #copy(copy: PendingCopy, blockHostOffset: number): void {
    const { targetHostOffset: target, sourceHostOffset: source, lengthBytes } = copy;
    if (lengthBytes === 0) return;
    const shift = target - source;
    const written: { offset: number; bytes: Uint8Array }[] = [];
    this.#budget.spend(this.#stepsWithin(lengthBytes), blockHostOffset);
    for (const run of this.writes.runsWithin(source, lengthBytes)) {
      this.#copiedBytes += run.bytes.length;
      if (this.#copiedBytes > maxCopiedBytes) {
        throw tooMuch('copied bytes of pending writes', this.#copiedBytes, blockHostOffset);
      }
      written.push({ offset: run.offset, bytes: run.bytes.slice() });
    }
    const copied = this.copies.within(source, lengthBytes);
    this.revoke(target, lengthBytes, blockHostOffset);
    this.#addCopy({ targetHostOffset: target, sourceHostOffset: source, lengthBytes });
    for (const one of copied) this.#addCopy({ ...one, targetHostOffset: one.targetHostOffset + shift });
    for (const { offset, bytes } of written) {
      this.copies.delete(offset + shift, bytes.length);
      this.writes.set(offset + shift, bytes);
    }
    if (this.copies.count > maxCopies) throw tooMuch('pending copies', this.copies.count, blockHostOffset);
  }

  #addCopy(copy: PendingCopy): void {
    this.copies.add(copy);
    this.#sources.add(copy.sourceHostOffset, copy.lengthBytes);
  }

  /** What looking through the pending writes of a range takes. */
  #stepsWithin(lengthBytes: number): number {
    return Math.min(Math.ceil(lengthBytes / stepBytes) + 1, this.writes.pieceCount);
  }
}

function tooMuch(what: string, value: number, hostOffset: number): FormatError {
  return new FormatError('LIMIT_EXCEEDED', `the journal asks for too many ${what}`, {
    hostOffset,
    value,
    clause: 'JD13-DESC-012',
  });
}
