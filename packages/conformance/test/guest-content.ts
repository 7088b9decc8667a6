/**
 * The disk that a guest sees, read out of a walked image the slow and plain way: what the mapping clauses
 * say, cluster by cluster, with Node's own decompression and ciphers. To compare with what QEMU read.
 */
import { inflateRawSync, zstdDecompressSync } from 'node:zlib';
import {
  classifyL2Entry,
  classifySubcluster,
  clusterKind,
  l2EntriesPerTable,
  l2EntryBytes,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryOffset,
} from '@qcow2/codec';
import { compressionTypes } from '@qcow2/spec';
import type { ImageWalk, Mapping } from '../src/image-walk.ts';

export interface GuestSources {
  /** The image file. */
  readonly bytes: Uint8Array;
  /** The external data file, where the image has one. */
  readonly data?: Uint8Array | undefined;
  /** The disk of the backing file. */
  readonly backing?: Uint8Array | undefined;
  /** Decrypts a 512-byte sector in place. */
  readonly decrypt?: ((sector: Uint8Array, hostOffset: number, guestOffset: number) => void) | undefined;
}

const subclusters = 32;

export function readGuest(
  walk: ImageWalk,
  mapping: Mapping,
  sizeBytes: number,
  sources: GuestSources,
): Uint8Array {
  const { clusterBytes, l2Format } = walk;
  const guest = new Uint8Array(Math.ceil(sizeBytes / clusterBytes) * clusterBytes);
  guest.set((sources.backing ?? new Uint8Array()).subarray(0, sizeBytes));
  const perTable = l2EntriesPerTable(l2Format);
  for (const [l1Index, table] of mapping.l2) {
    for (let index = 0; index < perTable; index++) {
      const guestOffset = (l1Index * perTable + index) * clusterBytes;
      if (guestOffset >= guest.length) break;
      const at = index * l2EntryBytes(l2Format);
      readCluster(
        walk,
        sources,
        table.view,
        at,
        guest.subarray(guestOffset, guestOffset + clusterBytes),
        guestOffset,
      );
    }
  }
  return guest.subarray(0, sizeBytes);
}

function readCluster(
  walk: ImageWalk,
  sources: GuestSources,
  view: DataView,
  at: number,
  into: Uint8Array,
  guestOffset: number,
): void {
  const kind = classifyL2Entry(view, at, walk.l2Format);
  if (kind === clusterKind.compressed) {
    into.set(decompress(walk, sources.bytes, view, at));
    return;
  }
  const hostOffset = readEntryOffset(view, at);
  if (!walk.l2Format.extended) {
    readPart(sources, kind, hostOffset, into, guestOffset);
    return;
  }
  const partBytes = walk.clusterBytes / subclusters;
  for (let n = 0; n < subclusters; n++) {
    const part = into.subarray(n * partBytes, (n + 1) * partBytes);
    const partKind = classifySubcluster(view, at, n);
    readPart(sources, partKind, hostOffset + n * partBytes, part, guestOffset + n * partBytes);
  }
}

/** A cluster or sub-cluster of one kind. What is unallocated keeps what the backing file put there. */
function readPart(
  sources: GuestSources,
  kind: number,
  hostOffset: number,
  into: Uint8Array,
  guestOffset: number,
): void {
  if (kind === clusterKind.zeroPlain || kind === clusterKind.zeroAllocated) into.fill(0);
  if (kind !== clusterKind.standard) return;
  into.fill(0);
  into.set((sources.data ?? sources.bytes).subarray(hostOffset, hostOffset + into.length));
  if (sources.decrypt === undefined) return;
  for (let at = 0; at < into.length; at += 512) {
    sources.decrypt(into.subarray(at, at + 512), hostOffset + at, guestOffset + at);
  }
}

function decompress(walk: ImageWalk, bytes: Uint8Array, view: DataView, at: number): Uint8Array {
  const { clusterBits, compressionType } = walk.header;
  const offset = readCompressedOffset(view, at, clusterBits);
  const packed = bytes.subarray(offset, offset + readCompressedLengthBytes(view, at, clusterBits));
  // What follows the data in its last sector is the beginning of the next cluster, which Node would decompress too.
  const cluster =
    compressionType === compressionTypes.zstd
      ? zstdDecompressSync(packed.subarray(0, zstdFrameBytes(packed)))
      : inflateRawSync(packed);
  return cluster.subarray(0, walk.clusterBytes);
}

/** Length of the zstd frame that begins here (RFC 8878, section 3.1.1), from its headers alone. */
function zstdFrameBytes(packed: Uint8Array): number {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const descriptor = view.getUint8(4);
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >>> 6] ?? 0;
  let at = 5 + (isSingleSegment ? 0 : 1) + dictionaryBytes + sizeBytes;
  let isLast = false;
  while (!isLast) {
    const head = view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
    isLast = (head & 1) !== 0;
    const isRunLength = ((head >>> 1) & 3) === 1;
    at += 3 + (isRunLength ? 1 : head >>> 3);
  }
  return at + ((descriptor & 4) === 0 ? 0 : 4);
}
