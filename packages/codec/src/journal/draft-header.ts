/**
 * The journal header of the profile draft-2013 (JD13-HDR-…), and the arithmetic of its ring and of its 32-bit
 * sequences (JD13-RING-…).
 *
 * Block indices count as the draft counts: 0 is the header, the ring has 1 to `ringBlocks`.
 */
import { draftJournalHeaderLayout, FormatError } from '@qcow2/spec';
import { compileLayout } from '../layout-codec.ts';
import { draftChecksum } from './draft-checksum.ts';
import { badField, type FieldOrigin, truncated, viewOf } from './fields.ts';

export interface DraftJournalHeader {
  /** Header block included. */
  readonly journalLengthBytes: number;
  readonly blockSizeOrder: number;
  /** Block index of the descriptor block of the last synced transaction; 0 where none was synced. */
  readonly syncedIndex: number;
  readonly syncedSequence: number;
  readonly committedSequence: number;
}

export interface DraftGeometry {
  readonly blockBytes: number;
  /** Blocks behind the header. */
  readonly ringBlocks: number;
}

const layoutCodec = compileLayout(draftJournalHeaderLayout);
const fixedBytes = draftJournalHeaderLayout.sizeBytes;
const checksumAt = 28;
const magic = Uint8Array.from([0x71, 0x6a, 0x6f, 0x75, 0x72, 0x6e, 0x61, 0x6c]); // qjournal

/** Whether the draft's magic stands here: what tells its images from others (JD13-BIND-004). Never throws. */
export function isDraftHeader(bytes: Uint8Array): boolean {
  return magic.every((byte, i) => bytes[i] === byte);
}

/** Block size and ring of a header. */
export function draftGeometry(header: DraftJournalHeader): DraftGeometry {
  const blockBytes = 2 ** header.blockSizeOrder;
  return { blockBytes, ringBlocks: Math.floor(header.journalLengthBytes / blockBytes) - 1 };
}

/**
 * The header in the block at the start of `bytes`, which must hold that block as a whole.
 *
 * @throws FormatError BAD_MAGIC, TRUNCATED, BAD_CHECKSUM, BAD_FIELD, RESERVED_SET.
 */
export function decodeDraftHeader(
  bytes: Uint8Array,
  context: FieldOrigin & { readonly clusterBytes: number },
): DraftJournalHeader {
  if (bytes.length < fixedBytes) throw truncated('the journal header', fixedBytes, 'JD13-HDR-001', context);
  if (!isDraftHeader(bytes)) {
    throw new FormatError('BAD_MAGIC', 'no journal of the draft begins here', {
      field: 'magic',
      value: viewOf(bytes).getBigUint64(0),
      clause: 'JD13-HDR-002',
      hostOffset: context.hostOffset,
    });
  }
  const fields = layoutCodec.decode(bytes, { hostOffset: context.hostOffset });
  const { checksum, journalLengthBytes, blockSizeOrder, syncedIndex, syncedSequence, committedSequence } =
    fields;
  const header = { journalLengthBytes, blockSizeOrder, syncedIndex, syncedSequence, committedSequence };
  const { blockBytes, ringBlocks } = draftGeometry(header);
  if (blockBytes > context.clusterBytes) {
    const why = 'a journal block is not larger than a cluster';
    throw badField('blockSizeOrder', blockSizeOrder, 'JD13-HDR-004', context, 12, why);
  }
  if (bytes.length < blockBytes) throw truncated('the journal header', blockBytes, 'JD13-HDR-001', context);
  if (checksum !== draftChecksum([bytes.subarray(0, blockBytes)], checksumAt)) {
    throw new FormatError('BAD_CHECKSUM', 'the journal header does not match its checksum', {
      field: 'checksum',
      value: checksum,
      clause: 'JD13-HDR-008',
      hostOffset: context.hostOffset + checksumAt,
    });
  }
  if (ringBlocks < 1) {
    const why = 'a journal has a block behind its header';
    throw badField('journalLengthBytes', journalLengthBytes, 'JD13-HDR-003', context, 8, why);
  }
  if (syncedIndex > ringBlocks) {
    const why = 'the synced transaction stands behind the ring';
    throw badField('syncedIndex', syncedIndex, 'JD13-HDR-005', context, 16, why);
  }
  return header;
}

/**
 * The header's whole block, checksum included, in a new buffer.
 *
 * @throws FormatError BAD_FIELD where a value is out of its field's range.
 */
export function encodeDraftHeader(header: DraftJournalHeader): Uint8Array {
  const fields = { ...header, magic, checksum: 0 };
  layoutCodec.validate(fields);
  const block = layoutCodec.encode(fields, new Uint8Array(draftGeometry(header).blockBytes));
  viewOf(block).setUint32(checksumAt, draftChecksum([block], checksumAt));
  return block;
}

/** The sequence after `sequence`; after 2^32 - 1 comes 0 (JD13-RING-004). */
export function nextDraftSequence(sequence: number): number {
  return (sequence + 1) >>> 0;
}

/** How many transactions are to be replayed: those after the synced one up to the committed one. */
export function draftReplayCount(header: DraftJournalHeader): number {
  return (header.committedSequence - header.syncedSequence) >>> 0;
}

/** The block `count` blocks behind `blockIndex` in the ring (JD13-RING-001). */
export function advanceDraftBlock(blockIndex: number, count: number, geometry: DraftGeometry): number {
  return ((blockIndex - 1 + count) % geometry.ringBlocks) + 1;
}
