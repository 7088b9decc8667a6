/**
 * Recovery of the profile draft-2013: read what was committed and not synced, into memory for a reader, into the
 * image for a writer.
 *
 * Crash argument of `replayDraftLog`. Before anything is written in place, the header is written again and flushed:
 * a header that can be read may be one that storage never got, and what it commits must not be executed in part
 * and then be forgotten [JD13-TXN-005]. Executing a transaction again writes the same bytes to the same places,
 * unless it changes what an earlier one copies from: before such a one everything up to it is executed, flushed,
 * and retired by a header that is flushed too. So a crash at any point finds a log from which the same follows.
 * What a later transaction revokes is never executed: its place may hold newer bytes that no log knows.
 */
import { type BlockDevice, readPadded, type Task, wait } from '@qcow2/block-device';
import { blockIndexAt, type DraftArea, withHeader, writeDraftHeader } from './area.ts';
import { type FoundTransaction, walkDraftChain } from './chain.ts';
import type { PendingCopy } from './copy-list.ts';
import { DraftEffects, ResolveBudget } from './effects.ts';

export interface RecoveredDraftLog {
  readonly area: DraftArea;
  /** What the committed transactions do, taken together, to the image as it stands on the device. */
  readonly effects: DraftEffects;
  readonly transactions: number;
  readonly dataBytes: number;
  /** Host offset of the first block with a copy; undefined where there is none. */
  readonly copiesAt: number | undefined;
}

const pieceBytes = 1 << 20;

/**
 * Read the committed transactions of a dirty image. Nothing is written.
 * @throws JOURNAL_DAMAGED, UNSUPPORTED_FEATURE, LIMIT_EXCEEDED, READ_FAILED
 */
export function* recoverDraftLog(device: BlockDevice, area: DraftArea): Task<RecoveredDraftLog> {
  const effects = new DraftEffects();
  let copiesAt: number | undefined;
  const ends = yield* walkDraftChain(device, area, ({ transaction, place }) => {
    effects.apply(transaction, place);
    if (transaction.descriptors.some(({ type }) => type === 'copy-data')) copiesAt ??= place.hostOffset;
    return undefined;
  });
  return { area, effects, transactions: ends.transactions, dataBytes: ends.dataBytes, copiesAt };
}

/**
 * Execute the committed transactions in place. On return all of it is durable, and the header, durable too, has
 * nothing left to replay.
 * @returns the area as it stands then
 */
export function* replayDraftLog(device: BlockDevice, area: DraftArea): Task<DraftArea> {
  yield* writeDraftHeader(device, area);
  yield* wait(device.flush({ event: 'journal_flush' }));
  const revokes = yield* revokesOf(device, area);
  let now = area;
  const budget = new ResolveBudget();
  let effects = new DraftEffects(budget);
  let last: FoundTransaction | undefined;
  const executeUpTo = function* (found: FoundTransaction): Task<void> {
    const blockHostOffset = found.place.hostOffset;
    budget.spend(revokes.length, blockHostOffset);
    for (const { index, hostOffset, lengthBytes } of revokes) {
      if (index >= visited) effects.revoke(hostOffset, lengthBytes, blockHostOffset);
    }
    yield* execute(device, effects);
    yield* wait(device.flush({ event: 'flush_data' }));
    now = withHeader(now, {
      ...now.header,
      syncedIndex: blockIndexAt(now.ring, found.startLog),
      syncedSequence: found.transaction.sequence,
    });
    yield* writeDraftHeader(device, now);
    yield* wait(device.flush({ event: 'journal_flush' }));
    effects = new DraftEffects(budget);
  };
  let visited = 0;
  yield* walkDraftChain(device, area, function* (found) {
    if (last !== undefined && effects.disturbs(found.transaction)) yield* executeUpTo(last);
    effects.apply(found.transaction, found.place);
    last = found;
    visited++;
  });
  if (last !== undefined) yield* executeUpTo(last);
  return now;
}

/** All revokes of the log, each with the index of its transaction. */
function* revokesOf(device: BlockDevice, area: DraftArea) {
  const revokes: { index: number; hostOffset: number; lengthBytes: number }[] = [];
  let index = 0;
  yield* walkDraftChain(device, area, ({ transaction }) => {
    for (const descriptor of transaction.descriptors) {
      if (descriptor.type !== 'revoke') continue;
      for (const { hostOffset, lengthBytes } of descriptor.ranges)
        revokes.push({ index, hostOffset, lengthBytes });
    }
    index++;
    return undefined;
  });
  return revokes;
}

function* execute(device: BlockDevice, { writes, copies }: DraftEffects): Task<void> {
  for (const copy of copies.all()) yield* copyInPlace(device, copy);
  for (const { offset, bytes } of writes.runs()) {
    yield* wait(device.write(offset, bytes, { event: 'journal_write_back' }));
  }
}

/** Make a copy within the image, piece by piece. Not durable on return. */
function* copyInPlace(
  device: BlockDevice,
  { targetHostOffset, sourceHostOffset, lengthBytes }: PendingCopy,
): Task<void> {
  for (let done = 0; done < lengthBytes; ) {
    const piece = new Uint8Array(Math.min(lengthBytes - done, pieceBytes));
    yield* wait(readPadded(device, sourceHostOffset + done, piece, { event: 'journal_copy' }));
    yield* wait(device.write(targetHostOffset + done, piece, { event: 'journal_copy' }));
    done += piece.length;
  }
}
