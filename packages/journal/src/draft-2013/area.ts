/**
 * The journal of the profile draft-2013 on disk: its one header block, and the ring behind it.
 *
 * Crash argument. The header is overwritten in place at every commit. All that it says stands in its first 512
 * bytes, so only these are written: one sector, which storage keeps or loses as a whole, however large the block
 * is. A new journal is written whole and flushed before anything refers to it.
 */
import { type BlockDevice, isPromise, type Task, wait } from '@qcow2/block-device';
import {
  type DraftJournalHeader,
  decodeDraftHeader,
  draftGeometry,
  encodeDraftHeader,
} from '@qcow2/codec/journal/draft-2013';
import { FormatError } from '@qcow2/spec';
import type { RingGeometry } from '../ring.ts';

/** A draft journal that was found: where it stands and what its header says. */
export interface DraftArea {
  readonly hostOffset: number;
  readonly header: DraftJournalHeader;
  /** The bytes of the header block, of which a writer changes the first sector. */
  readonly headerBlock: Uint8Array;
  readonly ring: RingGeometry;
}

const sectorBytes = 512;
const checksumAt = 28;
/** The largest block of the draft: no header is longer. */
const maxHeaderBytes = 2 ** 21;

/**
 * The journal whose header stands at a host offset.
 * @throws FormatError for a header that is none; OUT_OF_RANGE is never asked of the device
 */
export function* readDraftArea(
  device: BlockDevice,
  hostOffset: number,
  clusterBytes: number,
): Task<DraftArea> {
  const available = Math.max(0, device.sizeBytes - hostOffset);
  const head = new Uint8Array(Math.min(clusterBytes, maxHeaderBytes, available));
  yield* wait(device.read(hostOffset, head, { event: 'journal_replay_read' }));
  const header = decodeDraftHeader(head, { hostOffset, clusterBytes });
  const { blockBytes } = draftGeometry(header);
  if (header.journalLengthBytes > available) {
    throw new FormatError('TRUNCATED', 'the journal reaches beyond the end of the file', {
      hostOffset: hostOffset + 8,
      field: 'journalLengthBytes',
      value: header.journalLengthBytes,
      clause: 'JD13-BIND-004',
    });
  }
  return { hostOffset, header, headerBlock: head.slice(0, blockBytes), ring: draftRing(hostOffset, header) };
}

/** The blocks behind the header, as a ring whose position 0 is block 1. */
export function draftRing(hostOffset: number, header: DraftJournalHeader): RingGeometry {
  const { blockBytes, ringBlocks } = draftGeometry(header);
  return { hostOffset: hostOffset + blockBytes, lengthBytes: ringBlocks * blockBytes, blockBytes };
}

/** The block index of a log offset, counted as the draft counts: 1 is the block behind the header. */
export function blockIndexAt(ring: RingGeometry, logOffset: number): number {
  return (logOffset % ring.lengthBytes) / ring.blockBytes + 1;
}

/** The area with another header, whose block is a new buffer. What else stands in the block stays, and counts in the sum. */
export function withHeader(area: DraftArea, header: DraftJournalHeader): DraftArea {
  const encoded = encodeDraftHeader(header);
  const headerBlock = area.headerBlock.slice();
  headerBlock.set(encoded.subarray(0, sectorBytes));
  // Bytes behind the first sector are not ours to change; the checksum is their sum too (JD13-HDR-008).
  const view = new DataView(headerBlock.buffer);
  let sum = ~view.getUint32(checksumAt) >>> 0;
  for (let i = sectorBytes; i < headerBlock.length; i++) sum = (sum + headerBlock[i]!) >>> 0;
  view.setUint32(checksumAt, ~sum >>> 0);
  return { ...area, header, headerBlock };
}

/** Write the header's sector. Not durable on return. */
export function* writeDraftHeader(device: BlockDevice, area: DraftArea): Task<void> {
  const sector = area.headerBlock.subarray(0, sectorBytes);
  const done = device.write(area.hostOffset, sector, { event: 'journal_header' });
  if (isPromise(done)) yield done;
}

/**
 * Write a new, empty journal over the range: every byte of it, so that later flushes never make the host file
 * system allocate. Durable on return.
 */
export function* formatDraftArea(
  device: BlockDevice,
  location: { readonly hostOffset: number; readonly lengthBytes: number },
  blockBytes: number,
): Task<DraftArea> {
  const { hostOffset, lengthBytes } = location;
  const zeros = new Uint8Array(Math.min(lengthBytes, 1 << 20));
  for (let at = 0; at < lengthBytes; at += zeros.length) {
    const piece = zeros.subarray(0, Math.min(zeros.length, lengthBytes - at));
    yield* wait(device.write(hostOffset + at, piece, { event: 'journal_init' }));
  }
  const header: DraftJournalHeader = {
    journalLengthBytes: lengthBytes,
    blockSizeOrder: Math.log2(blockBytes),
    syncedIndex: 0,
    syncedSequence: 0,
    committedSequence: 0,
  };
  const area = {
    hostOffset,
    header,
    headerBlock: encodeDraftHeader(header),
    ring: draftRing(hostOffset, header),
  };
  yield* writeDraftHeader(device, area);
  yield* wait(device.flush({ event: 'journal_flush' }));
  return area;
}
