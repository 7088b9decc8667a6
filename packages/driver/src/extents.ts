/** What a guest range is made of: data, zeros, or nothing of the image's own; and where that stands. */
import { type ByteOrigin, type Extent, pushExtent, type Task } from '@qcow2/block-device';
import { clusterKind } from '@qcow2/codec';
import type { GuestOverlay } from './guest-overlay.ts';
import type { ImageCore } from './image-core.ts';
import type { Mapping, MappingTable } from './mapping.ts';
import type { PendingClusters } from './pending-clusters.ts';
import { kindRuns } from './sub-clusters.ts';

/** An extent, and the place of its bytes. */
export interface PlacedExtent extends Extent {
  /**
   * Where in the image file, or in its data file, the range stands byte for byte: of data, and of what reads as zeros, or as nothing, but has
   * a place. Undefined where it has none, is compressed, encrypted, or not written out yet.
   */
  readonly hostOffset?: number;
}

/** What a guest range is made of, neighbours of one kind merged. @param held what is not found through the mapping yet */
export function* guestExtents(
  core: ImageCore,
  mappings: MappingTable,
  held: { readonly overlay: GuestOverlay; readonly pending: PendingClusters },
  offset: number,
  lengthBytes: number,
): Task<readonly Extent[]> {
  const extents: Extent[] = [];
  for (const { hostOffset: _, ...extent } of yield* placedExtents(core, mappings, held, offset, lengthBytes))
    pushExtent(extents, extent);
  return extents;
}

/** As `guestExtents`, cut also where places do not follow each other. */
export function* placedExtents(
  core: ImageCore,
  mappings: MappingTable,
  held: { readonly overlay: GuestOverlay; readonly pending: PendingClusters },
  offset: number,
  lengthBytes: number,
): Task<readonly PlacedExtent[]> {
  const { overlay, pending } = held;
  const extents: PlacedExtent[] = [];
  const end = offset + lengthBytes;
  for (let at = offset; at < end; ) {
    const inCluster = at % core.clusterBytes;
    const guestCluster = (at - inCluster) / core.clusterBytes;
    const unmapped = pending.isEmpty && overlay.isEmpty ? unmappedBytes(core, mappings, guestCluster) : 0;
    if (unmapped > 0) {
      const length = Math.min(end - at, unmapped - inCluster);
      pushPlaced(extents, { offset: at, lengthBytes: length, kind: 'hole' });
      at += length;
      continue;
    }
    const length = Math.min(end - at, core.clusterBytes - inCluster);
    const mapping = yield* mappings.lookup(guestCluster);
    const isHeld = overlay.get(guestCluster) !== undefined || pending.get(guestCluster) !== undefined;
    if (isHeld) pushPlaced(extents, { offset: at, lengthBytes: length, kind: 'data' });
    else yield* pushMapped(extents, core, mapping, at, length);
    at += length;
  }
  return extents;
}

/** Where the beginning of a guest range stands one for one, in the image's file, its data file, or the backing file; see `BlockDevice.origin`. */
export function* guestOrigin(
  core: ImageCore,
  mappings: MappingTable,
  held: { readonly overlay: GuestOverlay; readonly pending: PendingClusters },
  offset: number,
  lengthBytes: number,
): Task<ByteOrigin | undefined> {
  const [first] = yield* placedExtents(core, mappings, held, offset, lengthBytes);
  // What the log is still to bring in stands elsewhere.
  if (first === undefined || !core.fills.isEmpty) return undefined;
  if (first.kind === 'data') {
    return first.hostOffset === undefined ? undefined : core.data.origin(first.hostOffset, first.lengthBytes);
  }
  const { backing } = core;
  const inBacking = Math.min(first.lengthBytes, (backing?.sizeBytes ?? 0) - offset);
  if (first.kind !== 'hole' || backing === undefined || inBacking <= 0) return undefined;
  return { device: backing, offset, lengthBytes: inBacking };
}

/** Bytes from a cluster's start on that no L2 table maps, up to where the next table would take over; a whole table at a time. */
function unmappedBytes(core: ImageCore, mappings: MappingTable, guestCluster: number): number {
  if (mappings.l2TableOffset(guestCluster) !== 0) return 0;
  return (core.l2Entries - (guestCluster % core.l2Entries)) * core.clusterBytes;
}

/** A range of one cluster, below what is held. */
function* pushMapped(
  extents: PlacedExtent[],
  { data, clusterBytes, header }: ImageCore,
  mapping: Mapping,
  offset: number,
  lengthBytes: number,
): Task<void> {
  const inCluster = offset % clusterBytes;
  const clusterStart = offset - inCluster;
  // A sector of cipher text is not the guest's byte for byte.
  const tellsPlace = header.cryptMethod === 0 && hasPlace(mapping, data.isExternal);
  for (const run of kindRuns(mapping, clusterBytes, inCluster, inCluster + lengthBytes)) {
    const end = clusterStart + run.end;
    const kind = extentKind(run.kind);
    for (let at = clusterStart + run.start; at < end; ) {
      const known = kind === 'data' ? yield* data.extents(at, end - at) : undefined;
      const plain: Extent = { offset: at, lengthBytes: end - at, kind };
      const here: Extent = mapping.compressed === undefined ? plain : { ...plain, compressed: true };
      for (const extent of known === undefined || known.length === 0 ? [here] : known) {
        const hostOffset = mapping.hostOffset + (at - clusterStart);
        pushPlaced(extents, tellsPlace ? { ...extent, hostOffset } : extent);
        at += extent.lengthBytes;
      }
    }
  }
}

/**
 * In a data file 0 is a place like any other, and a cluster that has its place there has it alone. But who asks for places expects
 * what QEMU says, and to QEMU a standard cluster of zeros at 0 has none.
 */
function hasPlace({ kind, exclusive, hostOffset, subclusters }: Mapping, isExternal: boolean): boolean {
  if (!isExternal) return hostOffset > 0;
  const isToldOf = hostOffset > 0 || kind !== clusterKind.zeroAllocated || subclusters !== undefined;
  return exclusive && isToldOf;
}

/** Merged with the last one where kind and place go on. */
function pushPlaced(extents: PlacedExtent[], next: PlacedExtent): void {
  const last = extents.at(-1);
  const goesOn =
    last !== undefined &&
    last.kind === next.kind &&
    last.compressed === next.compressed &&
    (last.hostOffset === undefined ? undefined : last.hostOffset + last.lengthBytes) === next.hostOffset;
  if (!goesOn) extents.push(next);
  else extents[extents.length - 1] = { ...last, lengthBytes: last.lengthBytes + next.lengthBytes };
}

function extentKind(kind: number): Extent['kind'] {
  if (kind === clusterKind.unallocated || kind === clusterKind.preallocated) return 'hole';
  return kind === clusterKind.zeroPlain || kind === clusterKind.zeroAllocated ? 'zero' : 'data';
}
