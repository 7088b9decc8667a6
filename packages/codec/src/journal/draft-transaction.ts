/**
 * Transactions of the profile draft-2013: a descriptor block and its data blocks (JD13-BLK-…, JD13-DESC-…).
 *
 * A transaction is handled in one piece, descriptor block first; who reads one that wraps lays it out so. The
 * indices in its chunks stay those of the ring.
 */
import {
  draftCopyChunkLayout,
  draftDescriptorBlockLayout,
  draftJournal,
  draftRevokeRangeLayout,
  draftWriteChunkLayout,
  FormatError,
  type HostOffset,
  hostOffset,
  InvariantError,
} from '@qcow2/spec';
import { compileLayout } from '../layout-codec.ts';
import { draftChecksum } from './draft-checksum.ts';
import { advanceDraftBlock, type DraftGeometry } from './draft-header.ts';
import { badField, type FieldOrigin, isSafeRange, truncated, viewOf } from './fields.ts';

export interface DraftWriteChunk {
  readonly lengthBytes: number;
  readonly hostOffset: HostOffset;
  /** Journal block in which the bytes begin. */
  readonly journalBlockIndex: number;
}

export interface DraftCopyChunk {
  readonly lengthBytes: number;
  readonly targetHostOffset: HostOffset;
  readonly sourceHostOffset: HostOffset;
}

export interface DraftRevokeRange {
  readonly lengthBytes: number;
  readonly hostOffset: HostOffset;
}

export type DraftDescriptor =
  | { readonly type: 'no-op'; readonly body: Uint8Array }
  | { readonly type: 'write-data'; readonly chunks: readonly DraftWriteChunk[] }
  | { readonly type: 'copy-data'; readonly chunks: readonly DraftCopyChunk[] }
  | { readonly type: 'revoke'; readonly ranges: readonly DraftRevokeRange[] }
  /** Deduplication (4, 5), which the draft leaves open, or a type of nobody (JD13-DESC-008). */
  | { readonly type: 'unknown'; readonly number: number; readonly body: Uint8Array };

export interface DraftTransaction {
  readonly sequence: number;
  readonly descriptors: readonly DraftDescriptor[];
  /** The data blocks in one piece, a multiple of the block size; a view of what was decoded. */
  readonly data: Uint8Array;
}

/** Where a transaction stands: its ring, and the index of its descriptor block. */
export interface DraftPlace extends DraftGeometry {
  readonly blockIndex: number;
}

const headLayout = draftDescriptorBlockLayout;
const head = compileLayout(headLayout);
const writeChunk = compileLayout(draftWriteChunkLayout);
const copyChunk = compileLayout(draftCopyChunkLayout);
const revokeRange = compileLayout(draftRevokeRangeLayout);
const magic = 0x716a626b; // qjbk
const checksumAt = 4;
const descriptorHeadBytes = 4;
const maxDescriptorBytes = 0xffff;

/**
 * Sequence and number of data blocks, if this looks like a descriptor block: enough to walk the chain and to
 * know how much to read. Nothing is verified. Never throws.
 */
export function peekDraftBlock(
  block: Uint8Array,
): { readonly sequence: number; readonly dataBlockCount: number } | undefined {
  if (block.length < headLayout.sizeBytes) return undefined;
  const view = viewOf(block);
  if (view.getUint32(0) !== magic) return undefined;
  return { sequence: view.getUint32(8), dataBlockCount: view.getUint32(20) };
}

/**
 * The transaction in `bytes`: its descriptor block, then its data blocks (more may follow).
 *
 * @throws FormatError BAD_MAGIC, TRUNCATED, BAD_CHECKSUM, BAD_FIELD, OFFSET_TOO_LARGE, OVERLAP.
 */
export function decodeDraftTransaction(
  bytes: Uint8Array,
  context: FieldOrigin & DraftPlace,
): DraftTransaction {
  const { blockBytes } = context;
  if (bytes.length < blockBytes) throw truncated('a descriptor block', blockBytes, 'JD13-BLK-001', context);
  const block = bytes.subarray(0, blockBytes);
  const fields = head.decode(block, { hostOffset: context.hostOffset });
  const { dataBlockCount, descriptorsOffset, descriptorsLengthBytes } = fields;
  if (dataBlockCount > context.ringBlocks - 1) {
    const why = 'the transaction is longer than the ring';
    throw badField('dataBlockCount', dataBlockCount, 'JD13-BLK-006', context, 20, why);
  }
  const endOfData = (1 + dataBlockCount) * blockBytes;
  if (bytes.length < endOfData) throw truncated('a transaction', endOfData, 'JD13-RING-002', context);
  const data = bytes.subarray(blockBytes, endOfData);
  if (fields.checksum !== draftChecksum([block, data], checksumAt)) {
    throw new FormatError('BAD_CHECKSUM', 'the transaction does not match its checksum', {
      field: 'checksum',
      value: fields.checksum,
      clause: 'JD13-BLK-002',
      hostOffset: context.hostOffset + checksumAt,
    });
  }
  if (descriptorsOffset + descriptorsLengthBytes > blockBytes) {
    const why = 'the descriptors leave the block';
    throw badField('descriptorsLengthBytes', descriptorsLengthBytes, 'JD13-BLK-005', context, 16, why);
  }
  const run = block.subarray(descriptorsOffset, descriptorsOffset + descriptorsLengthBytes);
  const origin = { ...context, hostOffset: context.hostOffset + descriptorsOffset };
  return { sequence: fields.sequence, descriptors: decodeDescriptors(run, dataBlockCount, origin), data };
}

function decodeDescriptors(
  run: Uint8Array,
  dataBlockCount: number,
  context: FieldOrigin & DraftPlace,
): DraftDescriptor[] {
  const view = viewOf(run);
  const descriptors: DraftDescriptor[] = [];
  let at = 0;
  while (at < run.length) {
    const origin = { ...context, hostOffset: context.hostOffset + at };
    if (run.length - at < descriptorHeadBytes) {
      throw truncated('a descriptor', descriptorHeadBytes, 'JD13-DESC-002', origin);
    }
    const sizeBytes = view.getUint16(at + 2);
    if (sizeBytes < descriptorHeadBytes) {
      const why = 'a descriptor takes at least 4 bytes';
      throw badField('descriptorSizeBytes', sizeBytes, 'JD13-DESC-001', origin, 2, why);
    }
    if (sizeBytes > run.length - at) throw truncated('a descriptor', sizeBytes, 'JD13-DESC-002', origin);
    const body = run.subarray(at + descriptorHeadBytes, at + sizeBytes);
    descriptors.push(decodeBody(view.getUint16(at), body, dataBlockCount, origin));
    at += sizeBytes;
  }
  return descriptors;
}

/** `origin` is the descriptor's; the body begins four bytes behind it. */
function decodeBody(
  number: number,
  body: Uint8Array,
  dataBlockCount: number,
  context: FieldOrigin & DraftPlace,
): DraftDescriptor {
  const hostOffsetOfBody = context.hostOffset + descriptorHeadBytes;
  const origin = { ...context, hostOffset: hostOffsetOfBody };
  switch (number) {
    case draftJournal.noOp:
      return { type: 'no-op', body };
    case draftJournal.writeData: {
      const chunks = repetitions(body, draftWriteChunkLayout.sizeBytes, 'JD13-DESC-004', context).map(
        (at) => {
          const chunk = writeChunk.decode(body, { at, hostOffset: hostOffsetOfBody });
          checkRange(chunk.hostOffset, chunk.lengthBytes, origin, at);
          checkChunkData(chunk, dataBlockCount, origin, at);
          return { ...chunk, hostOffset: hostOffset(chunk.hostOffset) };
        },
      );
      return { type: 'write-data', chunks };
    }
    case draftJournal.copyData: {
      const chunks = repetitions(body, draftCopyChunkLayout.sizeBytes, 'JD13-DESC-006', context).map((at) => {
        const { lengthBytes, ...chunk } = copyChunk.decode(body, { at, hostOffset: hostOffsetOfBody });
        checkRange(chunk.targetHostOffset, lengthBytes, origin, at);
        checkRange(chunk.sourceHostOffset, lengthBytes, origin, at);
        checkDisjoint(chunk.targetHostOffset, chunk.sourceHostOffset, lengthBytes, origin, at);
        return {
          lengthBytes,
          targetHostOffset: hostOffset(chunk.targetHostOffset),
          sourceHostOffset: hostOffset(chunk.sourceHostOffset),
        };
      });
      return { type: 'copy-data', chunks };
    }
    case draftJournal.revoke: {
      const ranges = repetitions(body, draftRevokeRangeLayout.sizeBytes, 'JD13-DESC-007', context).map(
        (at) => {
          const range = revokeRange.decode(body, { at, hostOffset: hostOffsetOfBody });
          checkRange(range.hostOffset, range.lengthBytes, origin, at);
          return { ...range, hostOffset: hostOffset(range.hostOffset) };
        },
      );
      return { type: 'revoke', ranges };
    }
    default:
      return { type: 'unknown', number, body };
  }
}

/** Where each repetition begins in the body, which must hold whole ones only. */
function repetitions(body: Uint8Array, sizeBytes: number, clause: string, origin: FieldOrigin): number[] {
  if (body.length % sizeBytes !== 0) {
    const why = `the descriptor has no whole number of repetitions of ${sizeBytes} bytes`;
    throw badField('descriptorSizeBytes', body.length + descriptorHeadBytes, clause, origin, 2, why);
  }
  return Array.from({ length: body.length / sizeBytes }, (_, i) => i * sizeBytes);
}

function checkRange(start: number, lengthBytes: number, origin: FieldOrigin, at: number): void {
  if (isSafeRange(start, lengthBytes)) return;
  throw new FormatError('OFFSET_TOO_LARGE', 'the range ends beyond 2^53 - 1', {
    value: start,
    lengthBytes,
    clause: 'JD13-DESC-009',
    hostOffset: origin.hostOffset + at,
  });
}

function checkDisjoint(a: number, b: number, lengthBytes: number, origin: FieldOrigin, at: number): void {
  if (a >= b + lengthBytes || b >= a + lengthBytes) return;
  throw new FormatError('OVERLAP', 'source and target of a copy overlap', {
    lengthBytes,
    clause: 'JD13-DESC-006',
    hostOffset: origin.hostOffset + at,
  });
}

/** The chunk's bytes lie within the data blocks of its transaction (JD13-DESC-005). */
function checkChunkData(
  chunk: { readonly lengthBytes: number; readonly journalBlockIndex: number },
  dataBlockCount: number,
  context: FieldOrigin & DraftPlace,
  at: number,
): void {
  const dataBytes = dataBlockCount * context.blockBytes;
  const from = dataOffset(chunk.journalBlockIndex, context);
  if (chunk.journalBlockIndex <= context.ringBlocks && from + chunk.lengthBytes <= dataBytes) return;
  const why = 'the bytes are not within the data blocks of the transaction';
  throw badField('journalBlockIndex', chunk.journalBlockIndex, 'JD13-DESC-005', context, at + 12, why);
}

/** Where a block of the ring stands in the transaction's data, if it belongs to it. */
function dataOffset(journalBlockIndex: number, place: DraftPlace): number {
  const firstData = advanceDraftBlock(place.blockIndex, 1, place);
  const distance = (journalBlockIndex - firstData + place.ringBlocks) % place.ringBlocks;
  return distance * place.blockBytes;
}

/** The bytes that a chunk of a decoded transaction writes: a view of its data. */
export function draftChunkBytes(
  transaction: DraftTransaction,
  chunk: DraftWriteChunk,
  place: DraftPlace,
): Uint8Array {
  const from = dataOffset(chunk.journalBlockIndex, place);
  return transaction.data.subarray(from, from + chunk.lengthBytes);
}

/**
 * Descriptor block and data blocks in one piece, checksum included; a new buffer. The blocks go to the ring
 * one by one, from `place.blockIndex` on.
 *
 * @throws InvariantError where the descriptors do not fit their block or the data is no whole number of blocks.
 * @throws FormatError where a chunk's value is out of its range or its data outside the transaction.
 */
export function encodeDraftTransaction(transaction: DraftTransaction, place: DraftPlace): Uint8Array {
  const { blockBytes } = place;
  const dataBlockCount = transaction.data.length / blockBytes;
  const encoded = transaction.descriptors.map((descriptor) =>
    encodeDescriptor(descriptor, dataBlockCount, place),
  );
  const descriptorsLengthBytes = encoded.reduce((sum, piece) => sum + piece.length, 0);
  const { descriptorsOffset } = draftJournal;
  if (descriptorsOffset + descriptorsLengthBytes > blockBytes) {
    throw new InvariantError('the descriptors do not fit one block', { lengthBytes: descriptorsLengthBytes });
  }
  if (!Number.isInteger(dataBlockCount) || dataBlockCount > place.ringBlocks - 1) {
    throw new InvariantError('data are whole blocks, fewer than the ring has', {
      lengthBytes: transaction.data.length,
    });
  }
  const bytes = new Uint8Array(blockBytes + transaction.data.length);
  const { sequence } = transaction;
  head.encode(
    { magic, checksum: 0, sequence, descriptorsOffset, descriptorsLengthBytes, dataBlockCount },
    bytes,
  );
  let at: number = descriptorsOffset;
  for (const piece of encoded) {
    bytes.set(piece, at);
    at += piece.length;
  }
  bytes.set(transaction.data, blockBytes);
  viewOf(bytes).setUint32(checksumAt, draftChecksum([bytes], checksumAt));
  return bytes;
}

function encodeDescriptor(
  descriptor: DraftDescriptor,
  dataBlockCount: number,
  place: DraftPlace,
): Uint8Array {
  switch (descriptor.type) {
    case 'no-op':
      return withHead(draftJournal.noOp, [descriptor.body]);
    case 'unknown':
      return withHead(descriptor.number, [descriptor.body]);
    case 'write-data':
      for (const chunk of descriptor.chunks)
        checkChunkData(chunk, dataBlockCount, { ...place, hostOffset: 0 }, 0);
      return withHead(
        draftJournal.writeData,
        descriptor.chunks.map((chunk) => writeChunk.encode(chunk)),
      );
    case 'copy-data':
      return withHead(
        draftJournal.copyData,
        descriptor.chunks.map((chunk) => copyChunk.encode(chunk)),
      );
    case 'revoke':
      return withHead(
        draftJournal.revoke,
        descriptor.ranges.map((range) => revokeRange.encode(range)),
      );
  }
}

function withHead(number: number, pieces: readonly Uint8Array[]): Uint8Array {
  const sizeBytes = descriptorHeadBytes + pieces.reduce((sum, piece) => sum + piece.length, 0);
  if (sizeBytes > maxDescriptorBytes) {
    throw new InvariantError('a descriptor takes at most 65,535 bytes', { lengthBytes: sizeBytes });
  }
  const bytes = new Uint8Array(sizeBytes);
  const view = viewOf(bytes);
  view.setUint16(0, number);
  view.setUint16(2, sizeBytes);
  let at = descriptorHeadBytes;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
