/**
 * Many microtransactions into one record: the longest run from the head of the queue that fits, its host
 * writes merged so that the same bytes are logged once.
 *
 * Order in the record (JRN-COMMIT-007): revokes, inline writes, copies and fills, settled ranges, intents; guest writes
 * follow. Of several words on one intent the last is logged. A revoke kills earlier bytes, copies and fills of its
 * range in this batch too, and later ones stand: as if each microtransaction had been logged alone.
 */
import { PatchMap } from '@qcow2/block-device';
import type { JournalDescriptor } from '@qcow2/codec/journal/v1';
import { hostOffset } from '@qcow2/spec';
import { BatchedCopies } from './batched-copies.ts';
import { descriptorBytesBound, type Microtransaction } from './microtransaction.ts';

export interface Batch {
  /** How many of the queue it takes. */
  readonly count: number;
  readonly descriptors: JournalDescriptor[];
  readonly hostWrites: PatchMap;
  /** Upper bound of the record's bytes so far, header included. */
  readonly boundBytes: number;
  /** Bytes of host writes before merging. */
  readonly submittedBytes: number;
}

const headerBytes = 80;
/** Inline writes stay below what a descriptor can hold (JRN-DESC). */
const maxInlineBytes = 32768;

export function collectBatch(
  queue: readonly { readonly transaction: Microtransaction; readonly throughSequence: number }[],
  eligible: number,
  maxBytes: number,
): Batch {
  const hostWrites = new PatchMap();
  // The usual flush: a guest write and nothing else.
  if (eligible === 0)
    return { count: 0, descriptors: [], hostWrites, boundBytes: headerBytes, submittedBytes: 0 };
  const revokes: JournalDescriptor[] = [];
  const settled: JournalDescriptor[] = [];
  const intents = new Map<number, JournalDescriptor>();
  const copies = new BatchedCopies();
  let boundBytes = headerBytes;
  let submittedBytes = 0;
  let count = 0;
  for (; count < eligible; count++) {
    const { transaction, throughSequence } = queue[count]!;
    const bytes = descriptorBytesBound(transaction);
    // One that is too large by its bound may fit when its own writes are merged: what is counted in a row is.
    if (count > 0 && boundBytes + bytes > maxBytes) break;
    boundBytes += bytes;
    for (const range of transaction.revokes ?? []) {
      hostWrites.delete(range.hostOffset, range.lengthBytes);
      copies.revoke(range.hostOffset, range.lengthBytes);
      revokes.push({ type: 'revoke', ...range });
    }
    copies.addOf(transaction);
    for (const write of transaction.hostWrites ?? []) {
      hostWrites.set(write.hostOffset, write.bytes);
      submittedBytes += write.bytes.length;
    }
    for (const range of transaction.settled ?? []) {
      settled.push({ type: 'guest-settled', ...range, throughSequence });
    }
    noteIntents(transaction, intents);
  }
  const inline: JournalDescriptor[] = [];
  for (const { offset, bytes } of hostWrites.runs(maxInlineBytes)) {
    inline.push({ type: 'inline-write', hostOffset: hostOffset(offset), bytes });
  }
  const descriptors = [...revokes, ...inline, ...copies.descriptors, ...settled, ...intents.values()];
  return { count, descriptors, hostWrites, boundBytes, submittedBytes };
}

/** Ids grow, and a map keeps the order in which they came first: so does the record [JRN-INTENT-003]. */
function noteIntents({ intent, intentDone }: Microtransaction, into: Map<number, JournalDescriptor>): void {
  if (intent !== undefined) {
    const { id, kind, body } = intent;
    into.set(id, { type: 'intent', intentKind: kind, intentId: id, body });
  }
  if (intentDone !== undefined) into.set(intentDone, { type: 'intent-done', intentId: intentDone });
}
