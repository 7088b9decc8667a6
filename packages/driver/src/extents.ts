/** What a guest range is made of: data, zeros, or nothing of the image's own. */
import { type Extent, pushExtent, type Task } from '@qcow2/block-device';
import { clusterKind } from '@qcow2/codec';
import type { GuestOverlay } from './guest-overlay.ts';
import type { ImageCore } from './image-core.ts';
import type { Mapping, MappingTable } from './mapping.ts';
import type { PendingClusters } from './pending-clusters.ts';
import { kindRuns } from './sub-clusters.ts';

/** @param held what is not found through the mapping yet */
export function* guestExtents(
  core: ImageCore,
  mappings: MappingTable,
  held: { readonly overlay: GuestOverlay; readonly pending: PendingClusters },
  offset: number,
  lengthBytes: number,
): Task<readonly Extent[]> {
  const { overlay, pending } = held;
  const extents: Extent[] = [];
  for (let done = 0; done < lengthBytes; ) {
    const at = offset + done;
    const inCluster = at % core.clusterBytes;
    const guestCluster = (at - inCluster) / core.clusterBytes;
    const length = Math.min(lengthBytes - done, core.clusterBytes - inCluster);
    const mapping = yield* mappings.lookup(guestCluster);
    const isHeld = overlay.get(guestCluster) !== undefined || pending.get(guestCluster) !== undefined;
    if (isHeld) pushExtent(extents, { offset: at, lengthBytes: length, kind: 'data' });
    else yield* pushMapped(extents, core, mapping, at, length);
    done += length;
  }
  return extents;
}

/** A range of one cluster, below what is held. */
function* pushMapped(
  extents: Extent[],
  { data, clusterBytes }: ImageCore,
  mapping: Mapping,
  offset: number,
  lengthBytes: number,
): Task<void> {
  const inCluster = offset % clusterBytes;
  for (const run of kindRuns(mapping, clusterBytes, inCluster, inCluster + lengthBytes)) {
    const end = offset + run.end - inCluster;
    const kind = extentKind(run.kind);
    for (let at = offset + run.start - inCluster; at < end; ) {
      const known = kind === 'data' ? yield* data.extents(at, end - at) : undefined;
      const plain: Extent = { offset: at, lengthBytes: end - at, kind };
      const here: Extent = mapping.compressed === undefined ? plain : { ...plain, compressed: true };
      for (const extent of known === undefined || known.length === 0 ? [here] : known) {
        pushExtent(extents, extent);
        at += extent.lengthBytes;
      }
    }
  }
}

function extentKind(kind: number): Extent['kind'] {
  if (kind === clusterKind.unallocated || kind === clusterKind.preallocated) return 'hole';
  return kind === clusterKind.zeroPlain || kind === clusterKind.zeroAllocated ? 'zero' : 'data';
}
