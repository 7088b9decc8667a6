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

/** Pending copies, and bytes that were copied from pending writes, that recovery holds at most. */
const maxCopies = 65_536;
const maxCopiedBytes = 2 ** 22;
/** Pending bytes looked through to resolve copies, in all. */
const maxResolveSteps = 2 ** 32;

export class DraftEffects {
  readonly writes = new PatchMap();
  readonly copies = new CopyList();
  #copiedBytes = 0;
  #steps = 0;

  /** Lay the effects of a decoded transaction over what was gathered. @throws LIMIT_EXCEEDED */
  apply(transaction: DraftTransaction, place: DraftPlace & { readonly hostOffset: number }): void {
    // Revokes speak of earlier transactions only, wherever they stand in their own (JD13-DESC-007).
    for (const descriptor of transaction.descriptors) {
      if (descriptor.type !== 'revoke') continue;
      for (const range of descriptor.ranges) this.revoke(range.hostOffset, range.lengthBytes);
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

  /** Nothing that was gathered so far happens within the range. */
  revoke(hostOffset: number, lengthBytes: number): void {
    if (lengthBytes === 0) return;
    this.writes.delete(hostOffset, lengthBytes);
    this.copies.delete(hostOffset, lengthBytes);
  }

  /** Whether the transaction changes a place that something gathered is still to be copied from. */
  disturbs(transaction: DraftTransaction): boolean {
    if (this.copies.isEmpty) return false;
    return transaction.descriptors.some((descriptor) => {
      if (descriptor.type === 'write-data') {
        return descriptor.chunks.some((chunk) => this.copies.pins(chunk.hostOffset, chunk.lengthBytes));
      }
      if (descriptor.type !== 'copy-data') return false;
      return descriptor.chunks.some((chunk) => this.copies.pins(chunk.targetHostOffset, chunk.lengthBytes));
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
    for (const run of this.#runsWithin(source, lengthBytes, blockHostOffset)) {
      this.#copiedBytes += run.bytes.length;
      if (this.#copiedBytes > maxCopiedBytes) {
        throw tooMuch('copied bytes of pending writes', this.#copiedBytes, blockHostOffset);
      }
      written.push(run);
    }
    const copied = this.copies.within(source, lengthBytes);
    this.revoke(target, lengthBytes);
    this.copies.add({ targetHostOffset: target, sourceHostOffset: source, lengthBytes });
    for (const one of copied) this.copies.add({ ...one, targetHostOffset: one.targetHostOffset + shift });
    for (const { offset, bytes } of written) {
      this.copies.delete(offset + shift, bytes.length);
      this.writes.set(offset + shift, bytes);
    }
    if (this.copies.count > maxCopies) throw tooMuch('pending copies', this.copies.count, blockHostOffset);
  }

  /** Gathered writes within a range, cut to it; copies. */
  *#runsWithin(hostOffset: number, lengthBytes: number, blockHostOffset: number) {
    const end = hostOffset + lengthBytes;
    this.#steps += this.writes.setBytes;
    if (this.#steps > maxResolveSteps) throw tooMuch('steps to resolve copies', this.#steps, blockHostOffset);
    for (const { offset, bytes } of this.writes.runs()) {
      const from = Math.max(offset, hostOffset);
      const to = Math.min(offset + bytes.length, end);
      if (from < to) yield { offset: from, bytes: bytes.slice(from - offset, to - offset) };
    }
  }
}

function tooMuch(what: string, value: number, hostOffset: number): FormatError {
  return new FormatError('LIMIT_EXCEEDED', `the journal asks for too many ${what}`, {
    hostOffset,
    value,
    clause: 'JD13-DESC-012',
  });
}
