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
  journalExtensionEntryLayout,
  journalExtensionLayout,
  journalV1Limits,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import { compileLayout } from '../layout-codec.ts';
import { badField, type FieldOrigin, isSafeRange, truncated, viewOf } from './fields.ts';

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

const headBytes = journalExtensionLayout.sizeBytes;
const entryBytes = journalExtensionEntryLayout.sizeBytes;
const head = compileLayout(journalExtensionLayout);
const entry = compileLayout(journalExtensionEntryLayout);

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
  const version = viewOf(data).getUint32(0);
  if (version !== journalBinding.version) {
    throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', 'the journal has a version that is not known', {
      feature: 'journal',
      field: 'version',
      value: version,
      clause: 'JRN-BIND-002',
      hostOffset: context.hostOffset,
    });
  }
  const count = head.decode(data, { hostOffset: context.hostOffset }).journalCount;
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
    journals.push(decodeEntry(data, headBytes + i * entryBytes, context));
  }
  checkTogether(journals, context);
  return { version, journals };
}

function decodeEntry(
  data: Uint8Array,
  at: number,
  context: FieldOrigin & { readonly clusterBytes: number },
): BoundJournal {
  const fields = entry.decode(data, { ...context, at });
  const { kind, flags, lengthBytes } = fields;
  if (fields.hostOffset === 0 || !isSafeRange(fields.hostOffset, lengthBytes)) {
    const why = 'a journal starts at a cluster other than the first';
    throw badField('hostOffset', fields.hostOffset, 'JRN-BIND-007', context, at + 8, why);
  }
  return {
    kind: kind === journalBinding.kindMain ? 'main' : 'other',
    flags,
    hostOffset: hostOffset(fields.hostOffset),
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

/**
 * The extension's data, a new buffer. The caller adds type and length.
 *
 * @throws FormatError BAD_FIELD where a value is out of its field's range.
 */
export function encodeJournalExtension(value: JournalExtension): Uint8Array {
  const { version, journals } = value;
  const bytes = new Uint8Array(headBytes + journals.length * entryBytes);
  head.encode({ version, journalCount: journals.length }, bytes);
  journals.forEach((journal, index) => {
    const kind = journal.kind === 'main' ? journalBinding.kindMain : journalBinding.kindOther;
    entry.encode({ ...journal, kind }, bytes, { at: headBytes + index * entryBytes });
  });
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
