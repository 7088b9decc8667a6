/**
 * How an image names its journals: the header extension `QJNL`, and what an area's length and block size
 * say about where its slots and its ring stand (JRN-BIND-…, JRN-AREA-…).
 */
import {
  FormatError,
  type HostOffset,
  hostOffset,
  InvariantError,
  journalBinding,
  journalV1Limits,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import { badField, type FieldOrigin, isSafeRange, readU64, truncated, viewOf, writeU64 } from './fields.ts';

/** The main journal orders everything; others serve single features (JRN-BIND-005). */
export type JournalKind = 'main' | 'other';

/** One journal that an image names: a contiguous run of whole clusters. */
export interface BoundJournal {
  readonly kind: JournalKind;
  readonly flags: number;
  readonly hostOffset: HostOffset;
  readonly lengthBytes: number;
}

export interface JournalExtension {
  readonly version: number;
  readonly journals: readonly BoundJournal[];
}

/** Where the parts of an area stand, in bytes from its start. */
export interface JournalGeometry {
  /** Slot 0 stands at 0, slot 1 here. */
  readonly slotStrideBytes: number;
  readonly ringStart: number;
  /** A multiple of the block size; what is left at the area's end is not used. */
  readonly ringBytes: number;
}

const headBytes = 8;
const entryBytes = 24;

/**
 * The value of the header extension `QJNL` (its data, without type and length).
 *
 * @throws UnsupportedFeatureError UNSUPPORTED_FEATURE where the version is not 1 (JRN-BIND-002).
 * @throws FormatError TRUNCATED, BAD_FIELD, BAD_ALIGNMENT, OFFSET_TOO_LARGE, OVERLAP.
 */
export function decodeJournalExtension(
  data: Uint8Array,
  context: FieldOrigin & { readonly clusterBytes: number },
): JournalExtension {
  if (data.length < headBytes) throw truncated('the journal extension', headBytes, 'JRN-BIND-001', context);
  const view = viewOf(data);
  const version = view.getUint32(0);
  if (version !== journalBinding.version) {
    throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', 'the journal has a version that is not known', {
      feature: 'journal',
      field: 'version',
      value: version,
      clause: 'JRN-BIND-002',
      hostOffset: context.hostOffset,
    });
  }
  const count = view.getUint32(4);
  if (count < 1 || count > journalBinding.maxJournals) {
    throw badField('journalCount', count, 'JRN-BIND-003', context, 4, 'an image names 1 to 8 journals');
  }
  const neededBytes = headBytes + count * entryBytes;
  if (data.length < neededBytes) {
    throw truncated('the journal extension', neededBytes, 'JRN-BIND-004', context);
  }
  if (data.length > neededBytes) {
    throw new FormatError('BAD_FIELD', 'the journal extension is longer than its entries', {
      clause: 'JRN-BIND-004',
      hostOffset: context.hostOffset,
      lengthBytes: data.length,
    });
  }
  const journals: BoundJournal[] = [];
  for (let i = 0; i < count; i++) {
    journals.push(decodeEntry(view, headBytes + i * entryBytes, context));
  }
  checkTogether(journals, context);
  return { version, journals };
}

function decodeEntry(
  view: DataView,
  at: number,
  context: FieldOrigin & { readonly clusterBytes: number },
): BoundJournal {
  const kind = view.getUint32(at);
  if (kind !== journalBinding.kindMain && kind !== journalBinding.kindOther) {
    throw badField('kind', kind, 'JRN-BIND-005', context, at, 'a journal is main (1) or other (2)');
  }
  const flags = view.getUint32(at + 4);
  if (flags !== 0)
    throw badField('flags', flags, 'JRN-BIND-006', context, at + 4, 'no journal flag is defined');
  const start = readU64(view, at + 8, 'hostOffset', 'JRN-BIND-007', context);
  if (start === 0 || start % context.clusterBytes !== 0) {
    throw new FormatError('BAD_ALIGNMENT', 'a journal starts at a cluster other than the first', {
      field: 'hostOffset',
      value: start,
      clause: 'JRN-BIND-007',
      hostOffset: context.hostOffset + at + 8,
    });
  }
  const lengthBytes = readU64(view, at + 16, 'lengthBytes', 'JRN-BIND-008', context);
  if (lengthBytes % context.clusterBytes !== 0) {
    throw new FormatError('BAD_ALIGNMENT', 'a journal takes whole clusters', {
      field: 'lengthBytes',
      value: lengthBytes,
      clause: 'JRN-BIND-008',
      hostOffset: context.hostOffset + at + 16,
    });
  }
  if (
    lengthBytes < journalV1Limits.minAreaBytes ||
    lengthBytes > journalV1Limits.maxAreaBytes ||
    !isSafeRange(start, lengthBytes)
  ) {
    const why = 'a journal is 64 KiB to 1 GiB long';
    throw badField('lengthBytes', lengthBytes, 'JRN-BIND-008', context, at + 16, why);
  }
  return {
    kind: kind === journalBinding.kindMain ? 'main' : 'other',
    flags,
    hostOffset: hostOffset(start),
    lengthBytes,
  };
}

function checkTogether(journals: readonly BoundJournal[], origin: FieldOrigin): void {
  const mains = journals.filter((journal) => journal.kind === 'main').length;
  if (mains !== 1) {
    throw badField('kind', mains, 'JRN-BIND-010', origin, headBytes, 'an image has one main journal');
  }
  const inOrder = [...journals].sort((a, b) => a.hostOffset - b.hostOffset);
  for (let i = 1; i < inOrder.length; i++) {
    const before = inOrder[i - 1] as BoundJournal;
    const journal = inOrder[i] as BoundJournal;
    if (before.hostOffset + before.lengthBytes > journal.hostOffset) {
      throw new FormatError('OVERLAP', 'two journals overlap', {
        clause: 'JRN-BIND-011',
        hostOffset: journal.hostOffset,
      });
    }
  }
}

/** The extension's data, a new buffer. The caller adds type and length. */
export function encodeJournalExtension(value: JournalExtension): Uint8Array {
  const bytes = new Uint8Array(headBytes + value.journals.length * entryBytes);
  const view = viewOf(bytes);
  view.setUint32(0, value.version);
  view.setUint32(4, value.journals.length);
  let at = headBytes;
  for (const journal of value.journals) {
    view.setUint32(at, journal.kind === 'main' ? journalBinding.kindMain : journalBinding.kindOther);
    view.setUint32(at + 4, journal.flags);
    writeU64(view, at + 8, journal.hostOffset);
    writeU64(view, at + 16, journal.lengthBytes);
    at += entryBytes;
  }
  return bytes;
}

/**
 * Where slots and ring of an area of `lengthBytes` stand with blocks of `blockBytes` (JRN-AREA-001).
 *
 * The ring may come out shorter than a journal needs; `isUsableGeometry` tells.
 */
export function journalGeometry(lengthBytes: number, blockBytes: number): JournalGeometry {
  if (!(blockBytes >= 512) || (blockBytes & (blockBytes - 1)) !== 0) {
    throw new InvariantError('a journal block is a power of two of at least 512 bytes', {
      value: blockBytes,
    });
  }
  const slotStrideBytes = Math.max(blockBytes, journalV1Limits.minSlotStrideBytes);
  const ringStart = 2 * slotStrideBytes;
  const ringBytes = Math.max(0, Math.floor((lengthBytes - ringStart) / blockBytes) * blockBytes);
  return { slotStrideBytes, ringStart, ringBytes };
}

/** Whether the ring holds at least eight blocks (JRN-AREA-003). */
export function isUsableGeometry(geometry: JournalGeometry, blockBytes: number): boolean {
  return geometry.ringBytes >= journalV1Limits.minRingBlocks * blockBytes;
}

/** The longest record that a ring takes, in blocks: a quarter of it, and at most 16 MiB (JRN-REC-019). */
export function maxRecordBlocks(ringBytes: number, blockBytes: number): number {
  const ringShare = Math.floor(ringBytes / journalV1Limits.maxRecordRingFraction / blockBytes);
  return Math.min(ringShare, Math.floor(journalV1Limits.maxRecordBytes / blockBytes));
}
