/**
 * The chain of committed transactions that are not synced: read in order, each whole and checked, or refused.
 *
 * The header says how many there are, so the chain has no end to be found: whatever can not be read before that
 * many is damage [JD13-RING-006], and what stands behind counts for nothing, however valid it looks.
 *
 * Nothing is written, and nothing is held but the ring reader's window and one transaction.
 */
import type { BlockDevice, Task } from '@qcow2/block-device';
import {
  type DraftDescriptor,
  type DraftPlace,
  type DraftTransaction,
  decodeDraftTransaction,
  draftReplayCount,
  nextDraftSequence,
  peekDraftBlock,
} from '@qcow2/codec/journal/draft-2013';
import { FormatError, hostOffset, journalV1Limits, Qcow2Error, UnsupportedFeatureError } from '@qcow2/spec';
import { damaged } from '../area.ts';
import { RingReader } from '../ring.ts';
import { blockIndexAt, type DraftArea } from './area.ts';
import { CopyList } from './copy-list.ts';

/** A committed transaction, and where it stands. */
export interface FoundTransaction {
  readonly transaction: DraftTransaction;
  readonly place: DraftPlace & { readonly hostOffset: number };
  /** Log offset of its descriptor block: bytes from block 1, without wrapping. */
  readonly startLog: number;
  readonly endLog: number;
}

export interface ChainEnds {
  readonly transactions: number;
  /** Log offset of the descriptor block of the last synced transaction; undefined where none was. */
  readonly syncedLog: number | undefined;
  /** The same for the last one of the chain. */
  readonly lastLog: number | undefined;
  /** Log offset behind the chain. */
  readonly endLog: number;
  readonly dataBytes: number;
}

/**
 * Go through the committed transactions behind the synced one. What the visitor has to do is done before the next.
 * @throws JOURNAL_DAMAGED for one that can not be read back; UNSUPPORTED_FEATURE for a descriptor that nobody
 *   defined [JD13-DESC-008]; what the visitor throws
 * @param refuse what is done about a transaction that must not be executed; who only looks may take note of it
 */
export function* walkDraftChain(
  device: BlockDevice,
  area: DraftArea,
  visit: (found: FoundTransaction) => Task<void> | undefined,
  refuse: (found: FoundTransaction, area: DraftArea, fileBytes: number) => void = refuseTransaction,
): Task<ChainEnds> {
  const { header, ring } = area;
  const reader = new RingReader(device, ring);
  const count = draftReplayCount(header);
  const start = yield* chainStart(reader, area, count > 0);
  let { endLog } = start;
  let usedBlocks = start.usedBlocks;
  let lastLog = start.syncedLog;
  let sequence = header.syncedSequence;
  let dataBytes = 0;
  for (let i = 0; i < count; i++) {
    sequence = nextDraftSequence(sequence);
    const found = yield* readTransaction(reader, area, sequence, endLog, usedBlocks);
    usedBlocks += (found.endLog - found.startLog) / ring.blockBytes;
    dataBytes += found.transaction.data.length;
    lastLog = found.startLog;
    endLog = found.endLog;
    refuse(found, area, device.sizeBytes);
    const work = visit(found);
    if (work !== undefined) yield* work;
  }
  return { transactions: count, syncedLog: start.syncedLog, lastLog, endLog, dataBytes };
}

/**
 * Where the chain begins: behind the synced transaction, of which only the length counts. Where nothing follows
 * and it can not be read, it begins at block 1.
 */
function* chainStart(
  reader: RingReader,
  area: DraftArea,
  needed: boolean,
): Task<{ syncedLog: number | undefined; endLog: number; usedBlocks: number }> {
  const { header, ring } = area;
  const nothing = { syncedLog: undefined, endLog: 0, usedBlocks: 0 };
  if (header.syncedIndex === 0) return nothing;
  const syncedLog = (header.syncedIndex - 1) * ring.blockBytes;
  const head = peekDraftBlock(yield* reader.read(syncedLog, ring.blockBytes));
  const ringBlocks = ring.lengthBytes / ring.blockBytes;
  if (head === undefined || head.sequence !== header.syncedSequence || head.dataBlockCount >= ringBlocks) {
    if (!needed) return nothing;
    const at = ring.hostOffset + syncedLog;
    throw damaged(at, `the synced transaction ${header.syncedSequence} can not be read`, 'JD13-RING-006');
  }
  const usedBlocks = 1 + head.dataBlockCount;
  return { syncedLog, endLog: syncedLog + usedBlocks * ring.blockBytes, usedBlocks };
}

/** The committed transaction expected at a log offset. @throws JOURNAL_DAMAGED */
function* readTransaction(
  reader: RingReader,
  area: DraftArea,
  sequence: number,
  startLog: number,
  usedBlocks: number,
): Task<FoundTransaction> {
  const { ring } = area;
  const { blockBytes } = ring;
  const ringBlocks = ring.lengthBytes / blockBytes;
  const at = ring.hostOffset + (startLog % ring.lengthBytes);
  const lost = (why: string, cause?: unknown): FormatError =>
    damaged(
      at,
      `the committed journal transaction ${sequence} can not be read: ${why}`,
      'JD13-RING-006',
      cause,
    );
  if (usedBlocks >= ringBlocks) throw lost('the ring ends before it');
  const head = peekDraftBlock(yield* reader.read(startLog, blockBytes));
  if (head === undefined) throw lost('no descriptor block stands there');
  if (head.sequence !== sequence) throw lost(`transaction ${head.sequence} stands there`);
  if (usedBlocks + 1 + head.dataBlockCount > ringBlocks) throw lost('it is longer than the rest of the ring');
  const lengthBytes = (1 + head.dataBlockCount) * blockBytes;
  // The reader's window is its own: what is handed on is a copy.
  const bytes = (yield* reader.read(startLog, lengthBytes)).slice();
  const blockIndex = blockIndexAt(ring, startLog);
  const place = { hostOffset: hostOffset(at), blockBytes, ringBlocks, blockIndex };
  try {
    const transaction = decodeDraftTransaction(bytes, place);
    return { transaction, place, startLog, endLog: startLog + lengthBytes };
  } catch (cause) {
    if (!(cause instanceof Qcow2Error)) throw cause;
    throw lost('it is not whole', cause);
  }
}

/** @throws UNSUPPORTED_FEATURE, JOURNAL_DAMAGED for what a committed transaction must not ask for */
export function refuseTransaction(
  { transaction, place }: FoundTransaction,
  area: DraftArea,
  fileBytes: number,
): void {
  const at = place.hostOffset;
  for (const descriptor of transaction.descriptors) {
    if (descriptor.type === 'unknown') throw unsupported(descriptor.number, transaction.sequence, at);
    for (const { hostOffset: target, lengthBytes } of writtenRanges(descriptor)) {
      // What was committed stood in a file that had grown for it, but for the rest of its last cluster.
      if (target + lengthBytes > fileBytes + 2 ** journalV1Limits.maxBlockSizeOrder) {
        const message = `journal transaction ${transaction.sequence} writes far behind the end of the file`;
        throw new FormatError('BAD_FIELD', message, {
          hostOffset: at,
          value: target,
          clause: 'JD13-DESC-015',
        });
      }
      const areaEnd = area.hostOffset + area.header.journalLengthBytes;
      if (target >= areaEnd || target + lengthBytes <= area.hostOffset) continue;
      const message = `journal transaction ${transaction.sequence} writes into the journal`;
      throw new FormatError('OVERLAP', message, { hostOffset: at, value: target, clause: 'JD13-DESC-010' });
    }
  }
  refuseChangedSources(transaction, at);
}

function unsupported(number: number, sequence: number, at: number): UnsupportedFeatureError {
  const names = new Map([
    [4, 'dedup hash insertion (type 4)'],
    [5, 'dedup hash deletion (type 5)'],
  ]);
  const name = names.get(number) ?? `type ${number}`;
  return new UnsupportedFeatureError(
    'UNSUPPORTED_FEATURE',
    `journal transaction ${sequence} holds a descriptor that is not supported: ${name}`,
    { feature: `journal descriptor ${name}`, hostOffset: at, clause: 'JD13-DESC-008' },
  );
}

/** The ranges that a descriptor writes or copies to. */
function writtenRanges(descriptor: DraftDescriptor): Range[] {
  if (descriptor.type === 'write-data') return descriptor.chunks.map(rangeOf).filter(isRange);
  if (descriptor.type !== 'copy-data') return [];
  return descriptor.chunks
    .map(({ targetHostOffset, lengthBytes }) => ({ hostOffset: targetHostOffset, lengthBytes }))
    .filter(isRange);
}

interface Range {
  readonly hostOffset: number;
  readonly lengthBytes: number;
}

const rangeOf = ({ hostOffset, lengthBytes }: Range): Range => ({ hostOffset, lengthBytes });
const isRange = ({ lengthBytes }: Range): boolean => lengthBytes > 0;

/**
 * A transaction that changes what one of its copies has read means one thing when run once, and another when run
 * again. What it wrote itself before the copy it writes again, too.
 */
function refuseChangedSources(transaction: DraftTransaction, at: number): void {
  if (!transaction.descriptors.some(({ type }) => type === 'copy-data')) return;
  // Sets of ranges, as copies of places to themselves.
  const written = new CopyList();
  const read = new CopyList();
  const change = ({ hostOffset: target, lengthBytes }: Range): void => {
    if (read.within(target, lengthBytes).length > 0) {
      const message = `journal transaction ${transaction.sequence} changes what it copies from`;
      throw new FormatError('OVERLAP', message, { hostOffset: at, value: target, clause: 'JD13-DESC-011' });
    }
    written.add({ targetHostOffset: target, sourceHostOffset: target, lengthBytes });
  };
  for (const descriptor of transaction.descriptors) {
    if (descriptor.type === 'write-data') for (const chunk of descriptor.chunks) change(chunk);
    if (descriptor.type !== 'copy-data') continue;
    for (const { sourceHostOffset, targetHostOffset, lengthBytes } of descriptor.chunks) {
      const fromDevice = new CopyList();
      fromDevice.add({ targetHostOffset: sourceHostOffset, sourceHostOffset, lengthBytes });
      for (const own of written.within(sourceHostOffset, lengthBytes)) {
        fromDevice.delete(own.targetHostOffset, own.lengthBytes);
      }
      read.merge(fromDevice);
      change({ hostOffset: targetHostOffset, lengthBytes });
    }
  }
}
