/** What a guest range is made of: data, zeros, or nothing of the image's own. */
import { type Extent, pushExtent, type Task } from '@qcow2/block-device';
import { clusterKind } from '@qcow2/codec';
import type { GuestOverlay } from './guest-overlay.ts';
import type { ImageCore } from './image-core.ts';
import type { MappingTable } from './mapping.ts';
import type { PendingClusters } from './pending-clusters.ts';

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
    const kind = isHeld ? 'data' : extentKind(mapping.kind);
    const known = kind === 'data' && !isHeld ? yield* core.data.extents(at, length) : undefined;
    const plain: Extent = { offset: at, lengthBytes: length, kind };
    const here: Extent = mapping.compressed === undefined || isHeld ? plain : { ...plain, compressed: true };
    for (const extent of known === undefined || known.length === 0 ? [here] : known) {
      pushExtent(extents, extent);
      done += extent.lengthBytes;
    }
  }
  return extents;
}

function extentKind(kind: number): Extent['kind'] {
  if (kind === clusterKind.unallocated) return 'hole';
  return kind === clusterKind.zeroPlain || kind === clusterKind.zeroAllocated ? 'zero' : 'data';
}
