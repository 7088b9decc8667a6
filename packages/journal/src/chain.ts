/**
 * The chain of live records: what the next one is, where there is none, and what says that the end is damage.
 *
 * Two readers follow it. Recovery believes what it finds and refuses what it must not believe; inspection
 * shows the same to people. Both ask here, so that what is shown is what recovery would do.
 *
 * Nothing is written, and nothing is held but the ring reader's window and one record.
 */
import type { Task } from '@qcow2/block-device';
import {
  type ChainEnd,
  decodeVerifiedRecord,
  follows,
  type JournalDescriptor,
  type JournalRecord,
  type JournalSlot,
  maxRecordBlocks,
  peekRecordHeader,
  type RecordHeader,
  verifyRecord,
} from '@qcow2/codec/journal/v1';
import {
  FormatError,
  hostOffset,
  journalV1Limits,
  type Qcow2Error,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import { type AreaLocation, damaged } from './area.ts';
import { maxUnclaimedBytes } from './log-space.ts';
import type { RingGeometry, RingReader } from './ring.ts';

/**
 * Why no record continues the chain:
 * - `full`: the live records fill the ring;
 * - `no-record`: no record header stands there;
 * - `other-record`: a header stands there that does not continue the chain (of an earlier lap, or of a life
 *   that was abandoned);
 * - `torn`: the next record's header stands there, and the record is not whole.
 */
export type ChainStop = 'full' | 'no-record' | 'other-record' | 'torn';

/** A record that continues the chain and whose checksum is right; or why there is none. */
export type NextRecord =
  | {
      readonly header: RecordHeader;
      /** The whole record; the ring reader's own until its next read. */
      readonly bytes: Uint8Array;
    }
  | { readonly stop: ChainStop };

/** @param roomBytes what of the ring the chain has not used yet */
export function* readNext(
  reader: RingReader,
  ring: RingGeometry,
  end: ChainEnd,
  roomBytes: number,
): Task<NextRecord> {
  if (roomBytes < ring.blockBytes) return { stop: 'full' };
  const position = end.endPosition;
  const head = peekRecordHeader(yield* reader.read(position, ring.blockBytes), 0);
  // Everything that costs nothing is asked before the checksum is computed over the record's own length.
  if (head === undefined) return { stop: 'no-record' };
  if (!follows(end, head)) return { stop: 'other-record' };
  if (!fits(head.lengthBlocks, ring, roomBytes)) return { stop: 'torn' };
  const bytes = yield* reader.read(position, head.lengthBlocks * ring.blockBytes);
  const header = verifyRecord(bytes, limitsOf(ring));
  return header === undefined ? { stop: 'torn' } : { header, bytes };
}

/**
 * What a verified record says. Valid, so written like this: what does not decode now is not a crash's doing
 * [JRN-RECOV-005].
 * @throws FormatError for a clause that the record breaks
 */
export function decodeNext(ring: RingGeometry, header: RecordHeader, bytes: Uint8Array): JournalRecord {
  const at = hostOffset(ring.hostOffset + header.position);
  return decodeVerifiedRecord(bytes, header, { hostOffset: at, ...limitsOf(ring) });
}

/**
 * Refuse what a record of the chain must not ask for.
 * @throws OVERLAP for a write into the journal itself [JRN-DESC-013]; UNSUPPORTED_FEATURE for a descriptor
 *   that is not served [JRN-DESC-002]
 */
export function refuseRecord(
  record: JournalRecord,
  area: AreaLocation,
  ring: RingGeometry,
  fileBytes: number,
): void {
  const at = ring.hostOffset + record.position;
  for (const descriptor of record.descriptors) {
    refuseArea(descriptor, record.sequence, at, area);
    refuseFarWrite(descriptor, record.sequence, at, fileBytes);
    refuseDescriptor(descriptor, record.sequence, at);
  }
}

function refuseArea(descriptor: JournalDescriptor, sequence: number, at: number, area: AreaLocation): void {
  const range = writtenRange(descriptor);
  if (range === undefined) return;
  const areaEnd = area.hostOffset + area.lengthBytes;
  if (range.start >= areaEnd || range.start + range.lengthBytes <= area.hostOffset) return;
  throw new FormatError('OVERLAP', `journal record ${sequence} writes into the journal`, {
    hostOffset: at,
    value: range.start,
    clause: 'JRN-DESC-013',
  });
}

/**
 * What a record changes stood in the file when it was appended. No cluster is larger than 2 MiB, so a file that
 * lacks the rest of its last one lacks no more.
 */
function refuseFarWrite(
  descriptor: JournalDescriptor,
  sequence: number,
  at: number,
  fileBytes: number,
): void {
  const range = writtenRange(descriptor);
  if (range === undefined) return;
  if (range.start + range.lengthBytes <= fileBytes + 2 ** journalV1Limits.maxBlockSizeOrder) return;
  throw new FormatError('BAD_FIELD', `journal record ${sequence} writes far behind the end of the file`, {
    hostOffset: at,
    field: 'hostOffset',
    value: range.start,
    clause: 'JRN-DESC-029',
  });
}

/** What of the image file the descriptor changes. */
function writtenRange(descriptor: JournalDescriptor): { start: number; lengthBytes: number } | undefined {
  switch (descriptor.type) {
    case 'inline-write':
      return { start: descriptor.hostOffset, lengthBytes: descriptor.bytes.length };
    case 'write-payload':
      return { start: descriptor.hostOffset, lengthBytes: descriptor.lengthBytes };
    case 'copy':
    case 'fill-from-backing':
      return { start: descriptor.targetHostOffset, lengthBytes: descriptor.lengthBytes };
    default:
      return undefined;
  }
}

/**
 * Refuse copies and fills, for a client that does not carry them out.
 * @throws UNSUPPORTED_FEATURE [JRN-DESC-002]
 */
export function refuseCopies(record: JournalRecord, ring: RingGeometry): void {
  const found = record.descriptors.find(({ type }) => type === 'copy' || type === 'fill-from-backing');
  if (found !== undefined) throw notServed(found.type, record.sequence, ring.hostOffset + record.position);
}

const served: ReadonlySet<JournalDescriptor['type']> = new Set([
  'inline-write',
  'write-payload',
  'revoke',
  'copy',
  'fill-from-backing',
  'guest-write',
  'guest-settled',
  'intent',
  'intent-done',
  'no-op',
]);
const firstIgnorable = 0x8000;

function refuseDescriptor(descriptor: JournalDescriptor, sequence: number, at: number): void {
  if (served.has(descriptor.type)) return;
  if (descriptor.type === 'unknown' && descriptor.number >= firstIgnorable) return;
  const name = descriptor.type === 'unknown' ? `type ${descriptor.number}` : descriptor.type;
  throw notServed(name, sequence, at);
}

function notServed(name: string, sequence: number, at: number): UnsupportedFeatureError {
  const message = `journal record ${sequence} holds a descriptor that is not supported`;
  const context = { feature: `journal descriptor ${name}`, hostOffset: at, clause: 'JRN-DESC-002' };
  return new UnsupportedFeatureError('UNSUPPORTED_FEATURE', message, context);
}

/**
 * Go through the valid records that begin in the ring outside the chain, block by block from its end on.
 *
 * @param reachBytes how far behind the end to look; at most what of the ring the chain does not use
 * @param wanted asked before the checksum is computed
 * @param found called for each valid one, with where it begins behind the end; true ends the search
 */
export function* searchOutside(
  reader: RingReader,
  ring: RingGeometry,
  end: ChainEnd,
  reachBytes: number,
  wanted: (header: RecordHeader) => boolean,
  found: (header: RecordHeader, behindBytes: number) => boolean,
): Task<void> {
  for (let behind = 0; behind < reachBytes; behind += ring.blockBytes) {
    const position = (end.endPosition + behind) % ring.lengthBytes;
    const block = yield* reader.read(position, ring.blockBytes);
    // Most blocks hold no header, and there may be a hundred thousand: the first byte (of `qjr1`) tells.
    if (block[0] !== 0x71) continue;
    const head = peekRecordHeader(block, 0);
    if (head === undefined || head.position !== position || !wanted(head)) continue;
    if (!fits(head.lengthBlocks, ring, ring.lengthBytes)) continue;
    const bytes = yield* reader.read(position, head.lengthBlocks * ring.blockBytes);
    const header = verifyRecord(bytes, limitsOf(ring));
    if (header !== undefined && found(header, behind)) return;
  }
}

/** What of the ring a chain uses, from the tail on. */
export interface ChainUse {
  readonly usedBytes: number;
  /** Up to the end of the record that the ruling slot calls durable. */
  readonly claimedBytes: number;
  /** Up to where its last record begins; 0 for a chain without records. */
  readonly lastBeginBytes: number;
}

/**
 * Within how many bytes behind the chain's end a record may begin that was appended after the missing one: no
 * farther than records begin behind what the ruling slot calls durable. A writer that did not keep to that shows it by
 * the live records; then anywhere.
 */
export function searchReach(ring: RingGeometry, use: ChainUse): number {
  const { usedBytes, claimedBytes, lastBeginBytes } = use;
  const rest = ring.lengthBytes - usedBytes;
  const limit = claimedBytes + maxUnclaimedBytes(ring);
  return lastBeginBytes >= limit ? rest : Math.min(rest, Math.max(0, limit - usedBytes));
}

/** Whether a valid record outside the chain knows that the one expected at its end was durable. [JRN-RECOV-007] */
export function contradicts(end: ChainEnd, outside: RecordHeader): boolean {
  const missing = end.sequence + 1;
  return (
    outside.journalId === end.journalId && outside.sequence > missing && outside.durableThrough >= missing
  );
}

/** The damage that the ruling slot proves: it knows that the missing record was durable. [JRN-RECOV-006] */
export function damageBySlot(ring: RingGeometry, slot: JournalSlot, end: ChainEnd): Qcow2Error | undefined {
  const missing = end.sequence + 1;
  if (slot.durableSequence < missing) return undefined;
  const message = `journal record ${missing} was durable and can not be read`;
  return damaged(ring.hostOffset + end.endPosition, message, 'JRN-RECOV-006');
}

/** The damage that `witness` proves, a record that `contradicts` the end. */
export function damageByRecord(ring: RingGeometry, end: ChainEnd, witness: RecordHeader): Qcow2Error {
  const missing = end.sequence + 1;
  const message = `journal record ${missing} was durable, as record ${witness.sequence} knows, and can not be read`;
  return damaged(ring.hostOffset + end.endPosition, message, 'JRN-RECOV-007');
}

function limitsOf(ring: RingGeometry): { blockBytes: number; maxBlocks: number } {
  return { blockBytes: ring.blockBytes, maxBlocks: maxRecordBlocks(ring.lengthBytes, ring.blockBytes) };
}

function fits(lengthBlocks: number, ring: RingGeometry, roomBytes: number): boolean {
  const { blockBytes, maxBlocks } = limitsOf(ring);
  return lengthBlocks >= 1 && lengthBlocks <= maxBlocks && lengthBlocks * blockBytes <= roomBytes;
}
